//! Formats of a cached token, and what one takes.

use core::fmt;

use crate::DType;
use crate::config::ModelConfig;
use crate::device::LatentRow;
use crate::error::InvalidOp;

/// In which types a cached token is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    /// Latent and key in F32.
    F32,
    /// Latent and key in BF16.
    Bf16,
    /// The latent in E4M3 with a scale for every 128, the key in BF16: FlashMLA's layout.
    Fp8,
}

impl CacheFormat {
    /// All formats, the widest first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Fp8];

    /// The name in settings: `f32`, `bf16` or `fp8`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        }
    }

    /// The format of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::Fp8 => DType::E4M3,
        }
    }

    /// The layout of a token's row for a model of this configuration.
    pub fn row(self, config: &ModelConfig) -> Result<LatentRow, InvalidOp> {
        LatentRow::new(self.dtype(), config.kv_lora_rank, config.qk_rope_head_dim)
    }

    /// Bytes of a token in one layer, with a latent of `latent` columns and a key of `rope`.
    pub fn row_bytes(self, latent: usize, rope: usize) -> usize {
        match self {
            Self::F32 => 4 * (latent + rope),
            Self::Bf16 => 2 * (latent + rope),
            Self::Fp8 => latent.next_multiple_of(4) + 4 * latent.div_ceil(128) + (2 * rope).next_multiple_of(4),
        }
    }
}

impl fmt::Display for CacheFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Bytes of a cached token in all layers, by formula; `mtp` MTP modules have separate layers.
pub fn bytes_per_token(config: &ModelConfig, format: CacheFormat, mtp: usize) -> usize {
    let row = format.row_bytes(config.kv_lora_rank, config.qk_rope_head_dim);
    (config.num_hidden_layers + mtp).saturating_mul(row)
}

/// Bytes that the keys and values of all heads of a token would take in all layers, in elements of `element` bytes.
pub fn full_bytes_per_token(config: &ModelConfig, mtp: usize, element: usize) -> usize {
    let head = config.qk_head_dim() + config.v_head_dim;
    [config.num_attention_heads, head, element].into_iter().fold(config.num_hidden_layers + mtp, usize::saturating_mul)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_is_the_layout() {
        for format in CacheFormat::ALL {
            for (latent, rope) in [(512, 64), (1, 0), (5, 3), (128, 2), (129, 1), (130, 6), (1024, 64)] {
                let row = LatentRow::new(format.dtype(), latent, rope).expect("a row");
                assert_eq!(row.bytes(), format.row_bytes(latent, rope), "{format} {latent} {rope}");
            }
        }
        assert_eq!(CacheFormat::Fp8.row_bytes(512, 64), 656);
    }

    #[test]
    fn names_are_read_back() {
        for format in CacheFormat::ALL {
            assert_eq!(CacheFormat::parse(format.name()), Some(format));
        }
        assert_eq!(CacheFormat::parse("int8"), None);
    }
}
