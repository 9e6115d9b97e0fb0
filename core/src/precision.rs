//! The precision policy: the type of each kind of tensor, and what the backward pass recomputes.

use crate::DType;
use crate::fp8::Recipe;

/// Operand type of the matrix products in linear layers and experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Products {
    /// f64: finite differences on the reference device.
    F64,
    /// f32.
    F32,
    /// BF16, summed in f32.
    Bf16,
    /// E4M3 codes with scales, summed in f32 ([`fp8::recipe`](crate::fp8::recipe)); BF16 where that keeps higher.
    Fp8,
}

/// A precision policy. Router, norms' statistics, softmax, losses, master weights and gradients are f32 in every one
/// (f64 in [`F64`](Self::F64)).
///
/// ```
/// use fathom_core::precision::Precision;
///
/// let mut precision = Precision::FP8;
/// precision.recipe.power_of_two = true; // scales as V3.1 has them
/// precision.recompute_up_projections = false;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Precision {
    /// Operand type of matrix products.
    pub products: Products,
    /// Moments of AdamW in BF16 (V3 report §3.3.3).
    pub bf16_moments: bool,
    /// Compute the outputs of RMSNorm again in the backward pass (V3 report §3.2.3).
    pub recompute_norms: bool,
    /// Compute the up-projections of queries, keys and values again in the backward pass (V3 report §3.2.3).
    pub recompute_up_projections: bool,
    /// Switches of the FP8 recipe; without effect in other policies.
    pub recipe: Recipe,
}

impl Precision {
    /// The f32 policy: every tensor in f32.
    pub const F32: Self = Self {
        products: Products::F32,
        bf16_moments: false,
        recompute_norms: true,
        recompute_up_projections: false,
        recipe: Recipe::V3,
    };
    /// The f64 policy, for finite differences on the reference device.
    pub const F64: Self = Self { products: Products::F64, ..Self::F32 };
    /// The BF16 policy: activations and products in BF16.
    pub const BF16: Self = Self { products: Products::Bf16, bf16_moments: true, ..Self::F32 };
    /// The FP8 policy: the V3 report's recipe.
    pub const FP8: Self = Self { products: Products::Fp8, recompute_up_projections: true, ..Self::BF16 };

    /// Type of master weights and gradients.
    pub fn master(&self) -> DType {
        if self.products == Products::F64 { DType::F64 } else { DType::F32 }
    }

    /// Type of AdamW's moments.
    pub fn moments(&self) -> DType {
        if self.bf16_moments { DType::BF16 } else { self.master() }
    }

    /// Type of activations and their gradients, the residual stream included.
    pub fn activation(&self) -> DType {
        match self.products {
            Products::F64 => DType::F64,
            Products::F32 => DType::F32,
            Products::Bf16 | Products::Fp8 => DType::BF16,
        }
    }

    /// Type of norm statistics, router logits and scores, softmax denominators and losses.
    pub fn statistics(&self) -> DType {
        self.master()
    }

    /// Short name of the policy: `f64`, `f32`, `bf16`, `fp8`.
    pub fn name(&self) -> &'static str {
        match self.products {
            Products::F64 => "f64",
            Products::F32 => "f32",
            Products::Bf16 => "bf16",
            Products::Fp8 => "fp8",
        }
    }
}

#[cfg(feature = "alloc")]
impl Precision {
    /// Whether rows go to the experts as codes.
    pub(crate) fn dispatches_codes(&self) -> bool {
        self.products == Products::Fp8 && self.recipe.dispatch
    }

    /// Whether the inputs of SwiGLU are kept as codes.
    pub(crate) fn keeps_swiglu_codes(&self) -> bool {
        self.products == Products::Fp8 && self.recipe.swiglu_input
    }

    /// Whether the output of attention is kept as codes.
    pub(crate) fn keeps_attention_codes(&self) -> bool {
        self.products == Products::Fp8 && self.recipe.attention_output_e5m6
    }
}
