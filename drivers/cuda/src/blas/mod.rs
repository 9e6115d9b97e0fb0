//! Dense matrix products by the vendor's library, described apart from it.

use fathom_core::device::Form;

use crate::launch::Mat;

/// A product of matrices in device memory, `c = α·op(a)·op(b)`, or `c += …`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matmul {
    /// Which factor is transposed, row-major.
    pub(crate) form: Form,
    /// Rows of `c`.
    pub(crate) m: usize,
    /// Columns of `c`.
    pub(crate) n: usize,
    /// Length of the sums.
    pub(crate) k: usize,
    pub(crate) a: Mat,
    pub(crate) b: Mat,
    pub(crate) c: Mat,
    pub(crate) alpha: f32,
    /// Adds to what is in `c`.
    pub(crate) accumulate: bool,
}

/// A product of E4M3 codes, `c = a·bᵀ` or `c += a·bᵀ` over factors with scales: `a` activations `[m, k]` with a scale
/// for each 1×128 tile, `b` weights `[n, k]` with a scale for each 128×128 block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaledMatmul {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Codes `[m, k]`.
    pub(crate) a: Mat,
    /// `[m, ⌈k/128⌉]`, F32.
    pub(crate) a_scales: Mat,
    /// Codes `[n, k]`.
    pub(crate) b: Mat,
    /// `[⌈n/128⌉, ⌈k/128⌉]`, F32.
    pub(crate) b_scales: Mat,
    /// `[m, n]`, BF16 or F32.
    pub(crate) c: Mat,
    pub(crate) accumulate: bool,
}
