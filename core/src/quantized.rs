//! Quantized tensors: FP8 codes with their scales on a device.

use core::ops::Range;

use crate::DType;
use crate::device::{Encoded, Fill, Kernels, Quantize, Requantize, Scaled, ScaledMut, Tiles, Written};
use crate::error::{DeviceError, ErrorKind, InvalidOp, at_most, ensure, multiple, same};
use crate::fp8::TILE;
use crate::tensor::{MatRef, Tensor, View, ViewMut};

/// Quantizes `x` in a training pass. Where a device refuses NaN or infinity at once, the scales become NaN in place of
/// an error: so does every product, the step is not applied, and a rank that alone met it stays with the others.
pub(crate) fn quantize<D: Kernels>(
    device: &D,
    x: View<'_, D>,
    y: ScaledMut<'_, D::Buffer>,
    power_of_two: bool,
) -> Result<(), D::Error> {
    let mut call = Quantize::new(x, y, power_of_two)?;
    let done = device.quantize(call.lend());
    or_nan(device, done, call.y.scales)
}

/// Quantizes codes in other tiles, as [`quantize`].
pub(crate) fn requantize<D: Kernels>(
    device: &D,
    x: Scaled<'_, D::Buffer>,
    y: ScaledMut<'_, D::Buffer>,
    power_of_two: bool,
) -> Result<(), D::Error> {
    let mut call = Requantize::new(x, y, power_of_two)?;
    let done = device.requantize(call.lend());
    or_nan(device, done, call.y.scales)
}

/// Runs `make` on room for codes in each of the tilings that are given. Where a device refuses NaN or infinity at once,
/// all scales become NaN, as in [`quantize`]. `offsets` are those of the groups of `columns`, where it has them.
pub(crate) fn encode<D: Kernels>(
    device: &D,
    mut rows: Option<&mut Quantized<D>>,
    mut columns: Option<&mut Quantized<D>>,
    offsets: Option<View<'_, D>>,
    power_of_two: bool,
    make: impl FnOnce(Encoded<'_, D::Buffer>) -> Result<(), D::Error>,
) -> Result<(), D::Error> {
    let along = rows.as_mut().map(|rows| rows.view_mut(None)).transpose()?;
    let across = columns.as_mut().map(|columns| columns.view_mut(offsets)).transpose()?;
    match make(Encoded::new(along, across, power_of_two)?) {
        Err(error) if error.kind() == ErrorKind::NonFinite => {
            let mut all = rows.into_iter().chain(columns);
            all.try_for_each(|q| device.fill(Fill::new(q.scales.view_mut(), f64::NAN)))
        }
        done => done,
    }
}

fn or_nan<D: Kernels>(device: &D, done: Result<(), D::Error>, scales: ViewMut<'_, D>) -> Result<(), D::Error> {
    match done {
        Err(error) if error.kind() == ErrorKind::NonFinite => device.fill(Fill::new(scales, f64::NAN)),
        done => done,
    }
}

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

    /// Codes and scales of rows `first..first + rows` of the part that starts at row `base`, to write: of whole blocks.
    /// From the first row of a part on they may be those of several whole parts.
    pub(crate) fn block_rows(
        &mut self,
        base: usize,
        first: usize,
        rows: usize,
    ) -> Result<(ViewMut<'_, D>, ViewMut<'_, D>), InvalidOp> {
        let scales = self.rows_of_scales(base, first, rows)?;
        let codes = self.codes.view_mut().row_range(base + first..base + first + rows)?;
        Ok((codes, self.scales.view_mut().row_range(scales)?))
    }

    /// Replaces those rows by codes and scales.
    pub(crate) fn write_rows(
        &mut self,
        device: &D,
        base: usize,
        first: usize,
        rows: usize,
        codes: &[u8],
        scales: &[f32],
    ) -> Result<(), D::Error> {
        let at = self.rows_of_scales(base, first, rows)?;
        let (cols, across) = (self.codes.shape().cols(), self.scales.shape().cols());
        same("write", "scales of the blocks", at.len() * across, scales.len())?;
        self.codes.write_elements(device, (base + first) * cols, codes)?;
        self.scales.write_elements(device, at.start * across, bytemuck::cast_slice(scales))
    }

    /// The rows of scales that those rows have, in 128×128 blocks.
    fn rows_of_scales(&self, base: usize, first: usize, rows: usize) -> Result<Range<usize>, InvalidOp> {
        const OP: &str = "blocks";
        let Tiling::Block { part } = self.tiling else { return Err(InvalidOp::plain(OP, "must be 128x128")) };
        multiple(OP, "the first row of a parameter", base, "the rows of a part", part)?;
        multiple(OP, "the first row", first, "the rows of a block", TILE)?;
        let (start, end) = (base / part * part.div_ceil(TILE), first + rows);
        if first == 0 && rows.is_multiple_of(part) {
            return Ok(start..start + rows / part * part.div_ceil(TILE));
        }
        ensure(OP, "rows must end where a block or the parameter does", end == part || end.is_multiple_of(TILE))?;
        at_most(OP, "the last row", end, "the rows of a part", part)?;
        Ok(start + first / TILE..start + end.div_ceil(TILE))
    }

    /// Size on the device in bytes.
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.scales.bytes()
    }
}
