//! Collectives between GPUs by NCCL: [`Nccl`] is a [`Comm`] of ranks with one GPU each.
//!
//! | file | contents |
//! |---|---|
//! | `api` | binding of the library, which is loaded when the first group starts |
//! | `communicator` | a rank's end of a group: state, errors, abort |
//!
//! A collective goes on the stream of the device's kernels, behind all commands that were queued before. Pieces travel
//! as bytes, and no sum is made on the way. Where the host waits for the device, it also asks the library for errors:
//! without that, a kernel would wait forever for a rank that is gone.

mod api;
mod communicator;

use std::sync::Arc;
use std::time::Duration;

use fathom_core::comm::{AllGather, AllToAll, Comm};
use fathom_core::device::Device;
use fathom_core::error::{ErrorKind, InvalidOp};

use crate::device::Cuda;
use crate::engine::Watch;
use crate::error::CudaError;
use api::{Api, Calls, SUCCESS};
use communicator::Communicator;

/// The time in which all ranks of a group must come, unless another is asked for.
const START: Duration = Duration::from_secs(300);

/// Ranks with a GPU each, joined by NCCL.
///
/// Its collectives are queued like kernels, and the calls return before they are done. An error of another rank comes
/// as [`ErrorKind::PeerLost`] from the call that finds it: a collective, or one that waits for the device, such as
/// [`flush`](Device::flush). A rank that hangs is no error: the host waits until someone uses an [`NcclAbort`].
///
/// Dropping it ends the group in order, once its collectives are done, or aborts it: after an error, in a panic, or
/// after 5 s. All ranks drop theirs at about the same time, with no collective under way ([`flush`](Device::flush)).
pub struct Nccl {
    cuda: Cuda,
    communicator: Arc<Communicator>,
    /// The device asks it as long as this is alive.
    _watch: Arc<dyn Watch>,
    rank: usize,
    world: usize,
}

/// What the device asks while the host waits.
struct Waits(Arc<Communicator>);

impl Watch for Waits {
    fn check(&self) -> Result<(), CudaError> {
        self.0.check()
    }
}

/// Ends the collectives of an [`Nccl`] from any thread.
#[derive(Clone)]
pub struct NcclAbort(Arc<Communicator>);

impl NcclAbort {
    /// Ends what is under way on this rank and its GPU, also while another thread waits for it. That wait and all later
    /// collectives give an error of kind [`ErrorKind::PeerLost`]. Other ranks may not notice: each aborts for itself.
    ///
    /// # Errors
    /// NCCL does not end within 5 s; then only the end of the process helps.
    pub fn abort(&self) -> Result<(), CudaError> {
        self.0.abort()
    }
}

impl Nccl {
    /// The id of a new group, which one rank makes and gives to all. Its process must stay until the group has started.
    ///
    /// # Errors
    /// NCCL is not installed or too old (the message says what to install), or it finds no network.
    pub fn unique_id() -> Result<[u8; 128], CudaError> {
        let api = Api::get()?;
        api.unique_id().map_err(|code| CudaError::new(ErrorKind::Other, format!("ncclGetUniqueId: {}", api.text(code))))
    }

    /// The version of the library that is found, such as `NCCL 2.32.3`.
    ///
    /// # Errors
    /// NCCL is not installed or too old; the message says what to install.
    pub fn version() -> Result<String, CudaError> {
        Ok(format!("NCCL {}", Api::get()?.version()))
    }

    /// Checks that the GPU of `cuda` can join a group.
    ///
    /// # Errors
    /// An emulated GPU; NCCL is not installed or too old.
    pub fn available(cuda: &Cuda) -> Result<(), CudaError> {
        cuda.engine().bind()?;
        Api::get().map(drop)
    }

    /// Joins the group of `id` as rank `rank` of `world`, with the GPU of `cuda`. Returns once all ranks have come,
    /// which they must within 300 s.
    ///
    /// # Errors
    /// As [`start_within`](Nccl::start_within).
    pub fn start(cuda: &Cuda, id: [u8; 128], rank: usize, world: usize) -> Result<Self, CudaError> {
        Self::start_within(cuda, id, rank, world, START)
    }

    /// Joins the group of `id` as [`start`](Nccl::start) does, if all ranks come within `limit`.
    ///
    /// The limit also holds for the time until a collective is on the GPU, which the first ones need for connections.
    ///
    /// # Errors
    /// A rank that is not below `world`; an emulated GPU; NCCL is not installed or too old; ranks that did not come in
    /// time ([`ErrorKind::PeerLost`]); what NCCL reports.
    pub fn start_within(
        cuda: &Cuda,
        id: [u8; 128],
        rank: usize,
        world: usize,
        limit: Duration,
    ) -> Result<Self, CudaError> {
        const OP: &str = "nccl";
        if rank >= world {
            return Err(InvalidOp::not_below(OP, "rank", rank, "the number of ranks", world).into());
        }
        let most = i32::MAX as usize;
        let number =
            |n: usize| i32::try_from(n).map_err(|_| InvalidOp::above(OP, "the number of ranks", n, "the limit", most));
        let place = [number(rank)?, number(world)?];
        cuda.engine().bind()?;
        let communicator = Communicator::start(Api::get()?, id, place, limit)?;
        let watch: Arc<dyn Watch> = Arc::new(Waits(Arc::clone(&communicator)));
        cuda.engine().watch(Arc::downgrade(&watch));
        Ok(Self { cuda: cuda.clone(), communicator, _watch: watch, rank, world })
    }

    /// A handle by which any thread ends the collectives of this rank.
    pub fn abort_handle(&self) -> NcclAbort {
        NcclAbort(Arc::clone(&self.communicator))
    }

    /// Ends the collectives of this rank, as [`NcclAbort::abort`] does.
    ///
    /// # Errors
    /// As there.
    pub fn abort(&self) -> Result<(), CudaError> {
        self.communicator.abort()
    }

    /// Checks the device and the number of ranks of a call.
    fn expect(&self, op: &'static str, device: &Cuda, ranks: usize) -> Result<(), CudaError> {
        if !device.is(&self.cuda) {
            return Err(InvalidOp::plain(op, "needs the device that its ranks were started with").into());
        }
        if ranks != self.world {
            return Err(InvalidOp::new(op, "number of ranks", self.world, ranks).into());
        }
        Ok(())
    }

    /// Queues a group of collectives behind all commands.
    fn queue(&self, op: &'static str, calls: impl Fn(&Calls<'_>) -> i32) -> Result<(), CudaError> {
        self.cuda.engine().queue(&mut |stream| self.communicator.group(op, stream, &calls))
    }
}

/// Calls in order until one fails; its code.
fn each<T>(items: &[T], call: impl Fn(&T) -> i32) -> i32 {
    items.iter().map(call).find(|code| *code != SUCCESS).unwrap_or(SUCCESS)
}

/// A piece of memory on its way to or from a rank.
struct Piece {
    rank: usize,
    address: u64,
    bytes: usize,
}

/// The pieces at `address`, one after the other in the order of ranks.
fn pieces(address: u64, elements: &[usize], size: usize) -> Vec<Piece> {
    let mut next = address;
    let piece = |(rank, n): (usize, &usize)| {
        let (address, bytes) = (next, n * size);
        next += bytes as u64;
        Piece { rank, address, bytes }
    };
    elements.iter().enumerate().map(piece).collect()
}

impl Comm<Cuda> for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_to_all(&self, device: &Cuda, call: AllToAll<'_, Cuda>) -> Result<(), CudaError> {
        const OP: &str = "all_to_all";
        let AllToAll { from, sent, to, received } = call;
        self.expect(OP, device, sent.len())?;
        if sent[self.rank] != received[self.rank] {
            let (sent, received) = (sent[self.rank], received[self.rank]);
            return Err(InvalidOp::new(OP, "elements from this rank to itself", sent, received).into());
        }
        let size = from.dtype().size();
        let start = |address: u64, offset: usize| address + (offset * size) as u64;
        let mut sends = pieces(start(from.buffer().address(), from.offset()), sent, size);
        let mut receipts = pieces(start(to.buffer().address(), to.offset()), received, size);
        let own = &sends[self.rank];
        if own.bytes > 0 {
            self.cuda.engine().copy(receipts[self.rank].address, own.address, own.bytes)?;
        }
        // Every rank begins with its neighbor, so that not all send to one.
        sends.rotate_left(self.rank);
        receipts.rotate_left(self.rank);
        receipts[1..].reverse();
        sends.retain(|piece| piece.bytes > 0 && piece.rank != self.rank);
        receipts.retain(|piece| piece.bytes > 0 && piece.rank != self.rank);
        if sends.is_empty() && receipts.is_empty() {
            return self.communicator.check();
        }
        self.queue(OP, |calls| {
            // SAFETY: the pieces lie in the call's views, in memory of this device, which is freed only after a wait.
            let code = each(&sends, |p| unsafe { calls.send(p.address, p.bytes, p.rank) });
            match code {
                // SAFETY: as above.
                SUCCESS => each(&receipts, |p| unsafe { calls.receive(p.address, p.bytes, p.rank) }),
                code => code,
            }
        })
    }

    fn all_gather(&self, device: &Cuda, call: AllGather<'_, Cuda>) -> Result<(), CudaError> {
        const OP: &str = "all_gather";
        let AllGather { whole, parts } = call;
        self.expect(OP, device, parts.len())?;
        let size = whole.dtype().size();
        let address = whole.buffer().address() + (whole.offset() * size) as u64;
        let mut places = pieces(address, parts, size);
        let own = &places[self.rank];
        if parts.iter().all(|n| *n == parts[0]) && own.bytes > 0 {
            // SAFETY: the parts lie in the call's view, in memory of this device, which is freed only after a wait.
            return self.queue(OP, |calls| unsafe { calls.all_gather(own.address, address, own.bytes) });
        }
        places.retain(|place| place.bytes > 0);
        if places.is_empty() {
            return self.communicator.check();
        }
        // SAFETY: as above.
        self.queue(OP, |calls| each(&places, |p| unsafe { calls.broadcast(p.address, p.bytes, p.rank) }))
    }

    fn tell(&self, words: &[u64]) -> Result<Vec<u64>, CudaError> {
        let bytes = size_of_val(words);
        if bytes == 0 {
            self.communicator.check()?;
            return Ok(Vec::new());
        }
        let mut all = vec![0; self.world * words.len()];
        let mut buffer = self.cuda.alloc(self.world * bytes)?;
        self.cuda.upload(&mut buffer, self.rank * bytes, bytemuck::cast_slice(words))?;
        let (whole, own) = (buffer.address(), buffer.address() + (self.rank * bytes) as u64);
        // SAFETY: the parts of all ranks lie in the buffer, which is not dropped before the download is done.
        self.queue("tell", |calls| unsafe { calls.all_gather(own, whole, bytes) })?;
        self.cuda.download(&buffer, 0, bytemuck::cast_slice_mut(&mut all))?;
        Ok(all)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.communicator.close(std::thread::panicking());
    }
}

#[cfg(test)]
mod tests {
    use fathom_core::error::DeviceError as _;

    use super::*;
    use crate::Emulation;

    const fn is_send_and_sync<T: Send + Sync>() {}
    const _: () = is_send_and_sync::<Nccl>();
    const _: () = is_send_and_sync::<NcclAbort>();

    #[test]
    fn an_emulated_gpu_has_no_collectives() {
        let cuda = match Cuda::emulated(Emulation::default()) {
            Ok(cuda) => cuda,
            Err(error) if std::env::var_os("CI").is_none() => return eprintln!("not tested: {error}"),
            Err(error) => panic!("{error}"),
        };
        let Err(error) = Nccl::start(&cuda, [0; 128], 0, 1) else { panic!("it starts") };
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("emulat") && error.message().contains("NCCL"), "{error}");
        let Err(error) = Nccl::start(&cuda, [0; 128], 2, 2) else { panic!("it starts") };
        assert_eq!(error.message(), "nccl: rank 2 is not below the number of ranks 2");
    }

    #[test]
    fn pieces_lie_one_after_the_other() {
        let found: Vec<_> = pieces(100, &[3, 0, 2], 4).iter().map(|p| (p.rank, p.address, p.bytes)).collect();
        assert_eq!(found, [(0, 100, 12), (1, 112, 0), (2, 112, 8)]);
    }
}
