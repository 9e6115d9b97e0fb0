//! The list of all kernels, and the trait of those that a driver must write.

use super::Device;
use super::call;

/// Calls `$then!` with the list of all primitive kernels, as `method: Call`, and of all fused ones. What must treat
/// every kernel alike (wrappers) is written once over this list, so a new kernel cannot be forgotten.
#[macro_export]
macro_rules! for_each_kernel {
    ($then:ident) => {
        $then! {
            primitive {
                fill: Fill, cast: Cast, unary: Unary, binary: Binary, reduce_rows: ReduceRows,
                sum_columns: SumColumns, gemm: Gemm, grouped_gemm: GroupedGemm, gather_rows: GatherRows,
                scatter_add_rows: ScatterAddRows, gather_columns: GatherColumns,
                scatter_add_columns: ScatterAddColumns, top_k: TopK, sort_by_key: SortByKey,
                mask_window: MaskWindow, random_normal: RandomNormal, quantize: Quantize, dequantize: Dequantize,
            }
            fused {
                rmsnorm: RmsNorm, rmsnorm_grad: RmsNormGrad, rope: Rope, swiglu: Swiglu, swiglu_grad: SwigluGrad,
                route: Route, route_grad: RouteGrad, balance: Balance, combine: Combine, attention: Attention,
                attention_grad: AttentionGrad, cross_entropy: CrossEntropy, adamw: AdamW, update_bias: UpdateBias,
                requantize: Requantize, gemm_fp8: GemmFp8, grouped_gemm_fp8: GroupedGemmFp8,
            }
        }
    };
}

macro_rules! declare {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        /// The kernels a driver must have. Each is specified by the documentation of its call and by
        /// [`Host`](crate::device::Host).
        ///
        /// For implementers. A call's views lie inside their buffers and its shapes fit. Index operands are data: a
        /// kernel must stay inside its buffers whatever they hold, and should report an index out of range as an error
        /// of kind [`Shape`](crate::error::ErrorKind::Shape), at once or late. A floating-point type that the driver
        /// does not compute in is an [`Unsupported`](crate::error::ErrorKind::Unsupported) error. Sums have an order
        /// that depends on shapes alone.
        pub trait Primitives: Device {
            $(
                #[doc = concat!("Runs a [`", stringify!($P), "`](call::", stringify!($P), ").")]
                fn $p(&self, call: call::$P<'_, Self::Buffer>) -> Result<(), Self::Error>;
            )*
        }
    };
}
crate::for_each_kernel!(declare);
