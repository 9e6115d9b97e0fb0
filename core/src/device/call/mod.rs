//! Checked calls: the argument of every kernel, one file a subject.
//!
//! A call holds the views a kernel works on. Its fields are public to read, but it can only be made by its
//! constructor, which checks shapes and types once, for every driver.

mod attention;
mod decode;
mod elementwise;
mod factor;
mod gemm;
mod gemm_fp8;
mod gemv;
mod index;
mod loss;
mod norm;
mod optimizer;
mod quantize;
mod reduce;
mod rope;
mod router;
mod sample;
mod sort;
mod swiglu;
mod written;

pub use attention::*;
pub use decode::*;
pub use elementwise::*;
pub use factor::*;
pub use gemm::*;
pub use gemm_fp8::*;
pub use gemv::*;
pub use index::*;
pub use loss::*;
pub use norm::*;
pub use optimizer::*;
pub use quantize::*;
pub use reduce::*;
pub use rope::*;
pub use router::*;
pub use sample::*;
pub use sort::*;
pub use swiglu::*;
pub use written::Written;

use crate::device::view::{MatMut, MatRef};
use crate::dtype::DType;
use crate::error::{InvalidOp, ensure, same};

/// What a call costs at least, whatever the device: the floor to measure a kernel against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations (a multiply-add is two).
    pub flops: u64,
    /// Bytes moved if every operand is read once and every result written once.
    pub bytes: u64,
}

impl Cost {
    pub(crate) const fn new(flops: u64, bytes: u64) -> Self {
        Self { flops, bytes }
    }
}

/// Whether a kernel replaces what its result holds, or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// `y = …`.
    Replace,
    /// `y += …`.
    Add,
}

impl Out {
    /// [`Add`](Self::Add) where `add`, else [`Replace`](Self::Replace).
    pub const fn add_if(add: bool) -> Self {
        if add { Self::Add } else { Self::Replace }
    }

    /// True for [`Add`](Self::Add).
    pub const fn adds(self) -> bool {
        matches!(self, Self::Add)
    }

    /// How often the result passes through memory: written, and read before where it is added to.
    pub(super) const fn passes(self) -> u64 {
        match self {
            Self::Replace => 1,
            Self::Add => 2,
        }
    }
}

/// A call of some kernel: what wrappers need to know of it.
pub trait Call {
    /// The kernel's method name.
    const NAME: &'static str;
    /// Its floor.
    fn cost(&self) -> Cost;
}

/// Product of counts, at most `u64::MAX`: a plan may be of a model that no machine could hold.
pub(super) fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product: u64, &factor| product.saturating_mul(factor as u64))
}

pub(super) fn bytes_of<B>(m: &MatRef<'_, B>) -> u64 {
    (m.elements() * m.dtype().size()) as u64
}

pub(super) fn bytes_of_mut<B>(m: &MatMut<'_, B>) -> u64 {
    (m.elements() * m.dtype().size()) as u64
}

pub(super) fn is_index<B>(op: &'static str, m: &MatRef<'_, B>) -> Result<(), InvalidOp> {
    ensure(op, "an index operand must be U32", m.dtype() == DType::U32)
}

pub(super) fn same_shape<B>(op: &'static str, a: &MatRef<'_, B>, b: &MatRef<'_, B>) -> Result<(), InvalidOp> {
    same(op, "rows of its operands", a.rows(), b.rows())?;
    same(op, "columns of its operands", a.cols(), b.cols())
}

pub(super) fn is_float<B>(op: &'static str, m: &MatRef<'_, B>) -> Result<(), InvalidOp> {
    ensure(op, "a floating-point operand is an integer", m.dtype().is_float())
}
