//! Inference's products with weights as they are stored, in primitives.

in_primitives! {
    gemv: Gemv, grouped_gemv: GroupedGemv, gemm_mixed: GemmMixed, grouped_gemm_mixed: GroupedGemmMixed,
}
