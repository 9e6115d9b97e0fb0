//! The norm of all gradients, with the same bits for any number of ranks.
//!
//! A rank squares and sums the rows that it owns. The sums of all rows are gathered, put in the order of the layout,
//! and added up by every rank in the same way.

use alloc::vec::Vec;

use super::shard::{Band, Shards};
use crate::DType;
use crate::comm::{AllGather, Comm};
use crate::device::{GatherRows, Kernels, Out, ReduceRows, Reduction};
use crate::error::at_most;
use crate::tensor::Tensor;
use crate::weights::{Layout, Parameters};

/// Numbers of an index tensor that are made at a time.
const PART: usize = 1 << 20;

/// The squared norm of a batch's gradients, on the device.
pub(super) struct Norm<D: Kernels> {
    bands: Vec<Band>,
    /// Rows of each rank.
    lengths: Vec<usize>,
    /// `[1, rows]`: Σ squares of every row, rank by rank.
    rows: Tensor<D>,
    /// `[rows, 1]`: where the sum of each row of the layout lies in `rows`, if that is not in the same order.
    order: Option<Tensor<D>>,
    /// `[1, 1]`.
    pub squared: Tensor<D>,
}

/// An index tensor `[total, 1]`, a part at a time: a large model has more rows than the host needs to hold at once.
fn in_parts<D: Kernels>(device: &D, total: usize, mut index: impl Iterator<Item = u32>) -> Result<Tensor<D>, D::Error> {
    let mut tensor = Tensor::<D>::empty(device, &[total, 1], DType::U32)?;
    let (mut part, mut at) = (Vec::new(), 0);
    while at < total {
        part.clear();
        part.extend(index.by_ref().take(PART.min(total - at)));
        tensor.write_elements(device, at, bytemuck::cast_slice(&part))?;
        at += PART;
    }
    Ok(tensor)
}

impl<D: Kernels> Norm<D> {
    /// For gradients of `layout`, of which each rank owns what `shards` says.
    pub fn new(device: &D, layout: &Layout, shards: &Shards, dtype: DType) -> Result<Self, D::Error> {
        let (bands, world) = (Band::all(layout), shards.world());
        let rows = |band: &Band, rank: usize| band.within(&shards.of(band.group, rank)).len() / band.cols;
        let lengths: Vec<usize> = (0..world).map(|rank| bands.iter().map(|band| rows(band, rank)).sum()).collect();
        let total = lengths.iter().sum();
        let order = (world > 1).then(|| {
            at_most("norm", "number of rows =", total, "the most that an index tells apart", u32::MAX as usize)?;
            let mut next: Vec<usize> = (0..world).map(|rank| lengths[..rank].iter().sum()).collect();
            let pieces = bands.iter().flat_map(|band| (0..world).map(move |rank| (band, rank)));
            let pieces = pieces.map(|(band, rank)| {
                let start = next[rank];
                next[rank] += rows(band, rank);
                start as u32..next[rank] as u32
            });
            in_parts(device, total, pieces.flatten())
        });
        Ok(Self {
            bands,
            lengths,
            rows: Tensor::<D>::zeros(device, &[1, total], dtype)?,
            order: order.transpose()?,
            squared: Tensor::<D>::zeros(device, &[1, 1], dtype)?,
        })
    }

    /// Computes it from `gradients`, of which this rank's own part is complete.
    pub fn compute(
        &mut self,
        device: &D,
        comm: &impl Comm<D>,
        shards: &Shards,
        gradients: &Parameters<D>,
    ) -> Result<(), D::Error> {
        let mut column: usize = self.lengths[..shards.rank()].iter().sum();
        for band in &self.bands {
            let own = band.within(&shards.own(band.group));
            let count = own.len() / band.cols;
            if count > 0 {
                let x = gradients.range(band.group, own)?.reshape(count, band.cols)?;
                let sums = self.rows.view_mut().columns(column..column + count)?.reshape(count, 1)?;
                device.reduce_rows(ReduceRows::new(Reduction::SumSquares, x, sums, Out::Replace)?)?;
                column += count;
            }
        }
        let total = self.rows.shape().elements();
        let mut ordered = None;
        if let Some(order) = &self.order {
            comm.all_gather(device, AllGather::new(self.rows.view_mut(), &self.lengths)?)?;
            let rows = self.rows.view().reshape(total, 1)?;
            let sorted = ordered.insert(Tensor::<D>::empty(device, &[total, 1], self.rows.dtype())?);
            device.gather_rows(GatherRows::new(rows, order.view(), 1, sorted.view_mut())?)?;
        }
        let rows = ordered.as_ref().unwrap_or(&self.rows).view().reshape(1, total)?;
        device.reduce_rows(ReduceRows::new(Reduction::Sum, rows, self.squared.view_mut(), Out::Replace)?)
    }
}
