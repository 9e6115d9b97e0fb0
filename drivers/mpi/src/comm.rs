//! The collectives of the core, as messages of MPI.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fathom_core::comm::{AllGather, AllToAll, Comm};
use fathom_core::device::Device;
use fathom_core::error::{DeviceError, InvalidOp};

use crate::abi::{self, Aborter, Calls, Fault};
use crate::error::MpiError;
use crate::launch::Launched;
use crate::library::{self, VARIABLE};

/// Set by the first start: a process can start MPI once.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Set when this rank has done its work.
static MAY_END: AtomicBool = AtomicBool::new(false);

/// Ends all ranks, while MPI is up.
static ABORT: Mutex<Option<Aborter>> = Mutex::new(None);

/// Bytes up to which a whole goes through `MPI_Allgatherv`, in steps that are few. Larger ones go around a ring of
/// large messages: MPICH cuts its own ring into pieces of 32 KiB, which took 4 to 80 times as long on one machine.
const FEW: usize = 64 << 10;

/// How long [`Mpi::abort`] waits for MPI.
const PATIENCE: Duration = Duration::from_secs(4);

/// The ranks that one MPI launcher started, as a group that trains a model.
///
/// Pieces go to the ranks after this one, in turn, while those of the ranks before it arrive: every rank sends one
/// message and receives one at a time. Small parts of a gather go through `MPI_Allgatherv`, large ones around a ring.
/// MPI moves bytes and adds nothing.
///
/// It stays in the thread that started it:
///
/// ```compile_fail
/// fn is_send<T: Send>() {}
/// is_send::<fathom_mpi::Mpi>();
/// ```
///
/// # Errors
/// MPI libraries mostly end the run when a rank dies. Where a call fails instead, the error has the kind
/// [`PeerLost`](fathom_core::error::ErrorKind::PeerLost), [`problem`](Self::problem) has MPI's own message, and every
/// later call fails too.
///
/// # Ending
/// A rank that has done its work calls [`may_end`](Self::may_end), and dropping then ends MPI, for which every rank
/// waits. Without that dropping does nothing: a rank that failed must not make others wait for it, or wait for them; it
/// calls [`abort`](Self::abort).
pub struct Mpi {
    calls: Box<dyn Calls>,
    library: String,
    /// The most bytes of a message.
    piece: usize,
    /// MPI's message about the call that failed.
    failed: RefCell<Option<Fault>>,
    one_thread: PhantomData<Rc<()>>,
}

impl Mpi {
    /// Loads the MPI library that goes with the launcher, or the one that `FATHOM_MPI_LIBRARY` names, and joins the
    /// other ranks.
    ///
    /// # Errors
    /// No library, with what to install; a library that does not belong to the launcher, so that each process would be
    /// alone; a second start in this process.
    pub fn start(launched: &Launched) -> Result<Self, MpiError> {
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(MpiError::new("MPI was started before in this process, and starts once"));
        }
        let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
        let library::Started { calls, text } = library::start(launched, named)?;
        *ABORT.lock().unwrap_or_else(PoisonError::into_inner) = Some(calls.aborter());
        Ok(Self { calls, library: text, piece: 1 << 30, failed: RefCell::default(), one_thread: PhantomData })
    }

    /// The same group, which cuts messages into pieces of at most `bytes` bytes: 2³⁰ if not set, and less than 2³¹. All
    /// ranks have to set the same.
    #[must_use]
    pub fn with_piece(mut self, bytes: usize) -> Self {
        self.piece = bytes.clamp(1, abi::MOST);
        self
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.calls.rank()
    }

    /// Number of ranks.
    pub fn world(&self) -> usize {
        self.calls.world()
    }

    /// Name, version and file of the MPI library: `MPICH 4.0.2 (/usr/lib/libmpich.so.12)`.
    pub fn library(&self) -> &str {
        &self.library
    }

    /// MPI's message about the call that failed, if one did.
    pub fn problem(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    /// This rank has done its work: dropping the group may end MPI.
    pub fn may_end() {
        MAY_END.store(true, Ordering::SeqCst);
    }

    /// Ends all ranks with an exit code, and this process within 5 seconds in any case. Any thread may call it, also
    /// while another waits in a collective. Without MPI it ends this process.
    pub fn abort(code: i32) -> ! {
        // MPI's own function may wait for a rank that does not answer, and handlers of `exit` for MPI.
        let timer = std::thread::Builder::new().name("abort".into()).spawn(move || {
            std::thread::sleep(PATIENCE);
            abi::leave(code)
        });
        // Without a thread to watch over it, MPI is not asked: launchers end the other ranks too.
        let abort = ABORT.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Ok(_), Some(abort)) = (timer, &*abort) {
            abort(code);
        }
        abi::leave(code)
    }

    /// The error of an operation that failed.
    fn lost<E: DeviceError>(&self, operation: &'static str, fault: Fault) -> E {
        self.failed.borrow_mut().get_or_insert(fault);
        E::peer_lost(operation)
    }

    /// Runs the messages of an operation, unless one failed before.
    fn run<E: DeviceError>(&self, op: &'static str, messages: impl FnOnce() -> Result<(), Fault>) -> Result<(), E> {
        if self.failed.borrow().is_some() {
            return Err(E::peer_lost(op));
        }
        messages().map_err(|fault| self.lost(op, fault))
    }

    /// Sends one piece and receives another at a time, each in as many messages as it needs.
    fn exchange(&self, to: usize, send: &[u8], from: usize, receive: &mut [u8]) -> Result<(), Fault> {
        let (mut sends, mut receives) = (send.chunks(self.piece), receive.chunks_mut(self.piece));
        loop {
            match (sends.next(), receives.next()) {
                (None, None) => return Ok(()),
                (send, receive) => self.calls.swap(send.map(|s| (to, s)), receive.map(|r| (from, r)))?,
            }
        }
    }

    /// Pieces to and from every rank, at their places in `send` and `receive`. This rank's are as long as each other.
    fn pieces(&self, send: &[u8], sent: &Places, receive: &mut [u8], received: &Places) -> Result<(), Fault> {
        let (rank, n) = (self.rank(), self.world());
        receive[received.of(rank)].copy_from_slice(&send[sent.of(rank)]);
        for step in 1..n {
            let (to, from) = ((rank + step) % n, (rank + n - step) % n);
            self.exchange(to, &send[sent.of(to)], from, &mut receive[received.of(from)])?;
        }
        Ok(())
    }

    /// Completes `whole`, of which each rank has the part at its place.
    fn parts(&self, whole: &mut [u8], places: &Places) -> Result<(), Fault> {
        let (rank, n) = (self.rank(), self.world());
        if n == 1 || whole.is_empty() {
            return Ok(());
        }
        if whole.len() <= self.piece.min(FEW) {
            return self.calls.gather(whole, &places.lengths());
        }
        // A ring: each rank hands on what it received last.
        for step in 0..n - 1 {
            let (have, want) = (places.of((rank + n - step) % n), places.of((rank + n - step - 1) % n));
            let (send, receive) = disjoint(whole, have, want);
            self.exchange((rank + 1) % n, send, (rank + n - 1) % n, receive)?;
        }
        Ok(())
    }
}

/// The bytes of `have`, to read, and those of `want`, to write, which do not overlap.
fn disjoint(bytes: &mut [u8], have: Range<usize>, want: Range<usize>) -> (&[u8], &mut [u8]) {
    if have.end <= want.start {
        let (low, high) = bytes.split_at_mut(want.start);
        (&low[have], &mut high[..want.len()])
    } else {
        let (low, high) = bytes.split_at_mut(have.start);
        (&high[..have.len()], &mut low[want])
    }
}

/// Where each rank's bytes lie, one piece after the other.
struct Places(Vec<usize>);

impl Places {
    /// The places of pieces of some elements of `size` bytes.
    fn new(elements: &[usize], size: usize) -> Self {
        let mut end = 0;
        let ends = elements.iter().map(|n| {
            end += n * size;
            end
        });
        Self(std::iter::once(0).chain(ends).collect())
    }

    fn of(&self, rank: usize) -> Range<usize> {
        self.0[rank]..self.0[rank + 1]
    }

    fn lengths(&self) -> Vec<usize> {
        self.0.windows(2).map(|w| w[1] - w[0]).collect()
    }
}

fn same(op: &'static str, problem: &'static str, expected: usize, found: usize) -> Result<(), InvalidOp> {
    if expected == found { Ok(()) } else { Err(InvalidOp::new(op, problem, expected, found)) }
}

/// The bytes of a view inside its buffer, from its first element and its number of elements.
fn span(offset: usize, elements: usize, size: usize) -> Range<usize> {
    offset * size..(offset + elements) * size
}

/// The error of a view that does not lie inside its buffer.
fn outside(op: &'static str) -> InvalidOp {
    InvalidOp::plain(op, "a view ends after its buffer")
}

impl<D: Device> Comm<D> for Mpi {
    fn rank(&self) -> usize {
        self.calls.rank()
    }

    fn world(&self) -> usize {
        self.calls.world()
    }

    fn all_to_all(&self, device: &D, call: AllToAll<'_, D>) -> Result<(), D::Error> {
        const OP: &str = "all_to_all";
        // The fields are public: what is sent by MPI is checked here once more.
        let AllToAll { from, sent, mut to, received } =
            AllToAll::<D>::new(call.from, call.sent, call.to, call.received)?;
        same(OP, "number of ranks", self.world(), sent.len())?;
        same(OP, "elements to itself", sent[self.rank()], received[self.rank()])?;
        let size = from.dtype().size();
        let (source, target) = (span(from.offset(), from.elements(), size), span(to.offset(), to.elements(), size));
        let (sent, received) = (Places::new(sent, size), Places::new(received, size));
        let staged;
        let send = match device.host_bytes(from.buffer()) {
            Some(bytes) => bytes.get(source).ok_or_else(|| outside(OP))?,
            None => {
                let mut bytes = vec![0; source.len()];
                device.download(from.buffer(), source.start, &mut bytes)?;
                staged = bytes;
                &staged
            }
        };
        if let Some(bytes) = device.host_bytes_mut(to.buffer_mut()) {
            let receive = bytes.get_mut(target).ok_or_else(|| outside(OP))?;
            return self.run(OP, || self.pieces(send, &sent, receive, &received));
        }
        let mut receive = vec![0; target.len()];
        self.run::<D::Error>(OP, || self.pieces(send, &sent, &mut receive, &received))?;
        device.upload(to.buffer_mut(), target.start, &receive)
    }

    fn all_gather(&self, device: &D, call: AllGather<'_, D>) -> Result<(), D::Error> {
        const OP: &str = "all_gather";
        let AllGather { mut whole, parts } = AllGather::<D>::new(call.whole, call.parts)?;
        same(OP, "number of ranks", self.world(), parts.len())?;
        let size = whole.dtype().size();
        let span = span(whole.offset(), whole.elements(), size);
        let places = Places::new(parts, size);
        if let Some(bytes) = device.host_bytes_mut(whole.buffer_mut()) {
            let bytes = bytes.get_mut(span).ok_or_else(|| outside(OP))?;
            return self.run(OP, || self.parts(bytes, &places));
        }
        let mut bytes = vec![0; span.len()];
        let own = places.of(self.rank());
        device.download(whole.buffer(), span.start + own.start, &mut bytes[own])?;
        self.run::<D::Error>(OP, || self.parts(&mut bytes, &places))?;
        device.upload(whole.buffer_mut(), span.start, &bytes)
    }

    fn tell(&self, words: &[u64]) -> Result<Vec<u64>, D::Error> {
        let (rank, n) = (self.rank(), self.world());
        let mut all = vec![0; n * words.len()];
        all[rank * words.len()..][..words.len()].copy_from_slice(words);
        let places = Places::new(&vec![words.len(); n], size_of::<u64>());
        self.run::<D::Error>("tell", || self.parts(bytemuck::cast_slice_mut(&mut all), &places))?;
        Ok(all)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        let well = MAY_END.load(Ordering::SeqCst) && self.failed.borrow().is_none() && !std::thread::panicking();
        if well {
            *ABORT.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.calls.finalize();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use fathom_core::device::Host;
    use fathom_core::dtype::DType;
    use fathom_core::error::ErrorKind;
    use fathom_core::tensor::Tensor;

    use super::*;

    /// Rank 0 of two, whose calls fail once some have been made.
    struct Failing {
        left: Cell<usize>,
        finalized: Rc<Cell<bool>>,
    }

    impl Calls for Failing {
        fn rank(&self) -> usize {
            0
        }

        fn world(&self) -> usize {
            2
        }

        fn swap(&self, _: Option<(usize, &[u8])>, _: Option<(usize, &mut [u8])>) -> Result<(), Fault> {
            self.left.set(self.left.get().checked_sub(1).ok_or("MPI_Sendrecv: gone (error 7)")?);
            Ok(())
        }

        fn gather(&self, _: &mut [u8], _: &[usize]) -> Result<(), Fault> {
            self.swap(None, None)
        }

        fn finalize(&self) {
            self.finalized.set(true);
        }

        fn aborter(&self) -> Aborter {
            Box::new(|_| {})
        }
    }

    fn failing(left: usize) -> (Mpi, Rc<Cell<bool>>) {
        let finalized = Rc::new(Cell::new(false));
        let calls = Box::new(Failing { left: Cell::new(left), finalized: Rc::clone(&finalized) });
        let (library, failed) = (String::new(), RefCell::default());
        (Mpi { calls, library, piece: 1 << 30, failed, one_thread: PhantomData }, finalized)
    }

    #[test]
    fn after_a_failed_call_every_call_fails_and_nothing_waits_for_the_others() {
        let (mpi, finalized) = failing(1);
        let comm: &dyn Comm<Host> = &mpi;
        assert_eq!(comm.tell(&[5]).unwrap(), [5, 0]);
        assert_eq!(mpi.problem(), None);
        let error = comm.tell(&[5]).unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains("tell")), (ErrorKind::PeerLost, true));
        assert_eq!(mpi.problem().unwrap(), "MPI_Sendrecv: gone (error 7)");
        let host = Host::new();
        let mut whole = Tensor::<Host>::empty(&host, &[2], DType::F32).unwrap();
        let call = AllGather::new(whole.view_mut(), &[1, 1]).unwrap();
        assert_eq!(comm.all_gather(&host, call).unwrap_err().kind(), ErrorKind::PeerLost);
        drop(mpi);
        assert!(!finalized.get());
        let (mpi, finalized) = failing(0);
        drop(mpi);
        assert!(!finalized.get());
        let (mpi, finalized) = failing(0);
        Mpi::may_end();
        drop(mpi);
        assert!(finalized.get());
    }

    #[test]
    fn pieces_of_another_number_of_ranks_are_refused_before_a_message() {
        let (mpi, _) = failing(0);
        let host = Host::new();
        let from = Tensor::<Host>::empty(&host, &[3], DType::F32).unwrap();
        let mut to = Tensor::<Host>::empty(&host, &[3], DType::F32).unwrap();
        for (sent, received) in [(&[1, 1, 1][..], &[1, 1, 1][..]), (&[1, 2], &[2, 1])] {
            let call = AllToAll::new(from.view(), sent, to.view_mut(), received).unwrap();
            assert_eq!(mpi.all_to_all(&host, call).unwrap_err().kind(), ErrorKind::Shape);
        }
        assert_eq!(mpi.problem(), None);
    }

    #[test]
    fn parts_of_a_buffer_are_lent_apart() {
        for (have, want) in
            [(0..2, 2..5), (2..5, 0..2), (1..1, 1..4), (1..4, 1..1), (1..4, 4..4), (4..4, 1..4), (2..2, 2..2)]
        {
            let mut bytes = [0u8, 1, 2, 3, 4, 5];
            let expected: Vec<u8> = have.clone().map(|i| i as u8).collect();
            let (read, written) = disjoint(&mut bytes, have, want.clone());
            assert_eq!(read, expected);
            assert_eq!(written.len(), want.len());
            written.fill(9);
            assert!(want.clone().all(|i| bytes[i] == 9) && bytes.iter().filter(|b| **b == 9).count() == want.len());
        }
    }

    #[test]
    fn places_follow_each_other() {
        let places = Places::new(&[2, 0, 3], 4);
        assert_eq!((places.of(0), places.of(1), places.of(2)), (0..8, 8..8, 8..20));
        assert_eq!(places.lengths(), [8, 0, 12]);
    }
}
