//! AdamW step of a parameter group, and one update of an average of weights.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{AdamW, Call, Lerp};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut};
use crate::memory::Buffer;
use crate::source::OPTIMIZER;

const THREADS: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Adam {
    w: Mat,
    g: Mat,
    m: Mat,
    v: Mat,
    clip: Mat,
    keep: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    root2: f32,
    eps: f32,
    lead: i32,
    reserved: i32,
}

impl Adam {
    /// The kernel for these operands, and the number of elements before the first aligned group of four.
    fn kernel(&self) -> (&'static str, i32) {
        let lead = lead(&[self.w, self.g, self.m, self.v]);
        match (lead, Mat::common(&[self.w, self.g]), Mat::common(&[self.m, self.v])) {
            (Some(lead), Some(0), Some(0)) => ("adamw_f32", lead),
            (Some(lead), Some(0), Some(1)) => ("adamw_bf16", lead),
            _ => ("adamw_any", 0),
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Interpolation {
    y: Mat,
    x: Mat,
    weight: f32,
    lead: i32,
}

/// The number of elements before the first aligned group of four, where all matrices have the same.
fn lead(mats: &[Mat]) -> Option<i32> {
    let aligned = |m: &Mat, lead: u64| (m.address() + lead * m.size()).is_multiple_of(4 * m.size());
    (0..4).find(|&lead| mats.iter().all(|m| aligned(m, lead))).map(|lead| lead as i32)
}

/// Blocks with a thread for every four elements of `n`, and one for what is left over.
fn blocks(n: usize) -> usize {
    if n == 0 { 0 } else { (n / 4 + 1).div_ceil(THREADS) }
}

impl Cuda {
    pub(super) fn adamw(&self, call: AdamW<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = AdamW::<Buffer>::NAME;
        let n = call.w.cols();
        let r = &call.rates;
        let (c1, c2) = r.corrections();
        let mut args = Adam {
            w: mat_mut(OP, &call.w)?,
            g: mat(OP, &call.g)?,
            m: mat_mut(OP, &call.m)?,
            v: mat_mut(OP, &call.v)?,
            clip: mat(OP, &call.clip)?,
            keep: (1.0 - r.lr * r.decay) as f32,
            beta1: r.beta1 as f32,
            rest1: (1.0 - r.beta1) as f32,
            beta2: r.beta2 as f32,
            rest2: (1.0 - r.beta2) as f32,
            rate: (r.lr / c1) as f32,
            root2: c2.sqrt() as f32,
            eps: r.eps as f32,
            lead: 0,
            reserved: 0,
        };
        let (name, lead) = args.kernel();
        args.lead = lead.min(n as i32);
        self.launch(OPTIMIZER, name, [blocks(n), 1, 1], THREADS as u32, 0, &args)
    }

    pub(super) fn lerp(&self, call: Lerp<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Lerp::<Buffer>::NAME;
        let n = call.y.cols();
        let (y, x) = (mat_mut(OP, &call.y)?, mat(OP, &call.x)?);
        let (name, lead) = match (lead(&[y, x]), y.dtype()) {
            (Some(lead), 0) => ("lerp_f32", lead),
            _ => ("lerp_any", 0),
        };
        let args = Interpolation { y, x, weight: call.weight as f32, lead: lead.min(n as i32) };
        self.launch(OPTIMIZER, name, [blocks(n), 1, 1], THREADS as u32, 0, &args)
    }
}
