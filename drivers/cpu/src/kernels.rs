//! The kernel traits: each method is a function in the file of its subject.

use fathom_core::device::*;

use crate::Cpu;
use crate::error::CpuError;
use crate::memory::Buffer;
use crate::real::with_real;

/// Each method runs the function of that name; where operands follow in brackets, for the Rust types of those.
macro_rules! forward {
    ($($name:ident: $call:ident $([$($by:ident),+])? => $run:ident),* $(,)?) => {
        $(fn $name(&self, call: $call<'_, Buffer>) -> Result<(), CpuError> {
            forward!(@ self, call, $name, $run $(, $($by),+)?)
        })*
    };
    (@ $cpu:ident, $call:ident, $name:ident, $run:ident) => {
        $cpu.$run($call)
    };
    (@ $cpu:ident, $call:ident, $name:ident, $run:ident, $x:ident) => {
        with_real!(stringify!($name), $call.$x.dtype(), X => $cpu.$run::<X>($call))
    };
    (@ $cpu:ident, $call:ident, $name:ident, $run:ident, $x:ident, $y:ident) => {
        with_real!(stringify!($name), $call.$x.dtype(), X => {
            with_real!(stringify!($name), $call.$y.dtype(), Y => $cpu.$run::<X, Y>($call))
        })
    };
}

impl Primitives for Cpu {
    forward! {
        fill: Fill => run_fill,
        cast: Cast => run_cast,
        unary: Unary[y] => run_unary,
        binary: Binary[x, y] => run_binary,
        reduce_rows: ReduceRows[x] => run_reduce_rows,
        sum_columns: SumColumns[x] => run_sum_columns,
        gemm: Gemm => run_gemm,
        grouped_gemm: GroupedGemm => run_grouped_gemm,
        gather_rows: GatherRows => run_gather_rows,
        scatter_add_rows: ScatterAddRows[x] => run_scatter_add_rows,
        gather_columns: GatherColumns[x] => run_gather_columns,
        scatter_add_columns: ScatterAddColumns => run_scatter_add_columns,
        top_k: TopK => run_top_k,
        sort_by_key: SortByKey => run_sort_by_key,
        mask_window: MaskWindow => run_mask_window,
        random_normal: RandomNormal[y] => run_random_normal,
        quantize: Quantize[x] => run_quantize,
        dequantize: Dequantize[y] => run_dequantize,
    }
}

impl Kernels for Cpu {
    forward! {
        rmsnorm: RmsNorm[x] => run_rmsnorm,
        rmsnorm_grad: RmsNormGrad[x] => run_rmsnorm_grad,
        rope: Rope[x] => run_rope,
        swiglu: Swiglu[y] => run_swiglu,
        swiglu_grad: SwigluGrad[y] => run_swiglu_grad,
        route: Route => run_route,
        route_grad: RouteGrad => run_route_grad,
        balance: Balance => run_balance,
        combine: Combine[x] => run_combine,
        attention: Attention[q] => run_attention,
        attention_grad: AttentionGrad[q] => run_attention_grad,
        cross_entropy: CrossEntropy[logits] => run_cross_entropy,
        adamw: AdamW[m] => run_adamw,
        update_bias: UpdateBias => run_update_bias,
        requantize: Requantize => run_requantize,
    }
}
