//! The feed-forward network with SwiGLU, `y = W_down·(silu(W_gate·x) ⊙ W_up·x)`: the leading dense layers, and the
//! shared experts (several shared experts are one network of their summed width, as in the checkpoints).

use alloc::format;

use super::Pass;
use super::linear::Linear;
use super::operand::{Kept, Operand};
use crate::DType;
use crate::device::{Kernels, Out, Swiglu, SwigluGrad, SwigluQuantize};
use crate::tensor::{Tensor, View, ViewMut};
use crate::weights::{Layout, Lowest, Parameters};

/// Gate and up projections stacked `[2i, d]`, and the down projection `[d, i]`.
#[derive(Clone, Copy, Debug)]
pub struct Ffn {
    gate_up: Linear,
    down: Linear,
}

/// What the backward pass needs beside the input.
pub struct Saved<D: Kernels> {
    /// The inputs of SwiGLU, `[t, 2i]`; its output is computed again.
    pub gate_up: Kept<D>,
}

/// What the input's gradient leaves for the weights' gradients.
pub struct Pending<'a, D: Kernels> {
    d_gate_up: Operand<'a, D>,
    activated: Operand<'a, D>,
}

impl Ffn {
    /// Declares `NAME.{gate,up,down}_proj.weight` of inner width `inner`.
    pub fn declare(layout: &mut Layout, name: &str, hidden: usize, inner: usize) -> Self {
        let parts = ["gate_proj", "up_proj"].map(|part| format!("{name}.{part}.weight"));
        Self {
            gate_up: Linear::over(layout.stack(2 * inner, hidden, Lowest::Fp8, parts)),
            down: Linear::declare(layout, &format!("{name}.down_proj"), inner, hidden, false, Lowest::Fp8),
        }
    }

    /// `y += ffn(x)`: `x [t, d]`, `y [t, d]` the residual stream.
    pub fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: &Operand<'_, D>,
        y: ViewMut<'_, D>,
    ) -> Result<Saved<D>, D::Error> {
        let t = y.rows();
        let mut gate_up = pass.activation(t, self.gate_up.outputs())?;
        self.gate_up.forward(pass, x, gate_up.view_mut(), Out::Replace)?;
        let activated = activated(pass, gate_up.view(), None, self.down.reads_codes(pass)?)?;
        self.down.forward(pass, &activated, y, Out::Add)?;
        Ok(Saved { gate_up: keep_gate_up(pass, gate_up)? })
    }

    /// Whether this pass reads its input as codes alone.
    pub fn reads_codes<D: Kernels>(&self, pass: &Pass<'_, D>) -> Result<bool, D::Error> {
        self.gate_up.reads_codes(pass)
    }

    /// `dx = …`, or `dx += …`, from the residual stream's gradient `dy [t, d]`.
    pub fn backward_input<'a, D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        saved: &Saved<D>,
        dy: &Operand<'_, D>,
        dx: ViewMut<'_, D>,
        out: Out,
    ) -> Result<Pending<'a, D>, D::Error> {
        let (t, inner) = (dx.rows(), self.down.inputs());
        let mut d_activated = pass.activation(t, inner)?;
        self.down.backward_input(pass, dy, d_activated.view_mut(), Out::Replace)?;
        let mut d_gate_up = pass.activation(t, 2 * inner)?;
        let mut activated = pass.activation(t, inner)?;
        pass.device.swiglu_grad(SwigluGrad::new(
            saved.gate_up.restore(pass)?.view(),
            None,
            d_activated.view(),
            d_gate_up.view_mut(),
            None,
            activated.view_mut(),
        )?)?;
        let d_gate_up = Operand::owned(d_gate_up).both();
        self.gate_up.backward_input(pass, &d_gate_up, dx, out)?;
        Ok(Pending { d_gate_up: self.gate_up.for_weight(d_gate_up), activated: Operand::owned(activated) })
    }

    /// The weights' gradients, from the input `x` and the residual stream's gradient `dy`.
    pub fn backward_weight<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        pending: &Pending<'_, D>,
        x: &Operand<'_, D>,
        dy: &Operand<'_, D>,
    ) -> Result<(), D::Error> {
        self.down.backward_weight(pass, gradients, &pending.activated, dy)?;
        self.gate_up.backward_weight(pass, gradients, x, &pending.d_gate_up)
    }
}

/// The output of SwiGLU, `[t, i]`, for the down projection: as codes if it reads `codes` alone.
pub(super) fn activated<'a, D: Kernels>(
    pass: &Pass<'_, D>,
    gate_up: View<'_, D>,
    scale: Option<View<'_, D>>,
    codes: bool,
) -> Result<Operand<'a, D>, D::Error> {
    let (t, inner) = (gate_up.rows(), gate_up.cols() / 2);
    if codes {
        return Operand::encoded(pass, (t, inner), Some(inner), false, |y| {
            pass.device.swiglu_quantize(SwigluQuantize::new(gate_up, scale, y)?)
        });
    }
    let mut y = pass.activation(t, inner)?;
    pass.device.swiglu(Swiglu::new(gate_up, scale, y.view_mut())?)?;
    Ok(Operand::owned(y))
}

/// The inputs of SwiGLU `[t, 2i]` as the policy keeps them: gate and up are tiled each for itself.
pub(super) fn keep_gate_up<D: Kernels>(pass: &Pass<'_, D>, gate_up: Tensor<D>) -> Result<Kept<D>, D::Error> {
    if pass.training && pass.precision.keeps_swiglu_codes() {
        let part = gate_up.shape().cols() / 2;
        Kept::codes(pass, &gate_up, DType::E4M3, part, false)
    } else {
        Ok(Kept::Plain(gate_up))
    }
}
