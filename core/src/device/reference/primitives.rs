//! The primitive kernels.

use alloc::vec::Vec;

use super::matrix::{Matrix, checked, indices, read, row_bytes, row_bytes_mut, write, write_indices};
use super::{Host, HostBuffer, HostError, Result, fp8};
use crate::device::{
    Binary, BinaryOp, Cast, Dequantize, Fill, Form, GatherColumns, GatherRows, Gemm, GroupedGemm, MaskWindow,
    Primitives, Quantize, RandomNormal, ReduceRows, Reduction, ScatterAddColumns, ScatterAddRows, SortByKey,
    SumColumns, TopK, Unary, UnaryOp,
};
use crate::dtype::DType;
use crate::layer::router;
use crate::math;

impl Primitives for Host {
    fn fill(&self, mut call: Fill<'_, HostBuffer>) -> Result {
        let values = alloc::vec![call.value; call.y.elements()];
        write(&mut call.y, &values);
        Ok(())
    }

    fn cast(&self, mut call: Cast<'_, HostBuffer>) -> Result {
        write(&mut call.y, &read(&call.x).data);
        Ok(())
    }

    fn unary(&self, mut call: Unary<'_, HostBuffer>) -> Result {
        let exact = call.y.dtype() == DType::F64;
        let mut y = read(&call.y.as_ref());
        for v in &mut y.data {
            *v = match call.f {
                UnaryOp::Affine(a, b) => a * *v + b,
                UnaryOp::Sigmoid if exact => 1.0 / (1.0 + libm::exp(-*v)),
                UnaryOp::Sigmoid => f64::from(math::sigmoid(*v as f32)),
                UnaryOp::Exp if exact => libm::exp(*v),
                UnaryOp::Exp => f64::from(math::exp(*v as f32)),
                UnaryOp::Ln => libm::log(*v),
                UnaryOp::Square => *v * *v,
                UnaryOp::Sqrt => libm::sqrt(*v),
                UnaryOp::Recip => 1.0 / *v,
                UnaryOp::Sign => sign(*v),
                UnaryOp::ClipFactor(max) => clip_factor(*v, max),
            };
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    fn binary(&self, mut call: Binary<'_, HostBuffer>) -> Result {
        let (x, mut y) = (read(&call.x), read(&call.y.as_ref()));
        for r in 0..y.rows {
            for c in 0..y.cols {
                let other = x[(r.min(x.rows - 1), c.min(x.cols - 1))];
                let v = &mut y[(r, c)];
                match call.f {
                    BinaryOp::Add => *v += other,
                    BinaryOp::Sub => *v -= other,
                    BinaryOp::Mul => *v *= other,
                    BinaryOp::Div => *v /= other,
                }
            }
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    fn reduce_rows(&self, mut call: ReduceRows<'_, HostBuffer>) -> Result {
        let x = read(&call.x);
        let mut y = read(&call.y.as_ref());
        for r in 0..x.rows {
            let row = x.row(r).iter();
            let value = match call.f {
                Reduction::Sum => row.sum::<f64>(),
                Reduction::SumSquares => row.map(|v| v * v).sum(),
                Reduction::Max => row.fold(f64::NEG_INFINITY, |m, &v| if v > m || v.is_nan() { v } else { m }),
            };
            y.data[r] = if call.accumulate { y.data[r] + value } else { value };
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    fn sum_columns(&self, mut call: SumColumns<'_, HostBuffer>) -> Result {
        let x = read(&call.x);
        let mut y = read(&call.y.as_ref());
        for r in 0..x.rows {
            add(&mut y.data, x.row(r));
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    fn gemm(&self, mut call: Gemm<'_, HostBuffer>) -> Result {
        let (m, n, k) = call.dimensions();
        let (a, b, c) = (read(&call.a), read(&call.b), read(&call.c.as_ref()));
        let mut out = Matrix::zeros(m, n);
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|l| product(call.form, &a, &b, (i, j, l))).sum();
                let before = if call.accumulate { c[(i, j)] } else { 0.0 };
                out[(i, j)] = before + call.alpha * sum;
            }
        }
        write(&mut call.c, &out.data);
        Ok(())
    }

    fn grouped_gemm(&self, mut call: GroupedGemm<'_, HostBuffer>) -> Result {
        let (n, k) = call.weight();
        let (a, b, mut c) = (read(&call.a), read(&call.b), read(&call.c.as_ref()));
        for (g, rows) in group_rows("grouped_gemm", &indices(&call.offsets), call.rows())?.enumerate() {
            let weight_row = g * n;
            if call.form == Form::Tn {
                // c[g] += a[rows]ᵀ · b[rows]
                for (i, j) in pairs(n, k) {
                    let sum: f64 = rows.clone().map(|r| a[(r, i)] * b[(r, j)]).sum();
                    c[(weight_row + i, j)] += sum;
                }
                continue;
            }
            for r in rows {
                let columns = c.cols;
                for j in 0..columns {
                    c[(r, j)] = match call.form {
                        Form::Nt => (0..k).map(|l| a[(r, l)] * b[(weight_row + j, l)]).sum(),
                        _ => (0..n).map(|l| a[(r, l)] * b[(weight_row + l, j)]).sum(),
                    };
                }
            }
        }
        write(&mut call.c, &c.data);
        Ok(())
    }

    fn quantize(&self, call: Quantize<'_, HostBuffer>) -> Result {
        fp8::quantize(call)
    }

    fn dequantize(&self, call: Dequantize<'_, HostBuffer>) -> Result {
        fp8::dequantize(call)
    }

    fn gather_rows(&self, mut call: GatherRows<'_, HostBuffer>) -> Result {
        let index = indices(&call.index).into_iter();
        let limit = call.x.rows().saturating_mul(call.divisor);
        let from = index.map(|i| checked("gather_rows", i, limit).map(|i| i / call.divisor));
        if call.x.dtype() == call.y.dtype() {
            for (r, from) in from.enumerate() {
                row_bytes_mut(&mut call.y, r).copy_from_slice(row_bytes(&call.x, from?));
            }
            return Ok(());
        }
        let x = read(&call.x);
        let mut y = Matrix::zeros(call.y.rows(), call.y.cols());
        for (r, from) in from.enumerate() {
            y.row_mut(r).copy_from_slice(x.row(from?));
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    fn scatter_add_rows(&self, mut call: ScatterAddRows<'_, HostBuffer>) -> Result {
        let x = read(&call.x);
        let mut y = read(&call.y.as_ref());
        for (r, index) in indices(&call.index).into_iter().enumerate() {
            let to = checked("scatter_add_rows", index, y.rows)?;
            add(y.row_mut(to), x.row(r));
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    fn gather_columns(&self, mut call: GatherColumns<'_, HostBuffer>) -> Result {
        let x = read(&call.x);
        let k = call.index.cols();
        let mut y = Matrix::zeros(x.rows, k);
        for (i, index) in indices(&call.index).into_iter().enumerate() {
            y.data[i] = x[(i / k, checked("gather_columns", index, x.cols)?)];
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    fn scatter_add_columns(&self, mut call: ScatterAddColumns<'_, HostBuffer>) -> Result {
        let x = read(&call.x).data;
        let k = call.index.cols();
        let mut y = read(&call.y.as_ref());
        for (i, index) in indices(&call.index).into_iter().enumerate() {
            if index != u32::MAX {
                let c = checked("scatter_add_columns", index, y.cols)?;
                y[(i / k, c)] += x[if x.len() == 1 { 0 } else { i }];
            }
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    fn top_k(&self, mut call: TopK<'_, HostBuffer>) -> Result {
        let k = call.index.cols();
        let mut x = read(&call.x);
        let mut index = alloc::vec![0; x.rows * k];
        if k > 0 {
            for (r, best) in index.chunks_exact_mut(k).enumerate() {
                router::top_k(x.row_mut(r), best);
            }
        }
        write_indices(&mut call.index, &index);
        Ok(())
    }

    fn sort_by_key(&self, mut call: SortByKey<'_, HostBuffer>) -> Result {
        let keys = indices(&call.keys);
        let mut offsets = alloc::vec![0u32; call.buckets + 1];
        for &key in &keys {
            offsets[checked("sort_by_key", key, call.buckets)? + 1] += 1;
        }
        for g in 0..call.buckets {
            offsets[g + 1] += offsets[g];
        }
        let mut next = offsets.clone();
        let (mut order, mut inverse) = (alloc::vec![0u32; keys.len()], alloc::vec![0u32; keys.len()]);
        for (item, &key) in (0u32..).zip(&keys) {
            let place = &mut next[key as usize];
            order[*place as usize] = item;
            inverse[item as usize] = *place;
            *place += 1;
        }
        write_indices(&mut call.order, &order);
        write_indices(&mut call.inverse, &inverse);
        write_indices(&mut call.offsets, &offsets);
        Ok(())
    }

    fn mask_window(&self, mut call: MaskWindow<'_, HostBuffer>) -> Result {
        let mut y = read(&call.y.as_ref());
        for (r, first) in indices(&call.first).into_iter().enumerate() {
            for c in 0..y.cols {
                let position = call.base + c;
                if position < first as usize || position > call.last + r {
                    y[(r, c)] = f64::NEG_INFINITY;
                }
            }
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    fn random_normal(&self, mut call: RandomNormal<'_, HostBuffer>) -> Result {
        let mut drawn = alloc::vec![0.0f32; call.y.elements()];
        crate::rng::fill_normal(call.seed, call.stream, 0, call.std, &mut drawn);
        let y: Vec<f64> = drawn.into_iter().map(f64::from).collect();
        write(&mut call.y, &y);
        Ok(())
    }
}

/// −1, 0 or 1; 0 for NaN.
pub(super) fn sign(x: f64) -> f64 {
    f64::from(i8::from(x > 0.0) - i8::from(x < 0.0))
}

fn clip_factor(squared_norm: f64, max: f64) -> f64 {
    if squared_norm.is_finite() { (max / (libm::sqrt(squared_norm) + 1e-6)).min(1.0) } else { f64::NAN }
}

/// The factor pair of element `(i, j)` of a product at place `l` of the inner dimension.
fn product(form: Form, a: &Matrix, b: &Matrix, (i, j, l): (usize, usize, usize)) -> f64 {
    match form {
        Form::Nt => a[(i, l)] * b[(j, l)],
        Form::Nn => a[(i, l)] * b[(l, j)],
        Form::Tn => a[(l, i)] * b[(l, j)],
    }
}

/// The row range of every group. Offsets that do not rise from 0 to `rows` are an error.
pub(super) fn group_rows(
    kernel: &'static str,
    offsets: &[u32],
    rows: usize,
) -> core::result::Result<impl Iterator<Item = core::ops::Range<usize>>, HostError> {
    let rising = offsets.windows(2).all(|w| w[0] <= w[1]);
    let ends = (offsets.first().copied(), offsets.last().map(|&o| o as usize));
    if !rising || ends != (Some(0), Some(rows)) {
        let problem = "offsets must rise from zero to the number of rows";
        let found = ends.1.unwrap_or(0);
        return Err(crate::error::InvalidOp::new(kernel, problem, rows, found).into());
    }
    Ok(offsets.windows(2).map(|w| w[0] as usize..w[1] as usize))
}

fn pairs(rows: usize, cols: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |i| (0..cols).map(move |j| (i, j)))
}

/// `y += x`.
pub(super) fn add(y: &mut [f64], x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}
