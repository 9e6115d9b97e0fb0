//! Tolerances of the suite, and the comparison that applies them.

use fathom_core::dtype::DType;

/// The tolerance of a kernel in units of `ε·magnitude`, with `k` the length of its longest sum; see the crate's table.
/// 0 for kernels that are compared bit for bit.
pub fn tolerance(kernel: &str, k: usize) -> f64 {
    let k = k as f64;
    match kernel {
        "binary" | "update_bias" => 2.0,
        "lerp" => 4.0,
        "unary" | "rope" => 8.0,
        "random_normal" | "swiglu" | "adamw" => 16.0,
        // Tensor cores may keep 14 bits within a tile.
        "gemm_fp8" | "grouped_gemm_fp8" if k >= 512.0 => 2.0 + k + 136.0 * 1024.0,
        "gemm"
        | "grouped_gemm"
        | "gemm_fp8"
        | "grouped_gemm_fp8"
        | "gemv"
        | "grouped_gemv"
        | "gemm_mixed"
        | "grouped_gemm_mixed"
        | "reduce_rows"
        | "sum_columns"
        | "scatter_add_rows"
        | "scatter_add_columns"
        | "combine"
        | "absorb_query"
        | "absorb_output" => 2.0 + k,
        "rmsnorm" | "route" => 8.0 + k,
        "swiglu_grad" | "cross_entropy" => 16.0 + k,
        "attention" | "latent_attention" | "chunk_attention" => 16.0 + k,
        "rmsnorm_grad" | "route_grad" | "balance" => 16.0 + 2.0 * k,
        "attention_grad" => 32.0 + 2.0 * k,
        _ => 0.0,
    }
}

/// What is added to every tolerance: devices may flush numbers below f32's normal range to zero, and products of such
/// numbers with others stay below this.
const FLOOR: f64 = 1e-28;

/// One unit in the last place of a number near 1.
fn ulp(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F32 => f64::from(f32::EPSILON),
        DType::BF16 => f64::powi(2.0, -7),
        DType::F16 => f64::powi(2.0, -10),
        _ => 0.0,
    }
}

/// The error a kernel is allowed per unit of magnitude when its activations are of type `dtype`.
pub(crate) fn relative(kernel: &str, k: usize, dtype: DType) -> f64 {
    let epsilon = if dtype == DType::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
    // Probabilities, and their gradients, may be rounded to the type of what they multiply.
    let rounding = if dtype == DType::BF16 && kernel.contains("attention") { f64::powi(2.0, -8) } else { 0.0 };
    tolerance(kernel, k) * epsilon + rounding
}

/// Whether an element stored as `dtype` passes, `error` being [`relative`] times its magnitude.
pub(crate) fn passes(got: f64, want: f64, dtype: DType, error: f64) -> bool {
    got == want || got.is_nan() && want.is_nan() || (got - want).abs() <= ulp(dtype) * want.abs() + error + FLOOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_may_be_off_by_its_length_and_a_choice_not_at_all() {
        assert_eq!((tolerance("gemm", 10), tolerance("top_k", 10)), (12.0, 0.0));
        assert!(tolerance("gemm_fp8", 511) < 1024.0 && tolerance("gemm_fp8", 512) > 1e5);
        assert!(passes(1.0 + 1e-7, 1.0, DType::F32, 0.0) && !passes(1.0 + 3e-7, 1.0, DType::F32, 0.0));
        assert!(passes(f64::INFINITY, f64::INFINITY, DType::F32, 0.0));
        assert!(!passes(f64::NAN, 1.0, DType::F32, 1.0) && !passes(1.0, f64::NAN, DType::F32, 1.0));
    }
}
