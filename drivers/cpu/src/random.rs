//! Random numbers.

use fathom_core::device::RandomNormal;
use fathom_core::rng;

use crate::Cpu;
use crate::error::CpuError;
use crate::mat;
use crate::memory::Buffer;
use crate::par::{BLOCK, Chunks};
use crate::real::Real;

/// Numbers drawn in f32 before they are stored.
const PIECE: usize = 256;

impl Cpu {
    pub(crate) fn run_random_normal<T: Real>(&self, call: RandomNormal<'_, Buffer>) -> Result<(), CpuError> {
        let (seed, stream, std) = (call.seed, call.stream, call.std);
        let y = mat::write::<T>("random_normal", call.y)?.into_slice();
        self.for_each(20 * y.len(), Chunks::new(y, BLOCK), |i, y| {
            let mut drawn = [0.0; PIECE];
            for (piece, y) in y.chunks_mut(PIECE).enumerate() {
                let drawn = &mut drawn[..y.len()];
                rng::fill_normal(seed, stream, (i * BLOCK + piece * PIECE) as u64, std, drawn);
                y.iter_mut().zip(drawn).for_each(|(y, &mut x)| *y = T::store(x));
            }
        });
        Ok(())
    }
}
