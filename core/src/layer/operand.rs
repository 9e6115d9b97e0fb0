//! GEMM operands and saved activations, in floating point or FP8 (codes with scales).
//!
//! A layer makes an [`Operand`] of every tensor that it multiplies and hands it to each product. Where a product runs
//! in FP8, the operand encodes itself in the tiles that the product needs, once, however many products read it. Where
//! the layer says that both tilings are wanted, one read makes both.

use core::cell::OnceCell;

use super::{Pass, Phase};
use crate::DType;
use crate::device::{Cast, Dequantize, Encoded, GatherCodes, GatherRows, Kernels, QuantizeBoth, Scaled};
use crate::error::InvalidOp;
use crate::quantized::{self, Quantized, Tiling};
use crate::tensor::{Tensor, View};

/// A factor of products: activations, or the gradient of activations.
pub struct Operand<'a, D: Kernels> {
    source: Source<'a, D>,
    power_of_two: bool,
    /// Both tilings will be wanted.
    both: bool,
    /// Offsets of the groups its rows lie in, where they do.
    groups: Option<View<'a, D>>,
    /// The numbers in BF16, for a weight that is multiplied so where the policy keeps f32.
    rounded: OnceCell<Tensor<D>>,
    /// Codes in 1×128 tiles, for the forward product or the input's gradient.
    rows: OnceCell<Quantized<D>>,
    /// Codes in 128×1 tiles, for the weight's gradient.
    columns: OnceCell<Quantized<D>>,
}

/// The numbers of an operand, if it has them.
enum Source<'a, D: Kernels> {
    View(View<'a, D>),
    Owned(Tensor<D>),
    /// Only codes, in `rows` or `columns`.
    Codes,
}

impl<'a, D: Kernels> Operand<'a, D> {
    /// The matrix `x`.
    pub fn of(x: View<'a, D>) -> Self {
        Self::new(Source::View(x))
    }

    /// The matrix `x`, which lives no longer than this.
    pub fn owned(x: Tensor<D>) -> Self {
        Self::new(Source::Owned(x))
    }

    /// The tensor, if it lives no longer than this.
    pub fn into_owned(self) -> Option<Tensor<D>> {
        if let Source::Owned(x) = self.source { Some(x) } else { None }
    }

    /// A matrix `[t, n]` that `make` writes as codes: in 1×128 tiles that restart every `part` columns if there is a
    /// `part`, in 128×1 tiles if `columns`.
    pub fn encoded(
        pass: &Pass<'_, D>,
        shape: (usize, usize),
        part: Option<usize>,
        columns: bool,
        make: impl FnOnce(Encoded<'_, D::Buffer>) -> Result<(), D::Error>,
    ) -> Result<Self, D::Error> {
        Self::new(Source::Codes).written(pass, shape, part.map(|part| Tiling::Row { part }), columns, make)
    }

    /// This with codes of the tilings that are asked for, which `make` writes.
    fn written(
        self,
        pass: &Pass<'_, D>,
        shape: (usize, usize),
        rows: Option<Tiling>,
        columns: bool,
        make: impl FnOnce(Encoded<'_, D::Buffer>) -> Result<(), D::Error>,
    ) -> Result<Self, D::Error> {
        let mut rows = rows.map(|t| Quantized::empty(pass.device, shape, DType::E4M3, t, None)).transpose()?;
        let mut columns = columns.then(|| self.empty_columns(pass, shape)).transpose()?;
        let power_of_two = self.rounds_scales(pass);
        quantized::encode(pass.device, rows.as_mut(), columns.as_mut(), self.groups, power_of_two, make)?;
        Ok(Self { rows: cell(rows), columns: cell(columns), ..self })
    }

    fn new(source: Source<'a, D>) -> Self {
        let (rounded, rows, columns) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { source, power_of_two: false, both: false, groups: None, rounded, rows, columns }
    }

    /// The same, which a product along its columns reads first and one along its rows later: both tilings are made when
    /// the first is asked for.
    pub fn both(mut self) -> Self {
        self.both = true;
        self
    }

    /// What a weight's gradient reads of this once the input's is done: where there are codes in 128×1 tiles those,
    /// and the numbers if `numbers`.
    pub fn for_weight(mut self, numbers: bool) -> Self {
        if self.columns.get().is_some() {
            self.rows = OnceCell::new();
            if !numbers {
                self.source = Source::Codes;
            }
        }
        self
    }

    /// The same with scales that are powers of two, if `power_of_two`.
    pub fn power_of_two(mut self, power_of_two: bool) -> Self {
        self.power_of_two = power_of_two;
        self
    }

    /// The same with rows in groups.
    pub fn grouped(mut self, offsets: View<'a, D>) -> Self {
        self.groups = Some(offsets);
        self
    }

    /// The numbers.
    pub fn x(&self) -> Result<View<'_, D>, InvalidOp> {
        match &self.source {
            Source::View(x) => Ok(*x),
            Source::Owned(x) => Ok(x.view()),
            Source::Codes => Err(InvalidOp::plain("operand", "was kept as codes only")),
        }
    }

    /// The numbers as they are multiplied with a weight of type `weight`: f32 is rounded to BF16 where that is BF16, so
    /// that processors with BF16 products use them.
    pub fn beside(&self, pass: &Pass<'_, D>, weight: DType) -> Result<View<'_, D>, D::Error> {
        let x = self.x()?;
        if (x.dtype(), weight) != (DType::F32, DType::BF16) {
            return Ok(x);
        }
        if self.rounded.get().is_none() {
            let mut rounded = Tensor::<D>::empty(pass.device, &[x.rows(), x.cols()], DType::BF16)?;
            pass.device.cast(Cast::new(x, rounded.view_mut())?)?;
            let _ = self.rounded.set(rounded);
        }
        Ok(self.rounded.get().map_or(x, Tensor::<D>::view))
    }

    /// Codes in 1×128 tiles, restarting every `part` columns.
    pub fn rows(&self, pass: &Pass<'_, D>, part: usize) -> Result<Scaled<'_, D::Buffer>, D::Error> {
        if self.rows.get().is_none() {
            let x = self.x()?;
            let (shape, tiling, power_of_two) = ((x.rows(), x.cols()), Tiling::Row { part }, self.rounds_scales(pass));
            let mut q = Quantized::empty(pass.device, shape, DType::E4M3, tiling, None)?;
            if self.both && self.columns.get().is_none() {
                let mut columns = self.empty_columns(pass, shape)?;
                let both = (Some(&mut q), Some(&mut columns));
                quantized::encode(pass.device, both.0, both.1, self.groups, power_of_two, |y| {
                    pass.device.quantize_both(QuantizeBoth::new(x, y)?)
                })?;
                let _ = self.columns.set(columns);
            } else {
                quantized::quantize(pass.device, x, q.view_mut(None)?, power_of_two)?;
            }
            let _ = self.rows.set(q);
        }
        Ok(made(&self.rows)?.view(None)?)
    }

    /// Codes in 128×1 tiles, by group where the rows are grouped. Made from the numbers, or where there are none from
    /// the codes in 1×128 tiles.
    pub fn columns(&self, pass: &Pass<'_, D>) -> Result<Scaled<'_, D::Buffer>, D::Error> {
        if self.columns.get().is_none() {
            let power_of_two = self.rounds_scales(pass);
            let q = if let Source::Codes = self.source {
                let rows = made(&self.rows)?.view(None)?;
                let mut q = self.empty_columns(pass, (rows.rows(), rows.cols()))?;
                quantized::requantize(pass.device, rows, q.view_mut(self.groups)?, power_of_two)?;
                q
            } else {
                let x = self.x()?;
                let mut q = self.empty_columns(pass, (x.rows(), x.cols()))?;
                quantized::quantize(pass.device, x, q.view_mut(self.groups)?, power_of_two)?;
                q
            };
            let _ = self.columns.set(q);
        }
        Ok(made(&self.columns)?.view(self.groups)?)
    }

    /// Row `order[r] / divisor` of this operand in row `r`, in groups of `offsets`: what goes to the experts. As codes
    /// where the policy dispatches those: for products along its columns if `along` (`part` as in
    /// [`rows`](Self::rows)), for a weight's gradient if `across`. Else as numbers.
    pub fn gather<'b>(
        &self,
        pass: &Pass<'_, D>,
        part: usize,
        (order, divisor): (View<'_, D>, usize),
        offsets: View<'b, D>,
        (along, across): (bool, bool),
    ) -> Result<Operand<'b, D>, D::Error> {
        // Decoding multiplies numbers.
        if !pass.precision.dispatches_codes() || pass.phase == Phase::Decode {
            let x = self.x()?;
            let mut y = Tensor::<D>::empty(pass.device, &[order.rows(), x.cols()], x.dtype())?;
            pass.device.gather_rows(GatherRows::new(x, order, divisor, y.view_mut())?)?;
            let gathered = Operand::owned(y).power_of_two(self.power_of_two).grouped(offsets);
            return Ok(if along && across { gathered.both() } else { gathered });
        }
        let x = self.rows(pass, part)?;
        let gathered = Operand::new(Source::Codes).power_of_two(self.power_of_two).grouped(offsets);
        let tiling = along.then_some(Tiling::Row { part });
        gathered.written(pass, (order.rows(), x.cols()), tiling, across, |y| {
            pass.device.gather_codes(GatherCodes::new(x, order, divisor, y)?)
        })
    }

    /// Room for codes in 128×1 tiles of a matrix of `shape`.
    fn empty_columns(&self, pass: &Pass<'_, D>, shape: (usize, usize)) -> Result<Quantized<D>, D::Error> {
        let tiling = if self.groups.is_some() { Tiling::Groups } else { Tiling::Column };
        Quantized::empty(pass.device, shape, DType::E4M3, tiling, self.groups)
    }

    fn rounds_scales(&self, pass: &Pass<'_, D>) -> bool {
        self.power_of_two || pass.precision.recipe.power_of_two
    }
}

fn cell<T>(value: Option<T>) -> OnceCell<T> {
    value.map_or_else(OnceCell::new, OnceCell::from)
}

fn made<D: Kernels>(cell: &OnceCell<Quantized<D>>) -> Result<&Quantized<D>, InvalidOp> {
    cell.get().ok_or(InvalidOp::plain("operand", "has neither numbers nor codes"))
}

/// A tensor that the backward pass will want again, as the policy keeps it.
pub enum Kept<D: Kernels> {
    /// As it was.
    Plain(Tensor<D>),
    /// As codes with scales.
    Quantized(Quantized<D>),
}

/// A tensor that was kept or made again.
pub enum Restored<'a, D: Kernels> {
    /// As it was kept.
    Kept(&'a Tensor<D>),
    /// Made again.
    Again(Tensor<D>),
}

impl<D: Kernels> Restored<'_, D> {
    /// The whole tensor.
    pub fn view(&self) -> View<'_, D> {
        match self {
            Self::Kept(x) => x.view(),
            Self::Again(x) => x.view(),
        }
    }
}

impl<D: Kernels> Kept<D> {
    /// Keeps `x` as codes of type `dtype` in 1×128 tiles, restarting every `part` columns.
    pub fn codes(
        pass: &Pass<'_, D>,
        x: &Tensor<D>,
        dtype: DType,
        part: usize,
        power_of_two: bool,
    ) -> Result<Self, D::Error> {
        let shape = (x.shape().rows(), x.shape().cols());
        let mut q = Quantized::empty(pass.device, shape, dtype, Tiling::Row { part }, None)?;
        let power_of_two = power_of_two || pass.precision.recipe.power_of_two;
        quantized::quantize(pass.device, x.view(), q.view_mut(None)?, power_of_two)?;
        Ok(Self::Quantized(q))
    }

    /// The tensor again, as an activation.
    pub fn restore(&self, pass: &Pass<'_, D>) -> Result<Restored<'_, D>, D::Error> {
        match self {
            Self::Plain(x) => Ok(Restored::Kept(x)),
            Self::Quantized(q) => {
                let codes = q.view(None)?;
                let mut x = pass.activation(codes.rows(), codes.cols())?;
                pass.device.dequantize(Dequantize::new(codes, x.view_mut())?)?;
                Ok(Restored::Again(x))
            }
        }
    }
}
