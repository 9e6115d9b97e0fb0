//! Ranks that are threads of one process, for tests of what several ranks do together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use fathom_core::comm::{AllGather, AllToAll, Comm};
use fathom_core::device::Device;
use fathom_core::error::DeviceError;

/// Runs `body` as `world` ranks, each on a thread, and returns what each gives, in the order of ranks. Every rank makes
/// its own device.
///
/// # Panics
/// Where a rank does.
pub fn run<T: Send>(world: usize, body: impl Fn(Threads) -> T + Sync) -> Vec<T> {
    let state = State { slots: (0..world).map(|_| None).collect(), taken: 0, gone: false };
    let meeting = Arc::new(Meeting { state: Mutex::new(state), changed: Condvar::new() });
    std::thread::scope(|scope| {
        let start = |rank| {
            let (threads, body) = (Threads { rank, world, meeting: Arc::clone(&meeting) }, &body);
            scope.spawn(move || body(threads))
        };
        let started: Vec<_> = (0..world).map(start).collect();
        let end = |thread: std::thread::ScopedJoinHandle<'_, T>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        started.into_iter().map(end).collect()
    })
}

/// A rank among the threads of a process.
pub struct Threads {
    rank: usize,
    world: usize,
    meeting: Arc<Meeting>,
}

/// Where the ranks put what they send.
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

/// What a rank sends in a call: the call's name, and bytes for every rank.
type Sent = (&'static str, Vec<Vec<u8>>);

struct State {
    /// What each rank sends in the call under way.
    slots: Vec<Option<Sent>>,
    /// How many ranks have taken what is theirs.
    taken: usize,
    /// A rank has left.
    gone: bool,
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.meeting.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.meeting.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `messages[r]` to rank `r`; what comes from each rank, or `None` where one is missing or makes another
    /// call.
    fn swap(&self, call: &'static str, messages: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
        let mut state = self.lock();
        // The call before is over when all have taken what is theirs.
        while state.slots[self.rank].is_some() {
            state = self.wait(state);
        }
        state.slots[self.rank] = Some((call, messages));
        self.meeting.changed.notify_all();
        while state.slots.iter().any(Option::is_none) {
            if state.gone {
                return None;
            }
            state = self.wait(state);
        }
        let mine = |slot: &mut Option<Sent>| {
            let (theirs, messages) = slot.as_mut()?;
            (*theirs == call).then(|| std::mem::take(&mut messages[self.rank]))
        };
        let received = state.slots.iter_mut().map(mine).collect();
        state.taken += 1;
        if state.taken == self.world {
            state.taken = 0;
            state.slots.iter_mut().for_each(|slot| *slot = None);
            self.meeting.changed.notify_all();
        }
        received
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.lock().gone = true;
        self.meeting.changed.notify_all();
    }
}

impl<D: Device> Comm<D> for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_to_all(&self, device: &D, call: AllToAll<'_, D>) -> Result<(), D::Error> {
        let AllToAll { from, sent, mut to, received } = call;
        let size = from.dtype().size();
        let mut first = from.offset();
        let mut messages = Vec::with_capacity(sent.len());
        for &count in sent {
            let mut bytes = vec![0; count * size];
            if count > 0 {
                device.download(from.buffer(), first * size, &mut bytes)?;
            }
            first += count;
            messages.push(bytes);
        }
        let arrived = self.swap("all_to_all", messages).ok_or_else(|| D::Error::peer_lost("all_to_all"))?;
        let mut first = to.offset();
        for (bytes, &count) in arrived.iter().zip(received) {
            if bytes.len() != count * size {
                return Err(D::Error::peer_lost("all_to_all"));
            }
            if count > 0 {
                device.upload(to.buffer_mut(), first * size, bytes)?;
            }
            first += count;
        }
        Ok(())
    }

    fn all_gather(&self, device: &D, call: AllGather<'_, D>) -> Result<(), D::Error> {
        let AllGather { mut whole, parts } = call;
        let size = whole.dtype().size();
        let place = |rank: usize| (whole.offset() + parts[..rank].iter().sum::<usize>()) * size;
        let places: Vec<usize> = (0..parts.len()).map(place).collect();
        let mut mine = vec![0; parts[self.rank] * size];
        if !mine.is_empty() {
            device.download(whole.buffer(), places[self.rank], &mut mine)?;
        }
        let arrived = self.swap("all_gather", vec![mine; self.world]);
        let arrived = arrived.ok_or_else(|| D::Error::peer_lost("all_gather"))?;
        for (rank, bytes) in arrived.iter().enumerate().filter(|(rank, _)| *rank != self.rank) {
            if bytes.len() != parts[rank] * size {
                return Err(D::Error::peer_lost("all_gather"));
            }
            if !bytes.is_empty() {
                device.upload(whole.buffer_mut(), places[rank], bytes)?;
            }
        }
        Ok(())
    }

    fn tell(&self, words: &[u64]) -> Result<Vec<u64>, D::Error> {
        let mine: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let arrived = self.swap("tell", vec![mine; self.world]).ok_or_else(|| D::Error::peer_lost("tell"))?;
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        Ok(arrived.iter().flat_map(|bytes| bytes.chunks_exact(8).map(word)).collect())
    }
}
