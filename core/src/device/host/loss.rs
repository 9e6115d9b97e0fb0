//! Softmax cross entropy.

use super::matrix::{checked, indices, read, write};
use super::{Host, HostBuffer, Result};
use crate::device::call::{CrossEntropy, IGNORE};

impl Host {
    pub(super) fn cross_entropy(&self, mut call: CrossEntropy<'_, HostBuffer>) -> Result {
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
}
