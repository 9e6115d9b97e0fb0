//! Storage formats of a model folder: f32, BF16, and DeepSeek's FP8.

use super::names::SCALES;
use super::safetensors::{ElementType, TensorSpec};
use fathom_core::config::Quantization;
use fathom_core::fp8::{Blocks, NotANumber};

/// Blocks and scales as DeepSeek-V3 was published.
pub const DEEPSEEK: Quantization = Quantization { weight_block_size: [128, 128], power_of_two_scales: false };

/// Storage format of a model folder's weights. The expert bias is f32 in every format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Single precision: what training goes on from without loss.
    F32,
    /// bfloat16, rounded to nearest.
    Bf16,
    /// As DeepSeek publishes: linear layers and experts in E4M3 with f32 scales by blocks, everything else in bfloat16.
    Fp8(Quantization),
}

impl Format {
    /// The format of that name in a configuration, [`DEEPSEEK`]'s blocks and scales for FP8.
    pub fn from_name(name: &str) -> Option<Self> {
        [Format::F32, Format::Bf16, Format::Fp8(DEEPSEEK)].into_iter().find(|format| format.name() == name)
    }

    /// Its name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::Bf16 => "bf16",
            Format::Fp8(_) => "fp8",
        }
    }

    /// The format with powers of two as its scales or not, and blocks of another size; of FP8 only.
    pub fn with_quantization(self, quantization: Quantization) -> Self {
        match self {
            Format::Fp8(_) => Format::Fp8(quantization),
            other => other,
        }
    }

    /// What `config.json` gives as the type of the weights: for FP8 what they are computed in, as published.
    pub const fn torch_dtype(self) -> &'static str {
        match self {
            Format::F32 => "float32",
            Format::Bf16 | Format::Fp8(_) => "bfloat16",
        }
    }

    /// What `config.json` gives as `quantization_config`.
    pub const fn quantization(self) -> Option<Quantization> {
        match self {
            Format::F32 | Format::Bf16 => None,
            Format::Fp8(quantization) => Some(quantization),
        }
    }

    /// How the tensor of that name and shape is stored.
    pub fn of(self, name: &str, shape: &[usize]) -> Stored {
        match self {
            _ if keeps_f32(name) => Stored::F32,
            Format::F32 => Stored::F32,
            Format::Bf16 => Stored::Bf16,
            Format::Fp8(quantization) if is_quantized(name, shape) => Stored::Fp8(quantization),
            Format::Fp8(_) => Stored::Bf16,
        }
    }
}

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// E4M3, and scales in a tensor beside it.
    Fp8(Quantization),
}

/// Tensors that are f32 whatever the rest is: rounding the expert bias changes which experts are chosen, and the rotary
/// frequencies that old files hold are not weights.
fn keeps_f32(name: &str) -> bool {
    name.ends_with(".e_score_correction_bias") || name.ends_with(".rotary_emb.inv_freq")
}

/// Whether DeepSeek's published FP8 files hold this tensor in FP8: the weights of all projections of attention, of
/// feed-forward layers and of experts, and of V3.2's indexer its two large ones; not the embedding, the head, routers,
/// norms, nor `eh_proj`.
///
/// Of the models that are computed here, [`Parameter::is_fp8`](fathom_core::weights::Parameter::is_fp8) says the same
/// of each parameter. This goes by the name alone, for folders of other models too.
pub fn is_quantized(name: &str, shape: &[usize]) -> bool {
    let Some(rest) = name.strip_suffix(".weight").filter(|_| shape.len() == 2) else { return false };
    let (owner, layer) = rest.rsplit_once('.').unwrap_or(("", rest));
    match layer {
        "eh_proj" | "weights_proj" => false,
        "kv_a_proj_with_mqa" => true,
        "wq_b" | "wk" => owner.ends_with(".indexer"),
        _ => layer.ends_with("_proj"),
    }
}

impl Stored {
    /// The tensors of a file that the tensor of that name and shape becomes: itself, and its scales in FP8.
    pub fn specs(self, name: &str, shape: &[usize]) -> Vec<TensorSpec> {
        let spec = |name: String, shape: Vec<usize>, dtype| TensorSpec { name, shape, dtype };
        let plain = |dtype| vec![spec(name.into(), shape.into(), dtype)];
        match (self, shape) {
            (Stored::Fp8(Quantization { weight_block_size: block, .. }), &[rows, cols]) => {
                let scales = Blocks { rows, cols, block }.scales().to_vec();
                let mut both = plain(ElementType::E4M3);
                both.push(spec(format!("{name}{SCALES}"), scales, ElementType::F32));
                both
            }
            (Stored::F32, _) => plain(ElementType::F32),
            (Stored::Bf16 | Stored::Fp8(_), _) => plain(ElementType::BF16),
        }
    }
}

/// Relative error of a stored tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    difference: f64,
    norm: f64,
}

impl Deviation {
    /// The L2 norm of the difference over that of the tensor; 0 for a tensor of zeros.
    pub fn relative(&self) -> f64 {
        if self.norm > 0.0 { (self.difference / self.norm).sqrt() } else { 0.0 }
    }

    fn add(&mut self, from: &[f32], to: impl IntoIterator<Item = f32>) {
        for (&x, y) in from.iter().zip(to) {
            self.difference += (f64::from(x) - f64::from(y)).powi(2);
            self.norm += f64::from(x).powi(2);
        }
    }
}

/// Turns a tensor, a few rows at a time, into the bytes it is stored as.
pub struct Encoder {
    stored: Stored,
    cols: usize,
    rows: usize,
    bytes: Vec<u8>,
    scales: Vec<f32>,
    decoded: Vec<f32>,
    deviation: Option<Deviation>,
}

impl Encoder {
    /// For a tensor of `cols` columns; `measured` says whether to find out the [deviation](Self::deviation) too.
    pub fn new(stored: Stored, cols: usize, measured: bool) -> Self {
        let deviation = measured.then(Deviation::default);
        Self { stored, cols, rows: 0, bytes: Vec::new(), scales: Vec::new(), decoded: Vec::new(), deviation }
    }

    /// The bytes of the next rows. All but the last must be whole blocks.
    ///
    /// # Errors
    /// An element that is NaN or infinite, or becomes so in BF16; in f32 none is looked for. Rows are counted from the
    /// start of the tensor.
    pub fn rows(&mut self, values: &[f32]) -> Result<&[u8], NotANumber> {
        self.bytes.clear();
        match self.stored {
            Stored::F32 => self.bytes.extend_from_slice(bytemuck::cast_slice(values)),
            Stored::Bf16 => {
                let rounded: Vec<half::bf16> = values.iter().map(|&x| half::bf16::from_f32(x)).collect();
                // The largest f32 values round to infinity.
                if let Some(at) = rounded.iter().position(|x| !x.is_finite()) {
                    let cols = self.cols.max(1);
                    return Err(NotANumber { row: self.rows + at / cols, col: at % cols });
                }
                self.bytes.extend_from_slice(bytemuck::cast_slice(&rounded));
                if let Some(deviation) = &mut self.deviation {
                    deviation.add(values, rounded.into_iter().map(half::bf16::to_f32));
                }
            }
            Stored::Fp8(quantization) => self.encode(values, &quantization)?,
        }
        self.rows += values.len() / self.cols.max(1);
        Ok(&self.bytes)
    }

    fn encode(&mut self, values: &[f32], quantization: &Quantization) -> Result<(), NotANumber> {
        let blocks =
            Blocks { rows: values.len() / self.cols.max(1), cols: self.cols, block: quantization.weight_block_size };
        let ([down, across], known) = (blocks.scales(), self.scales.len());
        self.bytes.resize(values.len(), 0);
        self.scales.resize(known + down * across, 0.0);
        let place = |at: NotANumber, first: usize| NotANumber { row: first + at.row, ..at };
        let scales = &mut self.scales[known..];
        let first = self.rows;
        blocks
            .encode(values, quantization.power_of_two_scales, &mut self.bytes, scales)
            .map_err(|at| place(at, first))?;
        if let Some(deviation) = &mut self.deviation {
            self.decoded.resize(values.len(), 0.0);
            blocks.decode(&self.bytes, scales, &mut self.decoded).map_err(|at| place(at, first))?;
            deviation.add(values, self.decoded.iter().copied());
        }
        Ok(())
    }

    /// The bytes of the scales of all rows so far; none but in FP8.
    pub fn scales(&self) -> Vec<u8> {
        self.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect()
    }

    /// How far what was stored is from what was given, if that was asked for.
    pub fn deviation(&self) -> Option<Deviation> {
        self.deviation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_core::config::{ModelConfig, PRESETS};
    use fathom_core::model::Architecture;

    #[test]
    fn the_rule_by_name_is_the_core_s_rule_by_role() {
        for (preset, build) in PRESETS {
            let architecture = Architecture::new(&build());
            for parameter in architecture.layout().parameters() {
                let by_name = is_quantized(&parameter.name, &parameter.shape());
                assert_eq!(by_name, parameter.is_fp8(), "{preset}: {}", parameter.name);
            }
        }
    }

    #[test]
    fn v3_has_as_many_fp8_tensors_as_were_published() {
        let architecture = Architecture::new(&ModelConfig::v3_671b());
        let parameters = architecture.layout().parameters();
        let quantized = parameters.iter().filter(|p| is_quantized(&p.name, &p.shape()));
        assert_eq!(quantized.count(), 45_808);
    }

    #[test]
    fn other_models_tensors_go_by_name() {
        for (name, shape, expected) in [
            ("model.layers.3.self_attn.indexer.wq_b.weight", &[64, 32][..], true),
            ("model.layers.3.self_attn.indexer.wk.weight", &[64, 32], true),
            ("model.layers.3.self_attn.indexer.weights_proj.weight", &[64, 32], false),
            ("model.layers.3.self_attn.indexer.k_norm.weight", &[64], false),
            ("model.layers.3.self_attn.o_proj.bias", &[64], false),
            ("model.layers.3.mlp.gate.weight", &[8, 32], false),
            ("lm_head.weight", &[96, 32], false),
        ] {
            assert_eq!(is_quantized(name, shape), expected, "{name}");
        }
    }

    #[test]
    fn rows_are_stored_piece_by_piece_as_whole() {
        let values: Vec<f32> = (0..300 * 70).map(|i| ((i * i % 977) as f32 - 400.0) * 1e-4).collect();
        for stored in [Stored::F32, Stored::Bf16, Stored::Fp8(DEEPSEEK)] {
            let (mut whole, mut pieces) = (Encoder::new(stored, 70, true), Encoder::new(stored, 70, true));
            let bytes = whole.rows(&values).unwrap().to_vec();
            let mut parts = Vec::new();
            for part in values.chunks(128 * 70) {
                parts.extend_from_slice(pieces.rows(part).unwrap());
            }
            assert_eq!((bytes, whole.scales()), (parts, pieces.scales()), "{stored:?}");
            let deviation = whole.deviation().unwrap().relative();
            let bound = match stored {
                Stored::F32 => 0.0..=0.0,
                Stored::Bf16 => 1e-4..=2f64.powi(-9),
                Stored::Fp8(_) => 0.01..=2f64.powi(-4),
            };
            assert!(bound.contains(&deviation), "{stored:?}: {deviation}");
        }
        let mut bad = values.clone();
        bad[200 * 70 + 3] = f32::NAN;
        let mut encoder = Encoder::new(Stored::Fp8(DEEPSEEK), 70, false);
        assert!(encoder.rows(&bad[..128 * 70]).is_ok());
        assert_eq!(encoder.rows(&bad[128 * 70..]), Err(NotANumber { row: 200, col: 3 }));
    }
}
