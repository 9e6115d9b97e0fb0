//! The AdamW step of a parameter group, and one update of an average of weights.

use fathom_core::device::{AdamW, Lerp};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat;
use crate::memory::Buffer;
use crate::par::{BLOCK, Chunks};
use crate::real::{Real, typed};
use crate::simd::kernel;

/// The numbers of a step, as the loop uses them.
#[derive(Clone, Copy)]
struct Step {
    clip: f32,
    keep: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    root2: f32,
    eps: f32,
}

kernel! {
    fn update<T: Real>(step: &Step, w: &mut [f32], g: &[f32], m: &mut [T], v: &mut [T]) {
        let s = *step;
        for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = s.clip * g;
            // The weight moves by the moments as computed, before they are rounded to be kept.
            let first = s.beta1 * m.load() + s.rest1 * g;
            let second = s.beta2 * v.load() + s.rest2 * g * g;
            *m = T::store(first);
            *v = T::store(second);
            *w = s.keep * *w - s.rate * first / (second.sqrt() / s.root2 + s.eps);
        }
    }
}

kernel! {
    fn interpolate(weight: f32, y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += weight * (x - *y);
        }
    }
}

typed! {
    adamw: AdamW[m] => run_adamw,
}

impl Cpu {
    fn run_adamw<T: Real>(&self, call: AdamW<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "adamw";
        let clip = mat::read::<f32>(OP, &call.clip)?.row(0)[0];
        let g = mat::read::<f32>(OP, &call.g)?.as_slice();
        let w = mat::write::<f32>(OP, call.w)?.into_slice();
        let [m, v] = [call.m, call.v].map(|x| mat::write::<T>(OP, x));
        let (m, v) = (m?.into_slice(), v?.into_slice());
        if clip.is_nan() {
            return Ok(());
        }
        let r = call.rates;
        let (c1, c2) = r.corrections();
        let step = Step {
            clip,
            keep: (1.0 - r.lr * r.decay) as f32,
            beta1: r.beta1 as f32,
            rest1: (1.0 - r.beta1) as f32,
            beta2: r.beta2 as f32,
            rest2: (1.0 - r.beta2) as f32,
            rate: (r.lr / c1) as f32,
            root2: c2.sqrt() as f32,
            eps: r.eps as f32,
        };
        let (isa, work) = (self.isa(), w.len());
        let parts = (Chunks::new(w, BLOCK), Chunks::new(m, BLOCK), Chunks::new(v, BLOCK));
        self.for_each(work, parts, |i, (w, m, v)| {
            update(isa, &step, w, &g[i * BLOCK..][..w.len()], m, v);
        });
        Ok(())
    }

    pub(crate) fn lerp(&self, call: Lerp<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "lerp";
        let x = mat::read::<f32>(OP, &call.x)?.as_slice();
        let y = mat::write::<f32>(OP, call.y)?.into_slice();
        let (isa, work, weight) = (self.isa(), y.len(), call.weight as f32);
        self.for_each(work, Chunks::new(y, BLOCK), |i, y| interpolate(isa, weight, y, &x[i * BLOCK..][..y.len()]));
        Ok(())
    }
}
