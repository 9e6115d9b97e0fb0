//! Matrix products (GEMM), plain and grouped.

use super::matrix::{Matrix, before, group_rows, indices, read, write};
use super::{Host, HostBuffer, Result};
use crate::device::call::{Form, Gemm, GroupedGemm};

impl Host {
    pub(super) fn gemm(&self, mut call: Gemm<'_, HostBuffer>) -> Result {
        let (m, n, k) = call.dimensions();
        let (a, b, mut c) = (read(&call.a), read(&call.b), before(&call.c, call.out));
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|l| product(call.form, &a, &b, (i, j, l))).sum();
                c[(i, j)] += call.alpha * sum;
            }
        }
        write(&mut call.c, &c.data);
        Ok(())
    }

    pub(super) fn grouped_gemm(&self, mut call: GroupedGemm<'_, HostBuffer>) -> Result {
        let (n, k) = call.weight();
        let (a, b, mut c) = (read(&call.a), read(&call.b), before(&call.c, call.out));
        for (g, rows) in group_rows("grouped_gemm", &indices(&call.offsets), call.rows())?.enumerate() {
            let weight_row = g * n;
            if call.form == Form::Tn {
                // c[g] (+)= a[rows]ᵀ · b[rows]
                for (i, j) in pairs(n, k) {
                    let sum: f64 = rows.clone().map(|r| a[(r, i)] * b[(r, j)]).sum();
                    c[(weight_row + i, j)] += sum;
                }
                continue;
            }
            for r in rows {
                let columns = c.cols;
                for j in 0..columns {
                    c[(r, j)] += match call.form {
                        Form::Nt => (0..k).map(|l| a[(r, l)] * b[(weight_row + j, l)]).sum::<f64>(),
                        _ => (0..n).map(|l| a[(r, l)] * b[(weight_row + l, j)]).sum(),
                    };
                }
            }
        }
        write(&mut call.c, &c.data);
        Ok(())
    }
}

/// The factor pair of element `(i, j)` of a product at place `l` of the inner dimension.
fn product(form: Form, a: &Matrix, b: &Matrix, (i, j, l): (usize, usize, usize)) -> f64 {
    match form {
        Form::Nt => a[(i, l)] * b[(j, l)],
        Form::Nn => a[(i, l)] * b[(l, j)],
        Form::Tn => a[(l, i)] * b[(l, j)],
    }
}

fn pairs(rows: usize, cols: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |i| (0..cols).map(move |j| (i, j)))
}
