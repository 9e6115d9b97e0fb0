//! The kernels' source files, which travel inside the program.

/// A file of kernels, compiled as one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Module {
    /// The file's name without `.cu`.
    pub(crate) name: &'static str,
    /// Its text.
    pub(crate) text: &'static str,
}

/// What the files include, by name.
pub(crate) const HEADERS: &[(&str, &str)] = &[
    ("fathom.cuh", include_str!("../kernels/fathom.cuh")),
    ("gpu.cuh", include_str!("../kernels/gpu.cuh")),
    ("tile.cuh", include_str!("../kernels/tile.cuh")),
    ("emulate.h", include_str!("../kernels/emulate.h")),
    ("scores.cuh", include_str!("../kernels/scores.cuh")),
];

macro_rules! modules {
    ($($constant:ident: $file:literal,)*) => {
        $(
            #[doc = concat!("`kernels/", $file, ".cu`")]
            pub(crate) const $constant: Module =
                Module { name: $file, text: include_str!(concat!("../kernels/", $file, ".cu")) };
        )*
        /// All of them.
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
    LOSS: "loss",
    OPTIMIZER: "optimizer",
    TRANSPOSE: "transpose",
}
