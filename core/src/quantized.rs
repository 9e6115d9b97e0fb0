//! Quantized tensors: FP8 codes with their scales on a device.

use crate::DType;
use crate::device::{Kernels, Scaled, ScaledMut, Tiles};
use crate::error::InvalidOp;
use crate::tensor::{MatRef, Tensor, View};

/// A matrix of codes with its scales.
pub struct Quantized<D: Kernels> {
    pub(crate) codes: Tensor<D>,
    pub(crate) scales: Tensor<D>,
    pub(crate) tiling: Tiling,
}

/// [`Tiles`] without the offsets of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tiling {
    Row { part: usize },
    Column,
    Groups,
    Block { part: usize },
}

impl Tiling {
    fn tiles<'a, B>(self, offsets: Option<MatRef<'a, B>>) -> Result<Tiles<'a, B>, InvalidOp> {
        Ok(match self {
            Self::Row { part } => Tiles::Row { part },
            Self::Column => Tiles::Column,
            Self::Block { part } => Tiles::Block { part },
            Self::Groups => Tiles::Groups { offsets: offsets.ok_or(InvalidOp::plain("tiles", "lack their groups"))? },
        })
    }
}

impl<D: Kernels> Quantized<D> {
    pub(crate) fn empty(
        device: &D,
        (rows, cols): (usize, usize),
        dtype: DType,
        tiling: Tiling,
        offsets: Option<View<'_, D>>,
    ) -> Result<Self, D::Error> {
        let shape = tiling.tiles(offsets)?.scales(rows, cols);
        Ok(Self {
            codes: Tensor::<D>::empty(device, &[rows, cols.div_ceil(dtype.numbers())], dtype)?,
            scales: Tensor::<D>::empty(device, &shape, DType::F32)?,
            tiling,
        })
    }

    /// Room for the codes of a weight `[rows, cols]` in 128×128 blocks.
    pub(crate) fn blocks(device: &D, rows: usize, cols: usize, part: usize) -> Result<Self, D::Error> {
        Self::empty(device, (rows, cols), DType::E4M3, Tiling::Block { part }, None)
    }

    /// The codes and scales, to read. `offsets` are those of the groups where the tiles have them.
    pub(crate) fn view<'a>(&'a self, offsets: Option<View<'a, D>>) -> Result<Scaled<'a, D::Buffer>, InvalidOp> {
        Scaled::new(self.codes.view(), self.scales.view(), self.tiling.tiles(offsets)?)
    }

    pub(crate) fn view_mut<'a>(
        &'a mut self,
        offsets: Option<View<'a, D>>,
    ) -> Result<ScaledMut<'a, D::Buffer>, InvalidOp> {
        ScaledMut::new(self.codes.view_mut(), self.scales.view_mut(), self.tiling.tiles(offsets)?)
    }

    /// Size on the device in bytes.
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.scales.bytes()
    }
}
