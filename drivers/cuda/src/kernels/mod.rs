//! The kernel traits: each method is a function in the file of its subject.

mod attention;
mod attention_grad;
mod elementwise;
mod gemm;
mod gemm_fp8;
mod index;
mod loss;
mod norm;
mod optimizer;
mod quantize;
mod reduce;
mod rope;
mod router;
mod scores;
mod sort;
mod swiglu;

use fathom_core::device::*;

use crate::Cuda;
use crate::error::CudaError;
use crate::memory::Buffer;
use crate::report::site;

/// Each method runs the function of that name.
macro_rules! forward {
    ($($name:ident: $call:ident => $run:ident),* $(,)?) => {
        $(fn $name(&self, call: $call<'_, Buffer>) -> Result<(), CudaError> {
            self.$run(call)
        })*
    };
}
impl Primitives for Cuda {
    forward! {
        fill: Fill => run_fill,
        cast: Cast => run_cast,
        unary: Unary => run_unary,
        binary: Binary => run_binary,
        reduce_rows: ReduceRows => run_reduce_rows,
        sum_columns: SumColumns => run_sum_columns,
        gemm: Gemm => run_gemm,
        grouped_gemm: GroupedGemm => run_grouped_gemm,
        gather_rows: GatherRows => run_gather_rows,
        scatter_add_rows: ScatterAddRows => run_scatter_add_rows,
        gather_columns: GatherColumns => run_gather_columns,
        scatter_add_columns: ScatterAddColumns => run_scatter_add_columns,
        top_k: TopK => run_top_k,
        sort_by_key: SortByKey => run_sort_by_key,
        mask_window: MaskWindow => run_mask_window,
        random_normal: RandomNormal => run_random_normal,
        quantize: Quantize => run_quantize,
        dequantize: Dequantize => run_dequantize,
    }
}

impl Kernels for Cuda {
    forward! {
        combine: Combine => run_combine,
        gemm_fp8: GemmFp8 => run_gemm_fp8,
        grouped_gemm_fp8: GroupedGemmFp8 => run_grouped_gemm_fp8,
        requantize: Requantize => run_requantize,
        rmsnorm: RmsNorm => run_rmsnorm,
        rmsnorm_grad: RmsNormGrad => run_rmsnorm_grad,
        rope: Rope => run_rope,
        swiglu: Swiglu => run_swiglu,
        swiglu_grad: SwigluGrad => run_swiglu_grad,
        route: Route => run_route,
        route_grad: RouteGrad => run_route_grad,
        balance: Balance => run_balance,
        attention: Attention => run_attention,
        attention_grad: AttentionGrad => run_attention_grad,
        cross_entropy: CrossEntropy => run_cross_entropy,
        adamw: AdamW => run_adamw,
        update_bias: UpdateBias => run_update_bias,
    }
}
