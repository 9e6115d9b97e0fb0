//! Rotary position embedding (Su et al., 2021) with interleaved pairs and YaRN (Peng et al., 2023): the table of
//! cosines and sines. The rotation itself is the kernel [`Rope`](crate::device::Rope).

use alloc::vec::Vec;

use crate::DType;
use crate::config::{ModelConfig, rope};
use crate::device::Kernels;
use crate::tensor::Tensor;

/// `[length, qk_rope_head_dim]`: row `p` holds `m·cos(p·θᵢ)` in column `2i` and `m·sin(p·θᵢ)` in column `2i + 1`, with
/// YaRN's frequencies `θᵢ` and factor `m` (1 for the published models).
///
/// Angles are products in f32, as PyTorch computes them; cosine and sine are then taken in f64.
pub fn table<D: Kernels>(device: &D, config: &ModelConfig, length: usize, dtype: DType) -> Result<Tensor<D>, D::Error> {
    let width = config.qk_rope_head_dim;
    let factor = rope::attention_factor(config);
    let mut frequencies = alloc::vec![0.0f32; width / 2];
    rope::fill_inv_freq(config, &mut frequencies);
    let values = (0..length)
        .flat_map(|p| frequencies.iter().map(move |&f| f64::from(p as f32 * f)))
        .flat_map(|angle| [libm::cos(angle) * factor, libm::sin(angle) * factor]);
    match dtype {
        DType::F64 => Tensor::<D>::from_slice(device, &[length, width], dtype, &values.collect::<Vec<f64>>()),
        _ => {
            let narrow: Vec<f32> = values.map(|x| x as f32).collect();
            Tensor::<D>::from_slice(device, &[length, width], DType::F32, &narrow)
        }
    }
}
