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
    /// Unsigned 32-bit integers: token ids, expert ids, row indices.
    U32,
}

impl DType {
    /// Bytes one element takes.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }

    /// True for the floating-point types.
    pub const fn is_float(self) -> bool {
        !matches!(self, Self::U32)
    }

    /// The name used in safetensors headers (`F32`, `BF16`, ...).
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::BF16 => "BF16",
            Self::F16 => "F16",
            Self::U32 => "U32",
        }
    }
}

impl core::fmt::Display for DType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
