//! AdamW step of a parameter group.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{AdamW, Call};

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
        let wide = [self.w, self.g];
        let aligned = |m: &Mat, lead: u64| (m.address() + lead * m.size()).is_multiple_of(4 * m.size());
        let lead = (0..4).find(|&lead| wide.iter().chain([&self.m, &self.v]).all(|m| aligned(m, lead)));
        match (lead, Mat::common(&wide), Mat::common(&[self.m, self.v])) {
            (Some(lead), Some(0), Some(0)) => ("adamw_f32", lead as i32),
            (Some(lead), Some(0), Some(1)) => ("adamw_bf16", lead as i32),
            _ => ("adamw_any", 0),
        }
    }
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
        // A thread for every four elements, and one for what is left over.
        let blocks = if n == 0 { 0 } else { (n / 4 + 1).div_ceil(THREADS) };
        self.launch(OPTIMIZER, name, [blocks, 1, 1], THREADS as u32, 0, &args)
    }
}
