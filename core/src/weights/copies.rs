//! The weights as products read them, where that is not the master weights.
//!
//! In training, master weights are f32. Under the BF16 and FP8 policies every product reads a copy, made once after
//! each update and used by all products of a step: BF16, or E4M3 codes in 128×128 blocks, which serve the forward
//! product and the input's gradient alike.
//!
//! In inference there are no master matrices. Each is stored once, in the type of its file or one that was asked for.

use alloc::vec::Vec;
use core::ops::Range;

use super::parameters::{Layout, Lowest, Parameters, Slot};
use crate::DType;
use crate::device::{Cast, Factor, Kernels, Quantize, ScaledMut, Tiles};
use crate::error::{InvalidOp, at_most, ensure, multiple};
use crate::fp8::TILE;
use crate::precision::{Precision, Products};
use crate::quantized::{self, Quantized};
use crate::tensor::{MatMut, Tensor, View, ViewMut};

/// One entry for each of the layout's [weights](Layout::weights).
pub struct Copies<D: Kernels> {
    copies: Vec<Copy<D>>,
    power_of_two: bool,
    /// What it holds are no copies: there are no master matrices.
    stored: bool,
}

enum Copy<D: Kernels> {
    /// Read the master weight.
    None,
    Float(Tensor<D>),
    Fp8(Quantized<D>),
}

impl<D: Kernels> Copy<D> {
    /// Room for what the products of `precision` read of a matrix; none where that is the master weight.
    fn read(device: &D, slot: &Slot, precision: &Precision) -> Result<Self, D::Error> {
        Ok(match (precision.products, slot.lowest()) {
            (Products::F64 | Products::F32, _) | (_, Lowest::Master | Lowest::Lookup) => Self::None,
            (Products::Fp8, Lowest::Fp8) => {
                Self::Fp8(Quantized::blocks(device, slot.rows(), slot.cols(), slot.part())?)
            }
            _ => Self::Float(Tensor::<D>::empty(device, &[slot.rows(), slot.cols()], DType::BF16)?),
        })
    }
}

/// The type that an inference model stores a matrix in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// f32.
    F32,
    /// BF16.
    Bf16,
    /// E4M3 codes with an f32 scale for every 128×128 block of a parameter.
    Fp8,
}

/// Rows of a parameter that are to be stored, and what they come in.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Numbers, rounded to BF16 or quantized where they are stored so.
    F32(&'a [f32]),
    /// BF16 numbers as bytes, little-endian, for a matrix stored in BF16.
    Bf16(&'a [u8]),
    /// For a matrix stored in FP8: codes, and the scales `[⌈rows/128⌉, ⌈columns/128⌉]` of their blocks.
    Fp8 {
        /// One byte for each element.
        codes: &'a [u8],
        /// One number for each block.
        scales: &'a [f32],
    },
}

impl<D: Kernels> Copies<D> {
    /// Room for the copies that `precision` asks for. They hold nothing until they are [made](Self::make).
    pub fn new(device: &D, layout: &Layout, precision: &Precision) -> Result<Self, D::Error> {
        let copies = layout.weights().iter().map(|slot| Copy::read(device, slot, precision));
        let copies = copies.collect::<Result<_, _>>()?;
        Ok(Self { copies, power_of_two: precision.recipe.power_of_two, stored: false })
    }

    /// No copies: the master weights are elsewhere.
    pub fn none(layout: &Layout) -> Self {
        Self { stored: false, ..Self::stored(layout) }
    }

    /// No matrices yet: [room](Self::room) for each is made when it is needed, as `precision` reads it.
    pub(crate) fn stored_as(layout: &Layout, precision: &Precision) -> Self {
        Self { power_of_two: precision.recipe.power_of_two, ..Self::stored(layout) }
    }

    /// Makes room for a matrix as products read it, the master weight's own type included.
    pub(crate) fn room(&mut self, device: &D, slot: &Slot, precision: &Precision) -> Result<(), D::Error> {
        self.copies[slot.index()] = match Copy::read(device, slot, precision)? {
            Copy::None => Copy::Float(Tensor::<D>::empty(device, &[slot.rows(), slot.cols()], precision.master())?),
            copy => copy,
        };
        Ok(())
    }

    /// Lets go of a matrix.
    pub(crate) fn forget(&mut self, slot: &Slot) {
        self.copies[slot.index()] = Copy::None;
    }

    /// Fills rows of a matrix from master weights `x`, the rows alone. In FP8 they begin and end with blocks.
    pub(crate) fn make_rows(
        &mut self,
        device: &D,
        slot: &Slot,
        rows: Range<usize>,
        x: View<'_, D>,
    ) -> Result<(), D::Error> {
        let (part, power_of_two) = (slot.part(), self.power_of_two);
        match &mut self.copies[slot.index()] {
            Copy::None => Err(InvalidOp::plain("make", "a matrix has no room yet").into()),
            Copy::Float(to) => device.cast(Cast::new(x, to.view_mut().row_range(rows)?)?),
            Copy::Fp8(to) => {
                // The rest of a parameter, whole parameters, and the beginning of another.
                let mut next = rows.start;
                while next < rows.end {
                    let (base, first) = (next - next % part, next % part);
                    let whole = (rows.end - next) / part * part;
                    let count = if first == 0 && whole > 0 { whole } else { (part - first).min(rows.end - next) };
                    let (codes, scales) = to.block_rows(base, first, count)?;
                    let y = ScaledMut::new(codes, scales, Tiles::Block { part: count.min(part) })?;
                    let from = x.row_range(next - rows.start..next - rows.start + count)?;
                    quantized::quantize(device, from, y, power_of_two)?;
                    next += count;
                }
                Ok(())
            }
        }
    }

    /// What is exchanged of a matrix of which each rank has the rows `parts`: values, or codes and scales, each as one
    /// row with the number of elements that come from each rank.
    #[allow(clippy::type_complexity)]
    pub(crate) fn parts(
        &mut self,
        slot: &Slot,
        parts: &[Range<usize>],
    ) -> Result<Vec<(ViewMut<'_, D>, Vec<usize>)>, InvalidOp> {
        fn flat<B>(view: MatMut<'_, B>) -> Result<MatMut<'_, B>, InvalidOp> {
            let elements = view.elements();
            view.reshape(1, elements)
        }
        let values = || parts.iter().map(|rows| rows.len() * slot.cols()).collect();
        Ok(match &mut self.copies[slot.index()] {
            Copy::None => Vec::new(),
            Copy::Float(copy) => alloc::vec![(flat(copy.view_mut())?, values())],
            Copy::Fp8(copy) => {
                let (part, across) = (slot.part(), copy.scales.shape().cols());
                let before = |row: usize| row / part * part.div_ceil(TILE) + (row % part).div_ceil(TILE);
                let scales = parts.iter().map(|rows| (before(rows.end) - before(rows.start)) * across).collect();
                alloc::vec![(flat(copy.codes.view_mut())?, values()), (flat(copy.scales.view_mut())?, scales)]
            }
        })
    }

    /// No matrices yet, to be [reserved](Self::reserve) and [written](Self::write): those of an inference model.
    pub fn stored(layout: &Layout) -> Self {
        let copies = layout.weights().iter().map(|_| Copy::None).collect();
        Self { copies, power_of_two: false, stored: true }
    }

    /// Whether these are the only matrices, not copies of master weights.
    pub fn is_stored(&self) -> bool {
        self.stored
    }

    /// Makes room for a matrix, all of a stack, in place of what it held.
    pub fn reserve(&mut self, device: &D, slot: &Slot, storage: Storage) -> Result<(), D::Error> {
        ensure("reserve", "a training model keeps its matrices as master weights", self.stored)?;
        let (rows, cols) = (slot.rows(), slot.cols());
        let float = |dtype| Tensor::<D>::empty(device, &[rows, cols], dtype).map(Copy::Float);
        // What was there is given back first.
        self.copies[slot.index()] = Copy::None;
        self.copies[slot.index()] = match storage {
            Storage::F32 => float(DType::F32)?,
            Storage::Bf16 => float(DType::BF16)?,
            Storage::Fp8 => Copy::Fp8(Quantized::blocks(device, rows, cols, slot.part())?),
        };
        Ok(())
    }

    /// Stores rows of a matrix from row `first` on: of the parameter whose rows start at row `base` of its stack. In
    /// FP8, `first` is a multiple of 128, and the number of rows is too, or they are the parameter's last.
    ///
    /// # Errors
    /// Where the rows do not fit, or come in another type than the matrix is stored in; of kind
    /// [`NonFinite`](crate::error::ErrorKind::NonFinite) where a number that is to be quantized is none.
    pub fn write(
        &mut self,
        device: &D,
        slot: &Slot,
        (base, first): (usize, usize),
        rows: Rows<'_>,
    ) -> Result<(), D::Error> {
        const OP: &str = "write";
        let cols = slot.cols();
        let count = |elements: usize| -> Result<usize, InvalidOp> {
            multiple(OP, "the number of elements", elements, "the columns of the matrix", cols)?;
            at_most(OP, "the last row", first + elements / cols, "the rows of the parameter", slot.part())?;
            Ok(elements / cols)
        };
        let power_of_two = self.power_of_two;
        match (&mut self.copies[slot.index()], rows) {
            (Copy::Float(to), Rows::F32(values)) if to.dtype() == DType::F32 => {
                count(values.len())?;
                to.write_elements(device, (base + first) * cols, bytemuck::cast_slice(values))
            }
            (Copy::Float(to), Rows::Bf16(bytes)) if to.dtype() == DType::BF16 => {
                count(bytes.len() / 2)?;
                to.write_elements(device, (base + first) * cols, bytes)
            }
            (Copy::Float(to), Rows::F32(values)) => {
                let n = count(values.len())?;
                let from = Tensor::<D>::from_slice(device, &[n, cols], DType::F32, values)?;
                let to = to.view_mut().row_range(base + first..base + first + n)?;
                device.cast(Cast::new(from.view(), to)?)
            }
            (Copy::Fp8(to), Rows::F32(values)) => {
                let n = count(values.len())?;
                let from = Tensor::<D>::from_slice(device, &[n, cols], DType::F32, values)?;
                let (codes, scales) = to.block_rows(base, first, n)?;
                let y = ScaledMut::new(codes, scales, Tiles::Block { part: n })?;
                device.quantize(Quantize::new(from.view(), y, power_of_two)?)
            }
            (Copy::Fp8(to), Rows::Fp8 { codes, scales }) => {
                let n = count(codes.len())?;
                to.write_rows(device, base, first, n, codes, scales)
            }
            _ => Err(InvalidOp::plain(OP, "rows come in another type than their matrix is stored in").into()),
        }
    }

    /// Makes all copies again. A weight that is not finite makes NaN of all products with its matrix.
    ///
    /// # Errors
    /// Those of the device.
    pub fn make(&mut self, device: &D, weights: &Parameters<D>) -> Result<(), D::Error> {
        if self.stored {
            return Ok(());
        }
        for (slot, copy) in weights.layout().weights().iter().zip(&mut self.copies) {
            let master = weights.view(slot)?;
            match copy {
                Copy::None => {}
                Copy::Float(to) => device.cast(Cast::new(master, to.view_mut())?)?,
                Copy::Fp8(to) => quantized::quantize(device, master, to.view_mut(None)?, self.power_of_two)?,
            }
        }
        Ok(())
    }

    /// The weight in `slot`.
    pub fn weight<'a>(&'a self, weights: &'a Parameters<D>, slot: &Slot) -> Result<Factor<'a, D::Buffer>, D::Error> {
        Ok(match &self.copies[slot.index()] {
            Copy::None => Factor::Float(weights.view(slot)?),
            Copy::Float(copy) => Factor::Float(copy.view()),
            Copy::Fp8(copy) => Factor::Fp8(copy.view(None)?),
        })
    }

    /// What the matrix in `slot` is stored in; none where products read the master weight, or it is not there yet.
    pub fn storage(&self, slot: &Slot) -> Option<Storage> {
        match &self.copies[slot.index()] {
            Copy::None => None,
            Copy::Float(copy) => Some(if copy.dtype() == DType::BF16 { Storage::Bf16 } else { Storage::F32 }),
            Copy::Fp8(_) => Some(Storage::Fp8),
        }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        let bytes = |copy: &Copy<D>| match copy {
            Copy::None => 0,
            Copy::Float(copy) => copy.bytes(),
            Copy::Fp8(copy) => copy.bytes(),
        };
        self.copies.iter().map(bytes).sum()
    }
}
