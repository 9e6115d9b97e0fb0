//! Weights that are divided among the ranks, gathered a group at a time, as products read them.
//!
//! Each rank keeps the f32 master weights that it owns. When a pass comes to a group, every rank casts or quantizes its
//! rows, and the ranks exchange the results: BF16 values, or FP8 codes with their scales, where the policy multiplies
//! in those, else f32. Owned rows begin and end with blocks, so the codes are those of one rank alone. After the pass
//! has left the group, its weights are dropped.

use alloc::vec::Vec;
use core::ops::Range;

use super::shard::Shards;
use crate::comm::{AllGather, Comm};
use crate::device::{Cast, Kernels};
use crate::model::Store;
use crate::precision::Precision;
use crate::weights::{Copies, Layout, Parameters, Slot};

/// The groups that a pass is in, gathered from all ranks.
pub(super) struct Gathered<'a, D: Kernels, C: Comm<D>> {
    comm: &'a C,
    shards: &'a Shards,
    /// What this rank owns.
    owned: &'a Parameters<D>,
    precision: Precision,
    /// The vectors of the groups that are here.
    vectors: Parameters<D>,
    /// The matrices of the groups that are here.
    matrices: Copies<D>,
    /// How often each group was fetched and not yet released.
    uses: Vec<usize>,
}

impl<'a, D: Kernels, C: Comm<D>> Gathered<'a, D, C> {
    /// Nothing gathered yet of the weights of which this rank has `owned`.
    pub fn new(
        device: &D,
        comm: &'a C,
        shards: &'a Shards,
        owned: &'a Parameters<D>,
        precision: Precision,
    ) -> Result<Self, D::Error> {
        let layout = owned.layout();
        Ok(Self {
            comm,
            shards,
            owned,
            precision,
            vectors: Parameters::closed(device, layout, owned.dtype())?,
            matrices: Copies::stored_as(layout, &precision),
            uses: alloc::vec![0; layout.groups().len()],
        })
    }

    fn layout(&self) -> &'a Layout {
        self.owned.layout()
    }

    /// The matrices of a group.
    fn slots(&self, group: usize) -> impl Iterator<Item = &'a Slot> + use<'a, D, C> {
        self.layout().weights().iter().filter(move |slot| slot.group() == group)
    }

    fn gather_vectors(&mut self, device: &D, group: usize) -> Result<(), D::Error> {
        let end = self.layout().groups()[group].vectors;
        if end == 0 {
            return Ok(());
        }
        let part = |rank: usize| -> Range<usize> {
            let whole = self.shards.of(group, rank);
            whole.start.min(end)..whole.end.min(end)
        };
        self.vectors.open_vectors(device, group)?;
        let mine = part(self.shards.rank());
        let lengths: Vec<usize> = (0..self.shards.world()).map(|rank| part(rank).len()).collect();
        let from = self.owned.range(group, mine.clone())?;
        device.cast(Cast::new(from, self.vectors.range_mut(group, mine)?)?)?;
        self.comm.all_gather(device, AllGather::new(self.vectors.range_mut(group, 0..end)?, &lengths)?)
    }

    fn gather_matrix(&mut self, device: &D, slot: &Slot) -> Result<(), D::Error> {
        let (group, elements) = self.layout().extent(slot);
        let rows = |rank: usize| -> Range<usize> {
            let part = self.shards.of(group, rank);
            let start = part.start.clamp(elements.start, elements.end);
            let end = part.end.clamp(start, elements.end);
            (start - elements.start) / slot.cols()..(end - elements.start) / slot.cols()
        };
        let parts: Vec<Range<usize>> = (0..self.shards.world()).map(rows).collect();
        let mine = &parts[self.shards.rank()];
        let first = elements.start + mine.start * slot.cols();
        let owned = self.owned.range(group, first..first + mine.len() * slot.cols())?;
        self.matrices.room(device, slot, &self.precision)?;
        self.matrices.make_rows(device, slot, mine.clone(), owned.reshape(mine.len(), slot.cols())?)?;
        for (whole, lengths) in self.matrices.parts(slot, &parts)? {
            self.comm.all_gather(device, AllGather::new(whole, &lengths)?)?;
        }
        Ok(())
    }
}

impl<D: Kernels, C: Comm<D>> Store<D> for Gathered<'_, D, C> {
    fn fetch(&mut self, device: &D, group: usize) -> Result<(), D::Error> {
        self.uses[group] += 1;
        if self.uses[group] > 1 {
            return Ok(());
        }
        self.gather_vectors(device, group)?;
        self.slots(group).try_for_each(|slot| self.gather_matrix(device, slot))
    }

    fn release(&mut self, device: &D, group: usize) -> Result<(), D::Error> {
        self.uses[group] -= 1;
        if self.uses[group] > 0 {
            return Ok(());
        }
        self.slots(group).for_each(|slot| self.matrices.forget(slot));
        self.vectors.close(device, group).map(drop)
    }

    fn weights(&self) -> &Parameters<D> {
        &self.vectors
    }

    fn copies(&self) -> &Copies<D> {
        &self.matrices
    }
}
