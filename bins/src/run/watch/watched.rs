//! A group of ranks whose collectives are noted for the watch, counted and timed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fathom_core::comm::{AllGather, AllToAll, Comm};
use fathom_core::device::Device;

use super::Progress;

/// What collectives moved, and the time that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Collectives.
    pub calls: u64,
    /// Bytes for other ranks. A rank's own pieces do not count.
    pub bytes_sent: u64,
    /// Bytes from other ranks.
    pub bytes_received: u64,
    /// Seconds inside. Where calls are queued this is the time until they are.
    pub seconds: f64,
}

/// Counts the traffic of a [`Watched`] group, wherever that is.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Traffic>>);

impl Meter {
    /// The traffic since the last [`take`](Self::take).
    pub fn read(&self) -> Traffic {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The traffic since the last time, which is then counted from zero.
    pub fn take(&self) -> Traffic {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, sent: u64, received: u64, time: Duration) {
        let mut traffic = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.calls += 1;
        traffic.bytes_sent += sent;
        traffic.bytes_received += received;
        traffic.seconds += time.as_secs_f64();
    }
}

/// A group of ranks that notes each collective in a [`Progress`] and counts it.
#[derive(Clone, Debug)]
pub struct Watched<C> {
    inner: C,
    progress: Progress,
    meter: Meter,
}

impl<C> Watched<C> {
    /// A group whose collectives are noted in `progress`.
    pub fn new(inner: C, progress: Progress) -> Self {
        Self { inner, progress, meter: Meter::default() }
    }

    /// The group without the watch.
    pub fn inner(&self) -> &C {
        &self.inner
    }

    /// The count, for one who does not hold the group.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    fn call<T>(&self, op: &'static str, sent: usize, received: usize, call: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        self.progress.enter(op, false);
        let result = call();
        self.progress.leave();
        self.meter.add(sent as u64, received as u64, start.elapsed());
        result
    }
}

/// Sum of the pieces of all ranks but one.
fn of_others(pieces: &[usize], rank: usize) -> usize {
    pieces.iter().enumerate().filter(|(other, _)| *other != rank).map(|(_, piece)| piece).sum()
}

impl<D: Device, C: Comm<D>> Comm<D> for Watched<C> {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn world(&self) -> usize {
        self.inner.world()
    }

    fn all_to_all(&self, device: &D, call: AllToAll<'_, D>) -> Result<(), D::Error> {
        let (rank, size) = (self.inner.rank(), call.from.dtype().size());
        let (sent, received) = (size * of_others(call.sent, rank), size * of_others(call.received, rank));
        self.call("all_to_all", sent, received, || self.inner.all_to_all(device, call))
    }

    fn all_gather(&self, device: &D, call: AllGather<'_, D>) -> Result<(), D::Error> {
        let (rank, world, size) = (self.inner.rank(), self.inner.world(), call.whole.dtype().size());
        let own = call.parts.get(rank).copied().unwrap_or(0);
        let (sent, received) = (size * own * world.saturating_sub(1), size * of_others(call.parts, rank));
        self.call("all_gather", sent, received, || self.inner.all_gather(device, call))
    }

    fn tell(&self, words: &[u64]) -> Result<Vec<u64>, D::Error> {
        let bytes = size_of_val(words) * self.inner.world().saturating_sub(1);
        self.call("tell", bytes, bytes, || self.inner.tell(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_core::DType;
    use fathom_core::device::Host;
    use fathom_core::error::DeviceError;
    use fathom_core::tensor::Tensor;

    /// Rank 1 of 3 that moves nothing and is lost in `tell`.
    struct Still;

    impl<D: Device> Comm<D> for Still {
        fn rank(&self) -> usize {
            1
        }

        fn world(&self) -> usize {
            3
        }

        fn all_to_all(&self, _: &D, _: AllToAll<'_, D>) -> Result<(), D::Error> {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        }

        fn all_gather(&self, _: &D, _: AllGather<'_, D>) -> Result<(), D::Error> {
            Ok(())
        }

        fn tell(&self, _: &[u64]) -> Result<Vec<u64>, D::Error> {
            Err(D::Error::peer_lost("tell"))
        }
    }

    #[test]
    fn calls_bytes_and_time_are_counted_without_own_pieces() {
        let device = Host::new();
        let progress = Progress::default();
        let comm = Watched::new(Still, progress.clone());
        let meter = comm.meter();
        let from = Tensor::<Host>::empty(&device, &[12], DType::BF16).unwrap();
        let mut to = Tensor::<Host>::empty(&device, &[15], DType::BF16).unwrap();
        let (sent, received) = ([1, 4, 7], [2, 5, 8]);
        let call = AllToAll::<Host>::new(from.view(), &sent, to.view_mut(), &received).unwrap();
        comm.all_to_all(&device, call).unwrap();
        let traffic = meter.read();
        assert_eq!((traffic.calls, traffic.bytes_sent, traffic.bytes_received), (1, 16, 20));
        assert!(traffic.seconds >= 0.02);

        let mut whole = Tensor::<Host>::empty(&device, &[6], DType::F32).unwrap();
        comm.all_gather(&device, AllGather::<Host>::new(whole.view_mut(), &[1, 2, 3]).unwrap()).unwrap();
        assert!(Comm::<Host>::tell(&comm, &[7, 8]).is_err());
        let traffic = meter.take();
        assert_eq!((traffic.calls, traffic.bytes_sent, traffic.bytes_received), (3, 16 + 16 + 32, 20 + 16 + 32));
        assert_eq!(meter.read(), Traffic::default());
        let now = progress.now();
        assert_eq!((now.number, now.op, now.inside), (3, "tell", false), "left after an error too");
        assert_eq!((Comm::<Host>::rank(&comm), Comm::<Host>::world(&comm)), (1, 3));
    }
}
