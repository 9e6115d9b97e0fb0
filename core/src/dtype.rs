//! Element types, as a buffer on a device holds them.

/// The type of one element of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE double precision. Only the reference device computes in it: it is there for finite differences.
    F64,
    /// IEEE single precision: master weights, gradients, statistics, and everything under the `f32` policy.
    F32,
    /// bfloat16: eight exponent bits, seven of mantissa.
    BF16,
    /// IEEE half precision; read from checkpoints, never computed in.
    F16,
    /// Eight-bit floating point with four exponent bits and three of mantissa: see [`fp8::E4M3`](crate::fp8::E4M3).
    E4M3,
    /// Eight-bit floating point with five exponent bits and two of mantissa: see [`fp8::E5M2`](crate::fp8::E5M2).
    E5M2,
    /// Two 12-bit numbers with five exponent bits and six of mantissa in three bytes, the first in the low bits: see
    /// [`fp8::E5M6`](crate::fp8::E5M6). An element is a pair, so a matrix of `n` numbers a row has `n/2` columns.
    E5M6Pair,
    /// A power of two as a biased eight-bit exponent: see [`fp8::ue8m0`](crate::fp8::ue8m0). A scale in checkpoints.
    UE8M0,
    /// Unsigned 32-bit integers: token ids, expert ids, row indices.
    U32,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::E5M6Pair => 3,
            Self::BF16 | Self::F16 => 2,
            Self::E4M3 | Self::E5M2 | Self::UE8M0 => 1,
        }
    }

    /// True for the types whose elements are numbers as they stand: not indices, and not codes, which mean something
    /// only with their scales.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::BF16 | Self::F16)
    }

    /// True for the types of codes that stand for numbers together with a scale.
    pub const fn is_code(self) -> bool {
        matches!(self, Self::E4M3 | Self::E5M2 | Self::E5M6Pair)
    }

    /// Numbers in one element: two for [`E5M6Pair`](Self::E5M6Pair), else one.
    pub const fn numbers(self) -> usize {
        if matches!(self, Self::E5M6Pair) { 2 } else { 1 }
    }

    /// The name used in safetensors headers (`F32`, `BF16`, `F8_E4M3`, ...); ours for [`E5M6Pair`](Self::E5M6Pair),
    /// which has none.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::BF16 => "BF16",
            Self::F16 => "F16",
            Self::E4M3 => "F8_E4M3",
            Self::E5M2 => "F8_E5M2",
            Self::E5M6Pair => "F12_E5M6_PAIR",
            Self::UE8M0 => "F8_E8M0",
            Self::U32 => "U32",
        }
    }
}

impl core::fmt::Display for DType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
