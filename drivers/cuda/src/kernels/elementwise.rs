//! Fills, casts, unary and binary operations, and random numbers.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Binary, BinaryOp, Call, Cast, Fill, RandomNormal, Unary, UnaryOp};
use fathom_core::dtype::DType;
use fathom_core::fp8::{Code, E4M3, E5M2};
use fathom_core::math::round_to_odd;
use half::{bf16, f16};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, blocks, mat, mat_mut, unsupported};
use crate::memory::Buffer;
use crate::source::ELEMENTWISE;

const THREADS: u32 = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FillArgs {
    data: u64,
    stride: i64,
    bytes: i64,
    rows: u32,
    size: u32,
    pattern: u32,
    wide: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CastArgs {
    x: Mat,
    y: Mat,
    wide: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct UnaryArgs {
    y: Mat,
    p: f32,
    q: f32,
    f: u32,
    wide: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BinaryArgs {
    x: Mat,
    y: Mat,
    f: u32,
    wide: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct NormalArgs {
    y: Mat,
    seed: u64,
    stream: u64,
    std: f64,
}

/// Bit mask of the operands whose rows start on multiples of 16 bytes.
pub(super) fn wide(x: &Mat, y: &Mat) -> u32 {
    u32::from(x.is_aligned(16)) | u32::from(y.is_aligned(16)) << 1
}

impl Cuda {
    pub(super) fn fill(&self, call: Fill<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Fill::<Buffer>::NAME;
        let (dtype, y) = (call.y.dtype(), call.y.as_ref());
        let size = dtype.size();
        let pattern = match dtype {
            _ if call.value.to_bits() == 0 && dtype != DType::UE8M0 => 0,
            DType::F32 => (call.value as f32).to_bits(),
            DType::BF16 => twice(bf16::from_f32(round_to_odd(call.value)).to_bits()),
            DType::F16 => twice(f16::from_f32(round_to_odd(call.value)).to_bits()),
            DType::U32 => call.value.round_ties_even() as u32,
            DType::E4M3 => twice(E4M3::encode_finite(round_to_odd(call.value)) * 0x101),
            DType::E5M2 => twice(E5M2::encode_finite(round_to_odd(call.value)) * 0x101),
            other => return Err(unsupported(OP, format!("does not support {other}"))),
        };
        let (mut rows, mut bytes) = (y.rows(), y.cols() * size);
        if y.is_contiguous() {
            (rows, bytes) = (rows.min(1), rows * bytes);
        }
        let data = y.buffer().address() + (y.offset() * size) as u64;
        let stride = y.stride() * size;
        let wide = data.is_multiple_of(16) && (rows <= 1 || stride.is_multiple_of(16));
        // A thread takes sixteen bytes four times.
        let grid = blocks(OP, rows, bytes.div_ceil(16), 4 * THREADS)?;
        let args = FillArgs {
            data,
            stride: stride as i64,
            bytes: bytes as i64,
            rows: rows as u32,
            // Pairs of codes are filled with zeros only, byte by byte.
            size: if size == 3 { 1 } else { size as u32 },
            pattern,
            wide: wide.into(),
        };
        self.launch(ELEMENTWISE, "fill", [grid, 1, 1], THREADS, 0, &args)
    }

    pub(super) fn cast(&self, call: Cast<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Cast::<Buffer>::NAME;
        let (mut x, mut y) = (mat(OP, &call.x)?, mat_mut(OP, &call.y)?);
        if call.x.is_contiguous() && call.y.is_contiguous() {
            (x, y) = (x.flat(), y.flat());
        }
        let name = match (call.x.dtype(), call.y.dtype()) {
            (x, y) if x == y && x.size() == 2 => "copy_16",
            (x, y) if x == y => "copy_32",
            (DType::U32, _) | (_, DType::U32) => "cast_integers",
            _ => "cast",
        };
        let args = CastArgs { x, y, wide: wide(&x, &y), reserved: 0 };
        self.launch(ELEMENTWISE, name, [y.eighths(OP, THREADS)?, 1, 1], THREADS, 0, &args)
    }

    pub(super) fn unary(&self, call: Unary<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Unary::<Buffer>::NAME;
        let (f, p, q) = match call.f {
            UnaryOp::Affine(a, b) => (0, a, b),
            UnaryOp::Sigmoid => (1, 0.0, 0.0),
            UnaryOp::Exp => (2, 0.0, 0.0),
            UnaryOp::Ln => (3, 0.0, 0.0),
            UnaryOp::Square => (4, 0.0, 0.0),
            UnaryOp::Sqrt => (5, 0.0, 0.0),
            UnaryOp::Recip => (6, 0.0, 0.0),
            UnaryOp::Sign => (7, 0.0, 0.0),
            UnaryOp::ClipFactor(max) => (8, max, 0.0),
        };
        let y = mat_mut(OP, &call.y)?.flat();
        let args = UnaryArgs { y, p: p as f32, q: q as f32, f, wide: y.is_aligned(16).into() };
        self.launch(ELEMENTWISE, "unary", [y.eighths(OP, THREADS)?, 1, 1], THREADS, 0, &args)
    }

    pub(super) fn binary(&self, call: Binary<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Binary::<Buffer>::NAME;
        let f = match call.f {
            BinaryOp::Add => 0,
            BinaryOp::Sub => 1,
            BinaryOp::Mul => 2,
            BinaryOp::Div => 3,
        };
        let (mut x, mut y) = (mat(OP, &call.x)?, mat_mut(OP, &call.y)?);
        let one = call.x.elements() == 1;
        let same = (call.x.rows(), call.x.cols()) == (call.y.rows(), call.y.cols());
        if one {
            y = y.flat();
        } else if same && call.x.is_contiguous() && call.y.is_contiguous() {
            (x, y) = (x.flat(), y.flat());
        }
        let args = BinaryArgs { x, y, f, wide: wide(&x, &y) };
        self.launch(ELEMENTWISE, "binary", [y.eighths(OP, THREADS)?, 1, 1], THREADS, 0, &args)
    }

    pub(super) fn random_normal(&self, call: RandomNormal<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = RandomNormal::<Buffer>::NAME;
        let name = match call.y.dtype() {
            DType::F32 => "random_normal_f32",
            DType::BF16 => "random_normal_bf16",
            DType::F16 => "random_normal_f16",
            other => return Err(unsupported(OP, format!("does not support {other}"))),
        };
        let pairs = call.y.elements().div_ceil(2);
        let args = NormalArgs { y: mat_mut(OP, &call.y)?.flat(), seed: call.seed, stream: call.stream, std: call.std };
        self.launch(ELEMENTWISE, name, [blocks(OP, 1, pairs, THREADS)?, 1, 1], THREADS, 0, &args)
    }
}

fn twice(bits: u16) -> u32 {
    u32::from(bits) * 0x1_0001
}
