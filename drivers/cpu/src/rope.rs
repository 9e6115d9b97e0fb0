//! Rotary position embedding.

use fathom_core::device::Rope;

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, check_index};
use crate::memory::Buffer;
use crate::par::Tiles;
use crate::real::{Real, typed};
use crate::simd::kernel;

kernel! {
    /// Rotates each pair of `x` by the pair `(cos, sin)` of `angles`, or by `(cos, −sin)` with `sign` −1.
    fn rotate<T: Real>(x: &mut [T], angles: &[f32], sign: f32) {
        let ((pairs, _), (angles, _)) = (x.as_chunks_mut::<2>(), angles.as_chunks::<2>());
        for (pair, &[cos, sin]) in pairs.iter_mut().zip(angles) {
            let [even, odd] = pair.map(T::load);
            *pair = [even * cos - odd * (sign * sin), even * (sign * sin) + odd * cos].map(T::store);
        }
    }
}

typed! {
    rope: Rope[x] => run_rope,
}

impl Cpu {
    fn run_rope<T: Real>(&self, call: Rope<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "rope";
        let (head, start, isa) = (call.head, call.start, self.isa());
        let sign = if call.inverse { -1.0 } else { 1.0 };
        let table = mat::read::<f32>(OP, &call.table)?;
        let positions = mat::read::<u32>(OP, &call.positions)?;
        let x = mat::write::<T>(OP, call.x)?;
        check_index(OP, &positions, table.rows())?;
        self.for_each(x.rows() * x.cols() / 2, Tiles::of_rows(x), |_, mut x| {
            x.for_rows(|r, row| {
                let angles = table.row(positions.row(r)[0] as usize);
                for head in row.chunks_exact_mut(head) {
                    rotate(isa, &mut head[start..start + angles.len()], angles, sign);
                }
            });
        });
        Ok(())
    }
}
