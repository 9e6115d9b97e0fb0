#![forbid(unsafe_code)]
//! A complete device driver in one file: the functions that a driver must write, and nothing else.
//!
//! [`Minimal`] trains a model in f32. Copy this file to start a driver for other hardware; `docs/add-a-driver.md`
//! walks through it. It is slow: each kernel copies its operands out of the buffers, loops over single numbers, and
//! copies the result back.
//!
//! ```
//! use fathom_core::config::ModelConfig;
//! use fathom_core::model::Model;
//! use fathom_core::precision::Precision;
//!
//! let mut model = Model::new(&fathom_minimal::Minimal, &ModelConfig::tiny(), Precision::F32)?;
//! model.initialize(42)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ops::Range;

use fathom_core::DType;
use fathom_core::device::*;
use fathom_core::error::{DeviceError, ErrorKind, InvalidOp};
use fathom_core::tensor::{MatMut, MatRef};
use fathom_core::{math, routing};

/// The device. It has no state: a buffer is a vector of bytes, and the system's allocator serves as the pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Minimal;

/// The memory of a tensor.
type Bytes = Vec<u8>;
/// The core's error for devices in ordinary memory serves here too. A driver that has other errors, such as those of a
/// graphics API, defines a type with [`DeviceError::kind`] and `From<InvalidOp>`.
type Result<T = ()> = std::result::Result<T, HostError>;

// 1. Memory.

impl Device for Minimal {
    type Error = HostError;
    type Buffer = Bytes;

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("minimal")
    }

    fn alloc(&self, bytes: usize) -> Result<Bytes> {
        let mut buffer = Vec::new();
        // Sizes come from configurations: a model that does not fit is an error, not an abort.
        if buffer.try_reserve_exact(bytes).is_err() {
            let message = format!("alloc: no memory for {bytes} bytes");
            return Err(HostError { kind: ErrorKind::OutOfMemory, message });
        }
        buffer.resize(bytes, 0);
        Ok(buffer)
    }

    fn upload(&self, buffer: &mut Bytes, offset: usize, bytes: &[u8]) -> Result {
        let to = buffer.get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len()));
        to.ok_or(InvalidOp::plain("upload", "the bytes end past the buffer"))?.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, buffer: &Bytes, offset: usize, bytes: &mut [u8]) -> Result {
        let from = buffer.get(offset..).and_then(|rest| rest.get(..bytes.len()));
        bytes.copy_from_slice(from.ok_or(InvalidOp::plain("download", "the bytes end past the buffer"))?);
        Ok(())
    }

    // Every call is done when it returns. A driver that queues its work waits here, and reports late errors.
    fn flush(&self) -> Result {
        Ok(())
    }
}

// 2. Elements in and out of views. The calls were checked: a view lies inside its buffer.

/// Where row `r` lies in its buffer. Between rows there may be gaps, which belong to other tensors.
fn row(m: &MatRef<'_, Bytes>, r: usize) -> Range<usize> {
    let (start, size) = (m.offset() + r * m.stride(), m.dtype().size());
    if m.cols() == 0 { 0..0 } else { start * size..(start + m.cols()) * size }
}

/// The elements of `m`, row after row, in f64. It holds each f32 and each u32 exactly, so that a kernel can compute in
/// it and round once, when it stores.
fn read(m: &MatRef<'_, Bytes>) -> Result<Vec<f64>> {
    let number: fn(&[u8; 4]) -> f64 = match m.dtype() {
        DType::F32 => |&b| f32::from_ne_bytes(b).into(),
        DType::U32 => |&b| u32::from_ne_bytes(b).into(),
        _ => return Err(HostError::unsupported("an element type other than F32 and U32")),
    };
    let elements = (0..m.rows()).flat_map(|r| m.buffer()[row(m, r)].as_chunks().0);
    Ok(elements.map(number).collect())
}

/// Stores `values` in `m`, rounded to nearest, ties to even.
fn write(mut m: MatMut<'_, Bytes>, values: &[f64]) -> Result {
    let element: fn(f64) -> [u8; 4] = match m.dtype() {
        DType::F32 => |x| (x as f32).to_ne_bytes(),
        DType::U32 => |x| (x.round_ties_even() as u32).to_ne_bytes(),
        _ => return Err(HostError::unsupported("an element type other than F32 and U32")),
    };
    for r in 0..m.rows() {
        let (place, values) = (row(&m.as_ref(), r), &values[r * m.cols()..]);
        for (to, &x) in m.buffer_mut()[place].as_chunks_mut().0.iter_mut().zip(values) {
            *to = element(x);
        }
    }
    Ok(())
}

/// Replaces each element of `m` by `f(row, column, element)`.
fn update(m: MatMut<'_, Bytes>, mut f: impl FnMut(usize, usize, f64) -> Result<f64>) -> Result {
    let (cols, mut values) = (m.cols(), read(&m.as_ref())?);
    for (i, x) in values.iter_mut().enumerate() {
        *x = f(i / cols, i % cols, *x)?;
    }
    write(m, &values)
}

/// The elements of an index operand.
fn indices(m: &MatRef<'_, Bytes>) -> Result<Vec<usize>> {
    Ok(read(m)?.into_iter().map(|x| x as usize).collect())
}

/// `index`, if it is below `limit`. What an index operand holds is data, which no constructor of a call has checked.
fn below(kernel: &'static str, index: usize, limit: usize) -> Result<usize> {
    let error = InvalidOp::not_below(kernel, "index", index, "the limit", limit);
    if index < limit { Ok(index) } else { Err(error.into()) }
}

/// Σ over `range`, in order: the order of a sum must depend on shapes alone.
fn sum(range: Range<usize>, term: impl Fn(usize) -> f64) -> f64 {
    range.map(term).sum()
}

// 3. The primitive kernels. The documentation of each call, such as `Fill`, is its specification.

impl Primitives for Minimal {
    fn fill(&self, call: Fill<'_, Bytes>) -> Result {
        update(call.y, |_, _, _| Ok(call.value))
    }

    fn cast(&self, call: Cast<'_, Bytes>) -> Result {
        write(call.y, &read(&call.x)?)
    }

    fn unary(&self, call: Unary<'_, Bytes>) -> Result {
        update(call.y, |_, _, y| {
            Ok(match call.f {
                UnaryOp::Affine(a, b) => a * y + b,
                // These two decide which experts a token goes to, so their bits are the same on every device.
                UnaryOp::Sigmoid => math::sigmoid(y as f32).into(),
                UnaryOp::Exp => math::exp(y as f32).into(),
                UnaryOp::Ln => y.ln(),
                UnaryOp::Square => y * y,
                UnaryOp::Sqrt => y.sqrt(),
                UnaryOp::Recip => 1.0 / y,
                UnaryOp::Sign => f64::from(i8::from(y > 0.0) - i8::from(y < 0.0)),
                UnaryOp::ClipFactor(max) if y.is_finite() => (max / (y.sqrt() + 1e-6)).min(1.0),
                UnaryOp::ClipFactor(_) => f64::NAN,
            })
        })
    }

    fn binary(&self, call: Binary<'_, Bytes>) -> Result {
        let (x, rows, cols) = (read(&call.x)?, call.x.rows(), call.x.cols());
        update(call.y, |r, c, y| {
            let x = x[r.min(rows - 1) * cols + c.min(cols - 1)]; // a single row or column is repeated
            Ok(match call.f {
                BinaryOp::Add => y + x,
                BinaryOp::Sub => y - x,
                BinaryOp::Mul => y * x,
                BinaryOp::Div => y / x,
            })
        })
    }

    fn reduce_rows(&self, call: ReduceRows<'_, Bytes>) -> Result {
        let (x, n) = (read(&call.x)?, call.x.cols());
        update(call.y, |r, _, y| {
            let row = &x[r * n..][..n];
            let value = match call.f {
                Reduction::Sum => sum(0..n, |i| row[i]),
                Reduction::SumSquares => sum(0..n, |i| row[i] * row[i]),
                Reduction::Max => row.iter().fold(f64::NEG_INFINITY, |m, &v| if v > m || v.is_nan() { v } else { m }),
            };
            Ok(if call.out.adds() { y + value } else { value })
        })
    }

    fn gemm(&self, call: Gemm<'_, Bytes>) -> Result {
        let ((m, n, k), form) = (call.dimensions(), call.form);
        let (a, b) = (read(&call.a)?, read(&call.b)?);
        let a = |i, l| if form == Form::Tn { a[l * m + i] } else { a[i * k + l] };
        let b = |l, j| if form == Form::Nt { b[j * k + l] } else { b[l * n + j] };
        update(call.c, |i, j, c| {
            let product = call.alpha * sum(0..k, |l| a(i, l) * b(l, j));
            // What is replaced may be NaN, so it is not multiplied by zero.
            Ok(if call.out.adds() { c + product } else { product })
        })
    }

    fn grouped_gemm(&self, call: GroupedGemm<'_, Bytes>) -> Result {
        let ((n, k), rows, offsets) = (call.weight(), call.rows(), indices(&call.offsets)?);
        if offsets[0] != 0 || offsets[call.groups] != rows || !offsets.is_sorted() {
            return Err(InvalidOp::plain("grouped_gemm", "offsets must rise from 0 to the number of rows").into());
        }
        let (a, b) = (read(&call.a)?, read(&call.b)?);
        let group = |r| offsets.partition_point(|&start| start <= r) - 1;
        update(call.c, |r, j, c| {
            let sum = match call.form {
                Form::Nt => sum(0..k, |l| a[r * k + l] * b[(group(r) * n + j) * k + l]),
                Form::Nn => sum(0..n, |l| a[r * n + l] * b[(group(r) * n + l) * k + j]),
                // Row `r` of the result is row `r % n` of the weight of group `r / n`.
                Form::Tn => sum(offsets[r / n]..offsets[r / n + 1], |l| a[l * n + r % n] * b[l * k + j]),
            };
            Ok(if call.out.adds() { c + sum } else { sum })
        })
    }

    fn gather_rows(&self, mut call: GatherRows<'_, Bytes>) -> Result {
        // A copy of bytes serves every type. From one type to another there is nothing to gather in f32.
        if call.x.dtype() != call.y.dtype() {
            return Err(HostError::unsupported("gather_rows between two element types"));
        }
        let limit = call.x.rows().saturating_mul(call.divisor);
        for (r, index) in indices(&call.index)?.into_iter().enumerate() {
            let from = row(&call.x, below("gather_rows", index, limit)? / call.divisor);
            let to = row(&call.y.as_ref(), r);
            call.y.buffer_mut()[to].copy_from_slice(&call.x.buffer()[from]);
        }
        Ok(())
    }

    fn scatter_add_rows(&self, call: ScatterAddRows<'_, Bytes>) -> Result {
        let (x, mut y, cols) = (read(&call.x)?, read(&call.y.as_ref())?, call.y.cols());
        for (r, index) in indices(&call.index)?.into_iter().enumerate() {
            let to = below("scatter_add_rows", index, call.y.rows())?;
            (0..cols).for_each(|c| y[to * cols + c] += x[r * cols + c]);
        }
        write(call.y, &y)
    }

    fn gather_columns(&self, call: GatherColumns<'_, Bytes>) -> Result {
        let (x, n, index, k) = (read(&call.x)?, call.x.cols(), indices(&call.index)?, call.index.cols());
        update(call.y, |r, j, _| Ok(x[r * n + below("gather_columns", index[r * k + j], n)?]))
    }

    fn scatter_add_columns(&self, call: ScatterAddColumns<'_, Bytes>) -> Result {
        let (x, mut y, n, k) = (read(&call.x)?, read(&call.y.as_ref())?, call.y.cols(), call.index.cols());
        for (i, index) in indices(&call.index)?.into_iter().enumerate() {
            if index != u32::MAX as usize {
                y[i / k * n + below("scatter_add_columns", index, n)?] += x[if x.len() == 1 { 0 } else { i }];
            }
        }
        write(call.y, &y)
    }

    fn top_k(&self, call: TopK<'_, Bytes>) -> Result {
        let (mut x, n, k) = (read(&call.x)?, call.x.cols(), call.index.cols());
        let mut best = vec![0; call.x.rows() * k];
        for (r, best) in best.chunks_exact_mut(k.max(1)).enumerate() {
            routing::top_k(&mut x[r * n..][..n], best);
        }
        update(call.index, |r, j, _| Ok(best[r * k + j].into()))
    }

    fn sort_by_key(&self, call: SortByKey<'_, Bytes>) -> Result {
        let keys = indices(&call.keys)?;
        let mut offsets = vec![0.0; call.buckets + 1];
        for &key in &keys {
            offsets[below("sort_by_key", key, call.buckets)? + 1] += 1.0;
        }
        (0..call.buckets).for_each(|g| offsets[g + 1] += offsets[g]);
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by_key(|&item| keys[item]); // stable
        let mut inverse = vec![0.0; keys.len()];
        order.iter().enumerate().for_each(|(place, &item)| inverse[item] = place as f64);
        write(call.order, &order.into_iter().map(|item| item as f64).collect::<Vec<_>>())?;
        write(call.inverse, &inverse)?;
        write(call.offsets, &offsets)
    }

    fn mask_window(&self, call: MaskWindow<'_, Bytes>) -> Result {
        let first = indices(&call.first)?;
        update(call.y, |r, c, y| {
            let seen = (first[r]..=call.last + r).contains(&(call.base + c));
            Ok(if seen { y } else { f64::NEG_INFINITY })
        })
    }
}

// 4. The fused kernels run through their default bodies. Override one after another, the slowest first.

impl Kernels for Minimal {}
