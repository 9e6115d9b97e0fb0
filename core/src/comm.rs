//! Collectives: what the ranks of a training run do together.
//!
//! A [`Comm`] moves bytes and adds nothing. Sums over ranks are made by the core's own kernels in an order that does
//! not depend on the number of ranks ([`train`](crate::train)), so one rank, four ranks and any engine give the same
//! bits.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;

use crate::DType;
use crate::device::Device;
use crate::error::{InvalidOp, ensure, same};
use crate::tensor::{View, ViewMut};

/// A group of ranks that train one model, each on its part of the batch.
///
/// All ranks make the same calls in the same order. Calls are queued like kernels and behave as if they ran one after
/// the other with them.
///
/// # Errors
/// A rank that is lost is an error of kind [`PeerLost`](crate::error::ErrorKind::PeerLost); nothing can be done
/// together after it.
pub trait Comm<D: Device> {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world(&self) -> usize;

    /// Sends a piece to every rank and receives one from each.
    fn all_to_all(&self, device: &D, call: AllToAll<'_, D>) -> Result<(), D::Error>;

    /// Completes a tensor of which every rank holds one part.
    fn all_gather(&self, device: &D, call: AllGather<'_, D>) -> Result<(), D::Error>;

    /// Tells all ranks `words`, on the host: `[world, n]`, row by row, from each rank the same number of words, at
    /// least one.
    fn tell(&self, words: &[u64]) -> Result<Vec<u64>, D::Error>;
}

/// Pieces to and from every rank: `sent[r]` elements go to rank `r`, `received[r]` come from it.
///
/// The pieces lie one after the other in the order of ranks. What rank `a` sends to `b` is as long as `b` receives from
/// `a`.
pub struct AllToAll<'a, D: Device> {
    /// What is sent, `Σ sent` elements without gaps.
    pub from: View<'a, D>,
    /// Elements that go to each rank.
    pub sent: &'a [usize],
    /// What is received, `Σ received` elements without gaps.
    pub to: ViewMut<'a, D>,
    /// Elements that come from each rank.
    pub received: &'a [usize],
}

impl<'a, D: Device> AllToAll<'a, D> {
    /// A checked call.
    ///
    /// # Errors
    /// Pieces that do not fill their views, views with gaps or of different types.
    pub fn new(
        from: View<'a, D>,
        sent: &'a [usize],
        to: ViewMut<'a, D>,
        received: &'a [usize],
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "all_to_all";
        same(OP, "number of ranks", sent.len(), received.len())?;
        same(OP, "elements that are sent", sent.iter().sum(), from.elements())?;
        same(OP, "elements that are received", received.iter().sum(), to.elements())?;
        ensure(OP, "needs views without gaps", from.is_contiguous() && to.is_contiguous())?;
        ensure(OP, "needs views of one type", from.dtype() == to.dtype())?;
        Ok(Self { from, sent, to, received })
    }
}

/// A tensor that every rank is to have whole: rank `r` holds the `r`-th part, of `parts[r]` elements, in its place.
pub struct AllGather<'a, D: Device> {
    /// The whole, `Σ parts` elements without gaps.
    pub whole: ViewMut<'a, D>,
    /// Elements of each rank's part.
    pub parts: &'a [usize],
}

impl<'a, D: Device> AllGather<'a, D> {
    /// A checked call.
    ///
    /// # Errors
    /// Parts that do not fill the view, or a view with gaps.
    pub fn new(whole: ViewMut<'a, D>, parts: &'a [usize]) -> Result<Self, InvalidOp> {
        const OP: &str = "all_gather";
        same(OP, "elements of all parts", whole.elements(), parts.iter().sum())?;
        ensure(OP, "needs a view without gaps", whole.is_contiguous())?;
        Ok(Self { whole, parts })
    }
}

/// One rank alone: its pieces are copied, and nothing else is to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl<D: Device> Comm<D> for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_to_all(&self, device: &D, call: AllToAll<'_, D>) -> Result<(), D::Error> {
        same("all_to_all", "number of ranks", 1, call.sent.len())?;
        let AllToAll { from, mut to, .. } = call;
        let size = from.dtype().size();
        let mut bytes = alloc::vec![0; from.elements() * size];
        device.download(from.buffer(), from.offset() * size, &mut bytes)?;
        let offset = to.offset() * size;
        device.upload(to.buffer_mut(), offset, &bytes)
    }

    fn all_gather(&self, _device: &D, call: AllGather<'_, D>) -> Result<(), D::Error> {
        Ok(same("all_gather", "number of ranks", 1, call.parts.len())?)
    }

    fn tell(&self, words: &[u64]) -> Result<Vec<u64>, D::Error> {
        Ok(words.to_vec())
    }
}

/// Whatever points to a group is one.
macro_rules! through_a_pointer {
    ($pointer:ty) => {
        impl<D: Device, C: Comm<D> + ?Sized> Comm<D> for $pointer {
            fn rank(&self) -> usize {
                C::rank(self)
            }

            fn world(&self) -> usize {
                C::world(self)
            }

            fn all_to_all(&self, device: &D, call: AllToAll<'_, D>) -> Result<(), D::Error> {
                C::all_to_all(self, device, call)
            }

            fn all_gather(&self, device: &D, call: AllGather<'_, D>) -> Result<(), D::Error> {
                C::all_gather(self, device, call)
            }

            fn tell(&self, words: &[u64]) -> Result<Vec<u64>, D::Error> {
                C::tell(self, words)
            }
        }
    };
}
through_a_pointer!(&C);
through_a_pointer!(Box<C>);

/// A rank among others that are not there: nothing is moved, and the bytes that would be sent are counted. For a device
/// that computes nothing.
#[derive(Clone, Debug)]
pub struct Imagined {
    rank: usize,
    world: usize,
    sent: Cell<u64>,
}

impl Imagined {
    /// Rank `rank` of `world`.
    pub fn new(rank: usize, world: usize) -> Self {
        Self { rank, world, sent: Cell::new(0) }
    }

    /// Bytes that this rank would have sent to the others since this was last asked.
    pub fn take_sent(&self) -> u64 {
        self.sent.take()
    }

    /// Counts `elements` of `dtype` sent.
    fn count(&self, elements: usize, dtype: DType) {
        self.sent.set(self.sent.get() + (elements * dtype.size()) as u64);
    }
}

impl<D: Device> Comm<D> for Imagined {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_to_all(&self, _device: &D, call: AllToAll<'_, D>) -> Result<(), D::Error> {
        let others = call.sent.iter().enumerate().filter(|(rank, _)| *rank != self.rank);
        self.count(others.map(|(_, elements)| elements).sum(), call.from.dtype());
        Ok(())
    }

    fn all_gather(&self, _device: &D, call: AllGather<'_, D>) -> Result<(), D::Error> {
        self.count(call.parts[self.rank] * (self.world - 1), call.whole.dtype());
        Ok(())
    }

    fn tell(&self, words: &[u64]) -> Result<Vec<u64>, D::Error> {
        self.count(words.len() * (self.world - 1), DType::F64);
        Ok(words.repeat(self.world))
    }
}
