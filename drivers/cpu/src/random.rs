//! Random numbers.

use fathom_core::device::RandomNormal;
use fathom_core::rng;

use crate::Cpu;
use crate::error::CpuError;
use crate::mat;
use crate::memory::Buffer;
use crate::par::{BLOCK, Chunks};

impl Cpu {
    pub(crate) fn run_random_normal(&self, call: RandomNormal<'_, Buffer>) -> Result<(), CpuError> {
        let (seed, stream, std) = (call.seed, call.stream, call.std);
        let y = mat::write::<f32>("random_normal", call.y)?.into_slice();
        self.for_each(20 * y.len(), Chunks::new(y, BLOCK), |i, y| {
            rng::fill_normal(seed, stream, (i * BLOCK) as u64, std, y);
        });
        Ok(())
    }
}
