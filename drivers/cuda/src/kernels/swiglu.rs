//! SwiGLU and its gradient.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, Swiglu, SwigluGrad, SwigluQuantize};

use super::quantize::{Both, encoding_names};
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, eights, mat, mat_mut, threads_for, wide};
use crate::memory::Buffer;
use crate::source::SWIGLU;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Forward {
    gate: Mat,
    up: Mat,
    scale: Mat,
    y: Mat,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Backward {
    gate: Mat,
    up: Mat,
    scale: Mat,
    dy: Mat,
    d_gate: Mat,
    d_up: Mat,
    dscale: Mat,
    y: Mat,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Activate {
    both: Both,
    up: Mat,
    scale: Mat,
}

impl Cuda {
    pub(super) fn swiglu(&self, call: Swiglu<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Swiglu::<Buffer>::NAME;
        let (rows, cols) = (call.y.rows(), call.y.cols());
        let args = Forward {
            gate: mat(OP, &call.gate_up.columns(0..cols)?)?,
            up: mat(OP, &call.gate_up.columns(cols..2 * cols)?)?,
            scale: call.scale.map_or(Ok(Mat::NONE), |s| mat(OP, &s))?,
            y: mat_mut(OP, &call.y)?,
        };
        let name = wide!("swiglu", &[args.gate, args.up, args.y], &[]);
        let rows = if cols == 0 { 0 } else { rows };
        self.launch(SWIGLU, name, [rows, 1, 1], threads_for(eights(cols), 256), 0, &args)
    }

    pub(super) fn swiglu_quantize(&self, call: SwigluQuantize<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = SwigluQuantize::<Buffer>::NAME;
        let cols = call.y.shape().1;
        let mut encoding = self.encoding(OP, mat(OP, &call.gate_up.columns(0..cols)?)?, cols, &call.y)?;
        let up = mat(OP, &call.gate_up.columns(cols..2 * cols)?)?;
        encoding.wide &= up.is_aligned(16);
        let scale = call.scale.map_or(Ok(Mat::NONE), |s| mat(OP, &s))?;
        let args = Activate { both: encoding.args, up, scale };
        self.launch_encoding((OP, SWIGLU), encoding_names!("swiglu"), [2, 2, 1], &encoding, &args)
    }

    pub(super) fn swiglu_grad(&self, call: SwigluGrad<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = SwigluGrad::<Buffer>::NAME;
        let (rows, cols) = (call.dy.rows(), call.dy.cols());
        let d_gate_up = call.d_gate_up.as_ref();
        let args = Backward {
            gate: mat(OP, &call.gate_up.columns(0..cols)?)?,
            up: mat(OP, &call.gate_up.columns(cols..2 * cols)?)?,
            scale: call.scale.map_or(Ok(Mat::NONE), |s| mat(OP, &s))?,
            dy: mat(OP, &call.dy)?,
            d_gate: mat(OP, &d_gate_up.columns(0..cols)?)?,
            d_up: mat(OP, &d_gate_up.columns(cols..2 * cols)?)?,
            dscale: call.dscale.as_ref().map_or(Ok(Mat::NONE), |s| mat_mut(OP, s))?,
            y: mat_mut(OP, &call.y)?,
        };
        let activations = [args.gate, args.up, args.dy, args.d_gate, args.d_up, args.y];
        let name = wide!("swiglu_grad", &activations, &[]);
        self.launch(SWIGLU, name, [rows, 1, 1], threads_for(eights(cols), 256), 32 * 4, &args)
    }
}
