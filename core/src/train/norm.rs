//! The norm of all gradients, with the same bits for any number of ranks.
//!
//! A rank squares and sums the rows that it owns. The sums of all rows are gathered, put in the order of the layout,
//! and added up by every rank in the same way.

use alloc::vec::Vec;

use super::shard::{Band, Shards};
use crate::DType;
use crate::comm::{AllGather, Comm};
use crate::device::{GatherRows, Kernels, Out, ReduceRows, Reduction};
use crate::tensor::Tensor;
use crate::weights::{Layout, Parameters};

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

impl<D: Kernels> Norm<D> {
    /// For gradients of `layout`, of which each rank owns what `shards` says.
    pub fn new(device: &D, layout: &Layout, shards: &Shards, dtype: DType) -> Result<Self, D::Error> {
        let (bands, world) = (Band::all(layout), shards.world());
        let rows = |band: &Band, rank: usize| band.within(&shards.of(band.group, rank)).len() / band.cols;
        let lengths: Vec<usize> = (0..world).map(|rank| bands.iter().map(|band| rows(band, rank)).sum()).collect();
        let total = lengths.iter().sum();
        let order = (world > 1).then(|| {
            let mut next: Vec<usize> = (0..world).map(|rank| lengths[..rank].iter().sum()).collect();
            let mut order = Vec::with_capacity(total);
            for (band, rank) in bands.iter().flat_map(|band| (0..world).map(move |rank| (band, rank))) {
                let count = rows(band, rank);
                order.extend((next[rank]..next[rank] + count).map(|place| place as u32));
                next[rank] += count;
            }
            Tensor::<D>::from_slice(device, &[total, 1], DType::U32, &order)
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
