//! The kernel suite that every driver passes, for a driver of F32 alone.

use fathom_conformance::{Options, run_with};
use fathom_core::DType;
use fathom_minimal::Minimal;

/// Kernels that take FP8 tensors. `gather_rows` copies codes as bytes, and so needs no FP8.
const FP8: [&str; 10] = [
    "quantize",
    "dequantize",
    "requantize",
    "quantize_both",
    "swiglu_quantize",
    "rmsnorm_quantize",
    "gemm_fp8",
    "grouped_gemm_fp8",
    "gemm_mixed",
    "grouped_gemm_mixed",
];

/// Kernels that take FP8 tensors, or BF16 beside F32, among others; `gather_codes` may only move bytes.
const SOME_FP8: [&str; 8] = [
    "gather_codes",
    "gemv",
    "grouped_gemv",
    "store_latent",
    "load_latent",
    "absorb_query",
    "absorb_output",
    "latent_attention",
];

#[test]
fn every_kernel_conforms_in_f32_and_declines_fp8() {
    let options = Options { dtypes: vec![DType::F32], fp8: false, ..Options::default() };
    for outcome in run_with(&Minimal, &options) {
        match outcome.name {
            name if FP8.contains(&name) => assert_eq!(outcome.unsupported, outcome.cases, "{outcome:?}"),
            // Conversions from and to F16, BF16 and F64 are among these cases.
            name if SOME_FP8.contains(&name) => assert!(outcome.unsupported < outcome.cases, "{outcome:?}"),
            "conversions" => assert!(outcome.unsupported < outcome.cases, "{outcome:?}"),
            _ => assert_eq!(outcome.unsupported, 0, "{outcome:?}"),
        }
    }
}

#[test]
fn fp8_is_required_of_a_driver_that_does_not_decline_it() {
    let options = Options { dtypes: vec![DType::F32], cases: 4, ..Options::default() };
    let (_, failed) = fathom_conformance::check(&Minimal, &options);
    for kernel in FP8 {
        assert!(failed.iter().any(|failure| failure.name == kernel), "{kernel} passes without FP8");
    }
}
