//! A linear layer, `y = x·Wᵀ + b`: where every matrix product of a layer goes through, and so the one place that knows
//! in which precision it runs. The experts' products are here too, one weight a group of rows.
//!
//! Inference multiplies with weights as they are stored. Decoding reads each weight once (GEMV) and rounds no
//! activations; prefill rounds those that BF16 weights are multiplied with to BF16, once an [`Operand`].

use alloc::format;
use core::ops::Range;

use super::operand::Operand;
use super::{Pass, Phase};
use crate::device::{
    Binary, BinaryOp, Factor, Form, Gemm, GemmFp8, GemmMixed, Gemv, GroupedGemm, GroupedGemmFp8, GroupedGemmMixed,
    GroupedGemv, Kernels, Out, SumColumns,
};
use crate::tensor::{View, ViewMut};
use crate::weights::{Layout, Lowest, Parameters, Slot};

/// A weight `[outputs, inputs]` and, where the model has one, a bias `[outputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    weight: Slot,
    bias: Option<Slot>,
}

impl Linear {
    /// Declares `NAME.weight` and, where asked for, `NAME.bias`.
    pub fn declare(layout: &mut Layout, name: &str, inputs: usize, outputs: usize, bias: bool, lowest: Lowest) -> Self {
        let weight = layout.matrix(format!("{name}.weight"), outputs, inputs, lowest);
        Self { weight, bias: bias.then(|| layout.vector(format!("{name}.bias"), outputs)) }
    }

    /// A layer without bias over a weight that is declared elsewhere: stacked projections, or a tied head.
    pub fn over(weight: Slot) -> Self {
        Self { weight, bias: None }
    }

    /// The weight.
    pub fn weight(&self) -> &Slot {
        &self.weight
    }

    /// Columns of the output.
    pub fn outputs(&self) -> usize {
        self.weight.rows()
    }

    /// Columns of the input.
    pub fn inputs(&self) -> usize {
        self.weight.cols()
    }

    /// Whether this pass multiplies codes alone: what the layer reads then needs no numbers.
    pub fn reads_codes<D: Kernels>(&self, pass: &Pass<'_, D>) -> Result<bool, D::Error> {
        pass.reads_codes(&self.weight)
    }

    /// `y = x·Wᵀ + b`, or `y += …`. `x [t, inputs]`, `y [t, outputs]`.
    pub fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: &Operand<'_, D>,
        mut y: ViewMut<'_, D>,
        out: Out,
    ) -> Result<(), D::Error> {
        self.product(pass, Form::Nt, pass.weight(&self.weight)?, x, y.reborrow(), out)?;
        if let Some(bias) = &self.bias {
            pass.device.binary(Binary::new(BinaryOp::Add, pass.weights.view(bias)?, y)?)?;
        }
        Ok(())
    }

    /// Some columns of `y = x·Wᵀ`: `y [t, outputs.len()]`. Without the bias. The bits are those that all columns give,
    /// where the device's columns do not depend on each other.
    ///
    /// # Errors
    /// Outputs that the layer does not have; of a weight in FP8 those that are no whole blocks.
    pub fn forward_some<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: &Operand<'_, D>,
        outputs: Range<usize>,
        y: ViewMut<'_, D>,
    ) -> Result<(), D::Error> {
        let weight = pass.weight(&self.weight)?;
        let whole = outputs == (0..self.outputs());
        let weight = if whole { weight } else { weight.row_range(outputs)? };
        self.product(pass, Form::Nt, weight, x, y, Out::Replace)
    }

    /// `dx = dy·W`, or `dx += …`. `dy [t, outputs]`, `dx [t, inputs]`.
    pub fn backward_input<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        dy: &Operand<'_, D>,
        dx: ViewMut<'_, D>,
        out: Out,
    ) -> Result<(), D::Error> {
        self.product(pass, Form::Nn, pass.weight(&self.weight)?, dy, dx, out)
    }

    fn product<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        form: Form,
        weight: Factor<'_, D::Buffer>,
        a: &Operand<'_, D>,
        c: ViewMut<'_, D>,
        out: Out,
    ) -> Result<(), D::Error> {
        if form == Form::Nt && pass.phase == Phase::Decode {
            return pass.device.gemv(Gemv::new(a.x()?, weight, c, out)?);
        }
        match weight {
            Factor::Float(w) => pass.device.gemm(Gemm::new(form, a.beside(pass, w.dtype())?, w, c)?.out(out)),
            Factor::Fp8(w) if pass.weights_alone_are_codes(form) => {
                pass.device.gemm_mixed(GemmMixed::new(a.x()?, w, c, out)?)
            }
            Factor::Fp8(w) => {
                let a = a.rows(pass, inner_part(form, &self.weight))?;
                pass.device.gemm_fp8(GemmFp8::new(form, a, w, c, out)?)
            }
        }
    }

    /// What [`backward_weight`](Self::backward_weight) needs of `dy`, once [`backward_input`](Self::backward_input) has
    /// read it.
    pub fn for_weight<'a, D: Kernels>(&self, dy: Operand<'a, D>) -> Operand<'a, D> {
        dy.for_weight(self.bias.is_some())
    }

    /// `dW += dyᵀ·x`, `db += Σ_t dy`.
    pub fn backward_weight<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        x: &Operand<'_, D>,
        dy: &Operand<'_, D>,
    ) -> Result<(), D::Error> {
        let (dw, out) = gradients.accumulator(&self.weight)?;
        match pass.weight(&self.weight)? {
            Factor::Float(_) => pass.device.gemm(Gemm::new(Form::Tn, dy.x()?, x.x()?, dw)?.out(out))?,
            Factor::Fp8(_) => {
                let (dy, x) = (dy.columns(pass)?, x.columns(pass)?);
                pass.device.gemm_fp8(GemmFp8::new(Form::Tn, dy, x, dw, out)?)?;
            }
        }
        if let Some(bias) = &self.bias {
            pass.device.sum_columns(SumColumns::new(dy.x()?, gradients.added_to(pass.device, bias)?)?)?;
        }
        Ok(())
    }
}

/// `N` weights `[outputs, inputs]` one under the other, each for its own group of rows.
#[derive(Clone, Copy, Debug)]
pub struct GroupedLinear {
    weight: Slot,
    groups: usize,
}

impl GroupedLinear {
    /// A layer over `groups` weights that are declared as one stack.
    pub fn over(weight: Slot, groups: usize) -> Self {
        Self { weight, groups }
    }

    /// Columns of the output.
    pub fn outputs(&self) -> usize {
        self.weight.rows() / self.groups
    }

    /// Columns of the input.
    pub fn inputs(&self) -> usize {
        self.weight.cols()
    }

    /// Columns after which the tiles of the output's gradient restart: those of one parameter.
    pub fn part(&self) -> usize {
        self.weight.part()
    }

    /// Whether this pass multiplies codes alone: what the layer reads then needs no numbers.
    pub fn reads_codes<D: Kernels>(&self, pass: &Pass<'_, D>) -> Result<bool, D::Error> {
        pass.reads_codes(&self.weight)
    }

    /// `y = x·W_gᵀ` for the rows of every group `g`.
    pub fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: &Operand<'_, D>,
        offsets: View<'_, D>,
        y: ViewMut<'_, D>,
    ) -> Result<(), D::Error> {
        self.product(pass, Form::Nt, x, offsets, y)
    }

    /// `dx = dy·W_g` for the rows of every group `g`.
    pub fn backward_input<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        dy: &Operand<'_, D>,
        offsets: View<'_, D>,
        dx: ViewMut<'_, D>,
    ) -> Result<(), D::Error> {
        self.product(pass, Form::Nn, dy, offsets, dx)
    }

    fn product<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        form: Form,
        a: &Operand<'_, D>,
        offsets: View<'_, D>,
        c: ViewMut<'_, D>,
    ) -> Result<(), D::Error> {
        let (weight, n) = (pass.weight(&self.weight)?, self.groups);
        if form == Form::Nt && pass.phase == Phase::Decode {
            return pass.device.grouped_gemv(GroupedGemv::new(n, a.x()?, weight, offsets, c)?);
        }
        match weight {
            Factor::Float(w) => {
                let a = a.beside(pass, w.dtype())?;
                pass.device.grouped_gemm(GroupedGemm::new(form, n, a, w, offsets, c)?)
            }
            Factor::Fp8(w) if pass.weights_alone_are_codes(form) => {
                pass.device.grouped_gemm_mixed(GroupedGemmMixed::new(n, a.x()?, w, offsets, c)?)
            }
            Factor::Fp8(w) => {
                let a = a.rows(pass, inner_part(form, &self.weight))?;
                pass.device.grouped_gemm_fp8(GroupedGemmFp8::new(form, n, a, w, offsets, c)?)
            }
        }
    }

    /// `dW_g += dyᵀ·x` over the rows of every group `g`. Both operands are grouped.
    pub fn backward_weight<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        x: &Operand<'_, D>,
        dy: &Operand<'_, D>,
        offsets: View<'_, D>,
    ) -> Result<(), D::Error> {
        let (n, (dw, out)) = (self.groups, gradients.accumulator(&self.weight)?);
        match pass.weight(&self.weight)? {
            Factor::Float(_) => {
                let (dy, x) = (dy.x()?, x.x()?);
                pass.device.grouped_gemm(GroupedGemm::new(Form::Tn, n, dy, x, offsets, dw)?.out(out))
            }
            Factor::Fp8(_) => {
                let (dy, x) = (dy.columns(pass)?, x.columns(pass)?);
                pass.device.grouped_gemm_fp8(GroupedGemmFp8::new(Form::Tn, n, dy, x, offsets, dw)?.out(out))
            }
        }
    }
}

/// Where the tiles of the inner dimension restart: it runs along a weight's columns in `Nt`, along its rows, part by
/// part, in `Nn`.
fn inner_part(form: Form, weight: &Slot) -> usize {
    if form == Form::Nt { weight.cols() } else { weight.part() }
}
