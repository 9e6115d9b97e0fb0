//! The kernels of the training step: loss, optimiser, expert bias.

use super::matrix::{checked, indices, read, write};
use super::primitives::sign;
use super::{HostBuffer, Result};
use crate::device::{AdamW, CrossEntropy, IGNORE, UpdateBias};

pub(super) fn cross_entropy(mut call: CrossEntropy<'_, HostBuffer>) -> Result {
    let mut x = read(&call.logits.as_ref());
    let mut nll = alloc::vec![0.0; x.rows];
    for (r, target) in indices(&call.targets).into_iter().enumerate() {
        let row = x.row_mut(r);
        if target == IGNORE {
            row.fill(0.0);
            continue;
        }
        let target = checked("cross_entropy", target, row.len())?;
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|v| libm::exp(v - max)).sum();
        nll[r] = libm::log(sum) - (row[target] - max);
        for (c, v) in row.iter_mut().enumerate() {
            let softmax = libm::exp(*v - max) / sum;
            *v = call.gradient.unwrap_or(0.0) * (softmax - f64::from(u8::from(c == target)));
        }
    }
    write(&mut call.nll, &nll);
    if call.gradient.is_some() {
        write(&mut call.logits, &x.data);
    }
    Ok(())
}

pub(super) fn adamw(mut call: AdamW<'_, HostBuffer>) -> Result {
    let clip = read(&call.clip).data[0];
    if clip.is_nan() {
        return Ok(());
    }
    let r = &call.rates;
    let (c1, c2) = r.corrections();
    let g = read(&call.g).data;
    let (mut w, mut m, mut v) = (read(&call.w.as_ref()).data, read(&call.m.as_ref()).data, read(&call.v.as_ref()).data);
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

pub(super) fn update_bias(mut call: UpdateBias<'_, HostBuffer>) -> Result {
    let load = read(&call.load).data;
    let mut bias = read(&call.bias.as_ref()).data;
    // sign(mean − load), without the division: exact as long as the counts are.
    let (n, total): (f64, f64) = (load.len() as f64, load.iter().sum());
    for (b, load) in bias.iter_mut().zip(&load) {
        *b += call.speed * sign(total - n * load);
    }
    write(&mut call.bias, &bias);
    Ok(())
}
