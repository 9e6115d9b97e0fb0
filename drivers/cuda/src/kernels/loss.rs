//! Softmax cross entropy, whose gradient replaces the logits in place.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, CrossEntropy};

use super::site;
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, eights, mat, mat_mut, threads_for, wide};
use crate::memory::Buffer;
use crate::source::LOSS;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Args {
    logits: Mat,
    targets: Mat,
    nll: Mat,
    fault: u64,
    scale: f32,
    has_gradient: u32,
    site: u32,
    reserved: u32,
}

impl Cuda {
    pub(super) fn cross_entropy(&self, call: CrossEntropy<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = CrossEntropy::<Buffer>::NAME;
        let args = Args {
            logits: mat_mut(OP, &call.logits)?,
            targets: mat(OP, &call.targets)?,
            nll: mat_mut(OP, &call.nll)?,
            fault: self.report(),
            scale: call.gradient.unwrap_or(0.0) as f32,
            has_gradient: call.gradient.is_some().into(),
            site: site(OP),
            reserved: 0,
        };
        let name = wide!("cross_entropy", &[args.logits], &[]);
        let threads = threads_for(eights(call.logits.cols()), 1024);
        self.launch(LOSS, name, [call.logits.rows(), 1, 1], threads, 32 * 4, &args)
    }
}
