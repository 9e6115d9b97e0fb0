//! AdamW step and linear interpolation, in f64.

use super::matrix::{read, write};
use super::{Host, HostBuffer, Result};
use crate::device::call::{AdamW, Lerp};

impl Host {
    pub(super) fn adamw(&self, mut call: AdamW<'_, HostBuffer>) -> Result {
        let clip = read(&call.clip).data[0];
        if clip.is_nan() {
            return Ok(());
        }
        let r = &call.rates;
        let (c1, c2) = r.corrections();
        let g = read(&call.g).data;
        let (mut w, mut m, mut v) =
            (read(&call.w.as_ref()).data, read(&call.m.as_ref()).data, read(&call.v.as_ref()).data);
        for i in 0..w.len() {
            let g = clip * g[i];
            w[i] *= 1.0 - r.lr * r.decay;
            m[i] = r.beta1 * m[i] + (1.0 - r.beta1) * g;
            v[i] = r.beta2 * v[i] + (1.0 - r.beta2) * g * g;
            w[i] -= r.lr / c1 * m[i] / (libm::sqrt(v[i]) / libm::sqrt(c2) + r.eps);
        }
        write(&mut call.w, &w);
        write(&mut call.m, &m);
        write(&mut call.v, &v);
        Ok(())
    }
    pub(super) fn lerp(&self, mut call: Lerp<'_, HostBuffer>) -> Result {
        let (x, mut y) = (read(&call.x).data, read(&call.y.as_ref()).data);
        for (y, x) in y.iter_mut().zip(x) {
            *y += call.weight * (x - *y);
        }
        write(&mut call.y, &y);
        Ok(())
    }
}
