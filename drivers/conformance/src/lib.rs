#![forbid(unsafe_code)]
//! The kernel conformance suite: whether a device computes what [`Host`](fathom_core::device::Host) defines.
//!
//! [`run`] takes any device. For each kernel it draws shapes (ragged, strided, with empty groups, one row, no rows) and
//! values (ordinary, tiny, large, zeros), runs the same call on the device and on the host, and compares. Every case
//! also checks what holds for all kernels:
//!
//! - the same call on the same data gives the same bits,
//! - operands that are read stay as they were,
//! - no element outside a view is written: every operand lies in a larger buffer whose rim must not change.
//!
//! [`properties`] adds what a comparison with the host does not show: rows do not depend on other rows, indices out of
//! range are errors, NaN is never quantised in silence, and a clip factor of NaN leaves an optimiser's state alone.
//!
//! [`comm`] does the same for collectives: whether ranks receive what others send.
//!
//! A driver's test is one line: `fathom_conformance::run(&device)`. While one kernel is being written, [`check_one`]
//! runs it alone and returns the smallest case that fails:
//!
//! ```
//! use fathom_conformance::{Options, check_one};
//! use fathom_core::device::Host;
//!
//! let device = Host::new(); // the driver under test
//! let options = Options { cases: 4, ..Options::default() };
//! let outcome = check_one(&device, "rmsnorm", &options).expect("the name of a kernel");
//! match outcome {
//!     Ok(outcome) => assert_eq!((outcome.name, outcome.cases, outcome.unsupported), ("rmsnorm", 4, 0)),
//!     Err(failure) => panic!("{failure}"),
//! }
//! ```
//!
//! # Tolerances
//!
//! An element passes where `|got − want| ≤ ulp·|want| + tolerance·ε·magnitude + 1e-28`. `ulp` is that of the type it is
//! stored in (2⁻⁷ for BF16); `ε` is that of the type it is computed in: 2⁻⁵² for F64, else 2⁻²³. `magnitude` is what
//! the element would be if nothing cancelled, for instance `Σ|a·b|` for a product; each case says how it is taken. `k`
//! is the length of the longest sum. Attention over BF16 operands may be off by another `2⁻⁸·magnitude`, since
//! probabilities may be rounded to BF16 for their product with the values; over a cache that is narrower than F32 it
//! may be off by another `2⁻⁷·magnitude`, since queries and cached numbers may be rounded too. Long sums of codes may
//! be made on tensor cores that keep 14 bits within a tile, which is 136·2⁻¹³ of it at worst; the suite's own cases
//! are shorter and stay exact. [`tolerance()`] is this table:
//!
//! | kernel | tolerance |
//! |---|---|
//! | `fill`, `cast`, `gather_rows`, `gather_columns`, `top_k`, `sort_by_key`, `mask_window`, `quantize`, `dequantize`, `requantize`, `quantize_both`, `gather_codes`, `store_latent`, `load_latent`, `sample`, the maximum of `reduce_rows`, the experts of `route` | bit for bit |
//! | `swiglu_quantize`, `rmsnorm_quantize` | bit for bit what the device's own kernels give one after the other |
//! | `binary`, `update_bias` | 2 |
//! | `lerp` | 4 |
//! | `unary`, `rope` | 8 |
//! | `random_normal`, `swiglu`, `adamw` | 16 |
//! | `gemm`, `grouped_gemm`, `gemm_fp8`, `grouped_gemm_fp8`, `gemv`, `grouped_gemv`, `gemm_mixed`, `grouped_gemm_mixed`, `reduce_rows`, `sum_columns`, `scatter_add_rows`, `scatter_add_columns`, `combine`, `absorb_query`, `absorb_output` | 2 + k |
//! | `gemm_fp8`, `grouped_gemm_fp8` with k ≥ 512 | 2 + k + 136·2¹⁰ |
//! | `rmsnorm`, `route` (scores, weights) | 8 + k |
//! | `swiglu_grad`, `cross_entropy`, `attention`, `latent_attention`, `chunk_attention` | 16 + k |
//! | `rmsnorm_grad`, `route_grad`, `balance` | 16 + 2k |
//! | `attention_grad` | 32 + 2k |
//!
//! # Types
//!
//! A device must compute in F32. Where it reports a case in another type as unsupported, the case is counted in
//! [`Outcome::unsupported`] and not held against it. The same holds for FP8 if the driver says so by [`Options::fp8`],
//! and for weights and caches of BF16 if that is not among `Options::dtypes`.

mod attention;
mod case;
pub mod comm;
mod decode;
mod elementwise;
mod gemm;
mod gemm_fp8;
mod gemv;
mod index;
mod ladder;
mod loss;
mod norm;
mod optimizer;
pub mod properties;
mod quantize;
pub mod ranks;
mod reduce;
mod rope;
mod router;
mod sample;
mod sort;
mod swiglu;
mod tolerance;
mod values;

use fathom_core::device::Kernels;
use fathom_core::dtype::DType;

pub use attention::*;
pub use decode::*;
pub use elementwise::*;
pub use gemm::*;
pub use gemm_fp8::*;
pub use gemv::*;
pub use index::*;
pub use ladder::Ladder;
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
pub use tolerance::tolerance;

/// Options of a run of the suite: cases, types, FP8.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cases per kernel.
    pub cases: u32,
    /// Types of activations. F64 is left out on devices that do not compute in it.
    pub dtypes: Vec<DType>,
    /// FP8 is required. A driver that declines FP8 runs the suite with `false`: cases with FP8 codes that it reports as
    /// unsupported are then counted in [`Outcome::unsupported`]; those that it does not must pass.
    pub fp8: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cases: 32, dtypes: vec![DType::F32, DType::BF16, DType::F64], fp8: true }
    }
}

impl Options {
    fn dtypes<D: Kernels>(&self, device: &D) -> Vec<DType> {
        let f64 = device.capabilities().f64;
        self.dtypes.iter().copied().filter(|&d| d.is_float() && (f64 || d != DType::F64)).collect()
    }
}

/// Outcome of a kernel or property that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The kernel, or the property.
    pub name: &'static str,
    /// Cases that were run.
    pub cases: u32,
    /// Cases, of those, that the device does not support in their type.
    pub unsupported: u32,
}

/// The smallest case that was found to fail.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The kernel, or the property.
    pub name: &'static str,
    /// The case and what was wrong with it.
    pub problem: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.problem)
    }
}

impl std::error::Error for Failure {}

macro_rules! all {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        /// Names of the kernels and then the properties, in the order in which [`check`] runs them.
        pub const NAMES: &[&str] = &[
            $(stringify!($p),)*
            $(stringify!($f),)*
            "conversions",
            "row_invariance",
            "index_out_of_range",
            "non_finite",
            "nan_clip",
        ];

        /// Runs the cases of one kernel or property of [`NAMES`]; nothing for another name.
        pub fn check_one<D: Kernels>(device: &D, name: &str, options: &Options) -> Option<Result<Outcome, Failure>> {
            Some(match name {
                $(stringify!($p) => $p(device, options),)*
                $(stringify!($f) => $f(device, options),)*
                "conversions" => properties::conversions(device, options),
                "row_invariance" => properties::row_invariance(device, options),
                "index_out_of_range" => properties::index_out_of_range(device, options),
                "non_finite" => properties::non_finite(device, options),
                "nan_clip" => properties::nan_clip(device, options),
                _ => return None,
            })
        }
    };
}
fathom_core::for_each_kernel!(all);

/// Runs every kernel's cases and every property, and returns what passed and what failed.
pub fn check<D: Kernels>(device: &D, options: &Options) -> (Vec<Outcome>, Vec<Failure>) {
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for result in NAMES.iter().filter_map(|name| check_one(device, name, options)) {
        match result {
            Ok(outcome) => passed.push(outcome),
            Err(failure) => failed.push(failure),
        }
    }
    (passed, failed)
}

/// Runs the whole suite with default [`Options`].
///
/// # Panics
///
/// Where a kernel fails, naming every kernel that does and the smallest case found for each.
pub fn run<D: Kernels>(device: &D) {
    run_with(device, &Options::default());
}

/// Runs the whole suite and returns what passed.
///
/// # Panics
///
/// As [`run`].
pub fn run_with<D: Kernels>(device: &D, options: &Options) -> Vec<Outcome> {
    let (passed, failed) = check(device, options);
    let report: Vec<String> = failed.iter().map(Failure::to_string).collect();
    let name = device.capabilities().name;
    assert!(failed.is_empty(), "{} kernels of device {name} fail:\n\n{}", failed.len(), report.join("\n\n"));
    passed
}
