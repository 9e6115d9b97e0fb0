//! Matrices in f64, read out of views and rounded back into them.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

use bytemuck::Pod;
use half::{bf16, f16};

use super::{HostBuffer, HostError};
use crate::device::call::Out;
use crate::device::view::{MatMut, MatRef};
use crate::dtype::DType;
use crate::error::ErrorKind;
use crate::fp8::{Code, E4M3, E5M2, ue8m0};
use crate::math::round_to_odd;

/// A dense row-major matrix of f64, indexed `[(row, column)]`.
#[derive(Clone)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) data: Vec<f64>,
}

impl Matrix {
    pub(super) fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: alloc::vec![0.0; rows * cols] }
    }

    pub(super) fn row(&self, r: usize) -> &[f64] {
        &self.data[r * self.cols..][..self.cols]
    }

    pub(super) fn row_mut(&mut self, r: usize) -> &mut [f64] {
        &mut self.data[r * self.cols..][..self.cols]
    }
}

impl Index<(usize, usize)> for Matrix {
    type Output = f64;
    fn index(&self, (r, c): (usize, usize)) -> &f64 {
        &self.row(r)[c]
    }
}

impl IndexMut<(usize, usize)> for Matrix {
    fn index_mut(&mut self, (r, c): (usize, usize)) -> &mut f64 {
        &mut self.row_mut(r)[c]
    }
}

/// The elements of `m` in f64: exact for every element type.
pub(super) fn read(m: &MatRef<'_, HostBuffer>) -> Matrix {
    let data = match m.dtype() {
        DType::F64 => gather(m, |x: f64| x),
        DType::F32 => gather(m, |x: f32| f64::from(x)),
        DType::BF16 => gather(m, |x: bf16| x.to_f64()),
        DType::F16 => gather(m, |x: f16| x.to_f64()),
        DType::U32 => gather(m, |x: u32| f64::from(x)),
        DType::E4M3 => gather(m, |x: u8| E4M3::decode(x.into()).into()),
        DType::E5M2 => gather(m, |x: u8| E5M2::decode(x.into()).into()),
        DType::UE8M0 => gather(m, |x: u8| ue8m0::decode(x).into()),
        DType::E5M6Pair => unreachable!("a pair of codes is not a number; calls that take it read bytes"),
    };
    Matrix { rows: m.rows(), cols: m.cols(), data }
}

/// The elements of `m`, an index operand.
pub(super) fn indices(m: &MatRef<'_, HostBuffer>) -> Vec<u32> {
    gather(m, |x: u32| x)
}

/// What a kernel's sums are added to: the elements of `m`, or zeros where it replaces them.
pub(super) fn before(m: &MatMut<'_, HostBuffer>, out: Out) -> Matrix {
    if out.adds() { read(&m.as_ref()) } else { Matrix::zeros(m.rows(), m.cols()) }
}

/// The elements of `m` in f32, rounded where `m` is F64.
pub(super) fn read_f32(m: &MatRef<'_, HostBuffer>) -> Vec<f32> {
    read(m).data.iter().map(|&x| x as f32).collect()
}

/// The bytes of row `r`, whatever its type.
pub(super) fn row_bytes<'a>(m: &MatRef<'a, HostBuffer>, r: usize) -> &'a [u8] {
    let size = m.dtype().size();
    let bytes: &[u8] = bytemuck::cast_slice(&m.buffer().words);
    if m.cols() == 0 { &[] } else { &bytes[(m.offset() + r * m.stride()) * size..][..m.cols() * size] }
}

/// As [`row_bytes`], to write.
pub(super) fn row_bytes_mut<'a>(m: &'a mut MatMut<'_, HostBuffer>, r: usize) -> &'a mut [u8] {
    let (size, start, cols) = (m.dtype().size(), m.offset() + r * m.stride(), m.cols());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut m.buffer_mut().words);
    if cols == 0 { &mut [] } else { &mut bytes[start * size..][..cols * size] }
}

fn gather<T: Pod, U>(m: &MatRef<'_, HostBuffer>, f: impl Fn(T) -> U) -> Vec<U> {
    let all: &[T] = bytemuck::cast_slice(&m.buffer().words);
    let row = |r: usize| &all[m.offset() + r * m.stride()..][..m.cols()];
    if m.cols() == 0 {
        return Vec::new();
    }
    (0..m.rows()).flat_map(row).map(|&x| f(x)).collect()
}

/// Rounds `values` to the element type of `m` and stores them; touches no element outside the view.
pub(super) fn write(m: &mut MatMut<'_, HostBuffer>, values: &[f64]) {
    match m.dtype() {
        DType::F64 => scatter(m, values, |x| x),
        DType::F32 => scatter(m, values, |x| x as f32),
        DType::BF16 => scatter(m, values, |x| bf16::from_f32(round_to_odd(x))),
        DType::F16 => scatter(m, values, |x| f16::from_f32(round_to_odd(x))),
        DType::U32 => scatter(m, values, |x| libm::rint(x) as u32),
        DType::E4M3 => scatter(m, values, |x| E4M3::encode_finite(round_to_odd(x)) as u8),
        DType::E5M2 => scatter(m, values, |x| E5M2::encode_finite(round_to_odd(x)) as u8),
        DType::UE8M0 | DType::E5M6Pair => unreachable!("no kernel rounds to these types"),
    }
}

/// Stores `values` into `m`, an index operand.
pub(super) fn write_indices(m: &mut MatMut<'_, HostBuffer>, values: &[u32]) {
    scatter(m, values, |x| x);
}

fn scatter<T: Pod, U: Copy>(m: &mut MatMut<'_, HostBuffer>, values: &[U], f: impl Fn(U) -> T) {
    let (offset, stride, cols) = (m.offset(), m.stride(), m.cols());
    if cols == 0 {
        return;
    }
    let all: &mut [T] = bytemuck::cast_slice_mut(&mut m.buffer_mut().words);
    for (r, row) in values.chunks_exact(cols).enumerate() {
        for (to, &x) in all[offset + r * stride..][..cols].iter_mut().zip(row) {
            *to = f(x);
        }
    }
}

/// `index` as a row or column number, if it is below `limit`.
pub(super) fn checked(kernel: &'static str, index: u32, limit: usize) -> Result<usize, HostError> {
    if (index as usize) < limit {
        return Ok(index as usize);
    }
    let message = alloc::format!("{kernel}: index {index} is out of range (must be below {limit})");
    Err(HostError::new(ErrorKind::Shape, message))
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

/// `y += x`.
pub(super) fn add(y: &mut [f64], x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `Σ aᵢ·bᵢ`.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
