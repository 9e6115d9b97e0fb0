//! The list of all kernels, and the trait of those that a driver must write.

use super::{Device, call};
use crate::error::DeviceError;

/// Calls `$then!` with the list of all primitive kernels, as `method: Call`, and of all fused ones.
///
/// What treats every kernel alike (wrappers, a driver's trait implementations, the conformance suite) is written once
/// over this list, so a new kernel cannot be forgotten.
#[macro_export]
macro_rules! for_each_kernel {
    ($then:ident) => {
        $then! {
            primitive {
                fill: Fill, cast: Cast, unary: Unary, binary: Binary, reduce_rows: ReduceRows, gemm: Gemm,
                grouped_gemm: GroupedGemm, gather_rows: GatherRows, scatter_add_rows: ScatterAddRows,
                gather_columns: GatherColumns, scatter_add_columns: ScatterAddColumns, top_k: TopK,
                sort_by_key: SortByKey, mask_window: MaskWindow, quantize: Quantize, dequantize: Dequantize,
            }
            fused {
                sum_columns: SumColumns, random_normal: RandomNormal, rmsnorm: RmsNorm,
                rmsnorm_quantize: RmsNormQuantize, rmsnorm_grad: RmsNormGrad, rope: Rope, swiglu: Swiglu,
                swiglu_quantize: SwigluQuantize, swiglu_grad: SwigluGrad, route: Route, route_grad: RouteGrad,
                balance: Balance, combine: Combine, attention: Attention, attention_grad: AttentionGrad,
                cross_entropy: CrossEntropy, adamw: AdamW, lerp: Lerp, update_bias: UpdateBias,
                requantize: Requantize, quantize_both: QuantizeBoth, gather_codes: GatherCodes, gemm_fp8: GemmFp8,
                grouped_gemm_fp8: GroupedGemmFp8, store_latent: StoreLatent, load_latent: LoadLatent,
                absorb_query: AbsorbQuery, absorb_output: AbsorbOutput, latent_attention: LatentAttention,
                chunk_attention: ChunkAttention, gemv: Gemv, grouped_gemv: GroupedGemv, gemm_mixed: GemmMixed,
                grouped_gemm_mixed: GroupedGemmMixed, sample: Sample,
            }
        }
    };
}

/// The method of a primitive kernel: without a body, but for those that FP8 alone needs.
macro_rules! method {
    (quantize $Call:ident) => {
        /// Runs a [`Quantize`](call::Quantize). Only FP8 needs it: unsupported by default.
        fn quantize(&self, _: call::Quantize<'_, Self::Buffer>) -> Result<(), Self::Error> {
            Err(Self::Error::unsupported("quantize"))
        }
    };
    (dequantize $Call:ident) => {
        /// Runs a [`Dequantize`](call::Dequantize). Only FP8 needs it: unsupported by default.
        fn dequantize(&self, _: call::Dequantize<'_, Self::Buffer>) -> Result<(), Self::Error> {
            Err(Self::Error::unsupported("dequantize"))
        }
    };
    ($name:ident $Call:ident) => {
        #[doc = concat!("Runs a [`", stringify!($Call), "`](call::", stringify!($Call), ").")]
        fn $name(&self, call: call::$Call<'_, Self::Buffer>) -> Result<(), Self::Error>;
    };
}

macro_rules! declare {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        /// The kernels that no other kernel can stand in for: fourteen that a driver must write, and two for FP8.
        ///
        /// Each is specified by the documentation of its call and by [`Host`](crate::device::Host).
        ///
        /// For implementers. A call's views lie inside their buffers and its shapes fit. Index operands are data: a
        /// kernel must stay inside its buffers whatever they hold, and should report an index out of range as an error
        /// of kind [`Shape`](crate::error::ErrorKind::Shape), at once or late. A floating-point type that the driver
        /// does not compute in is an [`Unsupported`](crate::error::ErrorKind::Unsupported) error. Sums have an order
        /// that depends on shapes alone.
        pub trait Primitives: Device {
            $(method!($p $P);)*
        }
    };
}
crate::for_each_kernel!(declare);
