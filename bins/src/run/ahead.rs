//! The next step's batch, read by another thread while a step is computed.

use std::thread;

use fathom_dataprep::{Loader, TokenBatch};

/// The sequences that a rank reads for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// The first sequence of the whole batch.
    pub first: u64,
    /// Sequences of a micro-batch.
    pub micro: usize,
    /// Micro-batches of a rank.
    pub rounds: usize,
    /// The rank.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
}

impl Rows {
    /// Their numbers in the run. Micro-batches go round the ranks, so that each round brings consecutive ones.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u64> {
        let Self { first, micro, rounds, rank, world } = self;
        let sequence = move |row: usize| (row / micro * world + rank) * micro + row % micro;
        (0..rounds * micro).map(move |row| first.saturating_add(sequence(row) as u64))
    }
}

/// A batch that was read before its step.
#[derive(Default)]
pub(super) struct Ahead {
    /// What `batch` holds, if it holds something.
    rows: Option<Rows>,
    batch: TokenBatch,
}

impl Ahead {
    /// Gives `batch` the sequences `rows` if these were read; its memory is used again.
    pub fn take(&mut self, rows: Rows, batch: &mut TokenBatch) -> bool {
        let ready = self.rows.take() == Some(rows);
        if ready {
            std::mem::swap(batch, &mut self.batch);
        }
        ready
    }

    /// Does `work` in this thread while another reads the sequences `next`. A failure is forgotten, and so is a batch
    /// that is not asked for: reading changes nothing. `waits` is called where the work is done before the data is
    /// there.
    pub fn read<T>(
        &mut self,
        loader: &Loader,
        next: Option<Rows>,
        work: impl FnOnce() -> T,
        waits: impl FnOnce(),
    ) -> T {
        let batch = &mut self.batch;
        let (done, read) = thread::scope(|scope| {
            let reader = next.map(|rows| {
                let read = move || loader.fill_sequences(rows.iter(), batch).ok().map(|()| rows);
                thread::Builder::new().name("next batch".into()).spawn_scoped(scope, read)
            });
            let done = work();
            if reader.as_ref().is_some_and(|reader| reader.as_ref().is_ok_and(|reader| !reader.is_finished())) {
                waits();
            }
            // A system without threads left reads when the batch is needed.
            (done, reader.and_then(|reader| reader.ok()?.join().ok()?))
        });
        self.rows = read;
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_all_ranks_are_the_batch() {
        let rows = |rank| Rows { first: 100, micro: 2, rounds: 3, rank, world: 2 };
        assert_eq!(rows(0).iter().collect::<Vec<_>>(), [100, 101, 104, 105, 108, 109]);
        let mut all: Vec<u64> = rows(0).iter().chain(rows(1).iter()).collect();
        all.sort_unstable();
        assert_eq!(all, (100..112).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_is_given_once_and_only_for_what_it_holds() {
        let rows = Rows { first: 0, micro: 1, rounds: 1, rank: 0, world: 1 };
        let read = || TokenBatch { tokens: vec![7], ..TokenBatch::default() };
        let mut ahead = Ahead { rows: Some(rows), batch: read() };
        let mut batch = TokenBatch::default();
        assert!(ahead.take(rows, &mut batch) && batch.tokens == [7]);
        assert!(!ahead.take(rows, &mut batch));
        let mut other = Ahead { rows: Some(rows), batch: read() };
        assert!(!other.take(Rows { first: 1, ..rows }, &mut batch) && !other.take(rows, &mut batch));
    }
}
