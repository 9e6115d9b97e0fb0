//! Source texts of the kernels, embedded in the program.

/// A kernel file, which is compiled as one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Module {
    /// The file's name without `.cu`.
    pub(crate) name: &'static str,
    /// The file's text.
    pub(crate) text: &'static str,
}

/// Header files by path, as kernels include them, and text.
pub(crate) const HEADERS: &[(&str, &str)] = &[
    ("fathom.cuh", include_str!("../kernels/fathom.cuh")),
    ("gpu.cuh", include_str!("../kernels/gpu.cuh")),
    ("hopper.cuh", include_str!("../kernels/hopper.cuh")),
    ("tile.cuh", include_str!("../kernels/tile.cuh")),
    ("emulate.h", include_str!("../kernels/emulate.h")),
    ("emulate/async.h", include_str!("../kernels/emulate/async.h")),
    ("emulate/machine.h", include_str!("../kernels/emulate/machine.h")),
    ("emulate/matrix.h", include_str!("../kernels/emulate/matrix.h")),
    ("emulate/shared.h", include_str!("../kernels/emulate/shared.h")),
    ("emulate/wgmma.h", include_str!("../kernels/emulate/wgmma.h")),
    ("scores.cuh", include_str!("../kernels/scores.cuh")),
    ("codes.cuh", include_str!("../kernels/codes.cuh")),
    ("encode.cuh", include_str!("../kernels/encode.cuh")),
    ("latent.cuh", include_str!("../kernels/latent.cuh")),
    ("warpgroups.cuh", include_str!("../kernels/warpgroups.cuh")),
    ("weights.cuh", include_str!("../kernels/weights.cuh")),
];

macro_rules! modules {
    ($($constant:ident: $file:literal,)*) => {
        $(
            #[doc = concat!("`kernels/", $file, ".cu`")]
            pub(crate) const $constant: Module =
                Module { name: $file, text: include_str!(concat!("../kernels/", $file, ".cu")) };
        )*
        /// All kernel files.
        pub(crate) const MODULES: &[Module] = &[$($constant,)*];
    };
}
modules! {
    ELEMENTWISE: "elementwise",
    REDUCE: "reduce",
    INDEX: "index",
    SORT: "sort",
    GEMM: "gemm",
    GEMM_FP8: "gemm_fp8",
    QUANTIZE: "quantize",
    NORM: "norm",
    ROPE: "rope",
    SWIGLU: "swiglu",
    ROUTER: "router",
    ATTENTION: "attention",
    ATTENTION_GRAD: "attention_grad",
    LATENT_ATTENTION: "latent_attention",
    DECODE: "decode",
    GEMV: "gemv",
    SAMPLE: "sample",
    LOSS: "loss",
    OPTIMIZER: "optimizer",
    TRANSPOSE: "transpose",
}
