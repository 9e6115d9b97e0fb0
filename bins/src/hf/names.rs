//! Names of the files in a model folder and of the tensors in those files; readers of the small files.

use super::error::HfError;
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::model::Model;
use fathom_core::weights::Parameter;
use fathom_dataprep::Tokenizer;
use std::fs;
use std::path::Path;

/// The model's configuration.
pub const CONFIG: &str = "config.json";
/// The model's weights, where one file holds them all.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The map from tensor to file, where several files hold the weights.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Defaults for generation.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";
/// Suffix that turns a weight's name into the name of its scales.
pub(crate) const SCALES: &str = "_scale_inv";
/// The moving average of the weights in f32, where training kept one.
pub(crate) const AVERAGE: &str = "trainer/ema.safetensors";

/// Reads `config.json` of the checkpoint in `folder`.
///
/// # Errors
/// [`HfError::NoModel`], [`HfError::Json`] with the field, [`HfError::Io`].
pub fn read_config(folder: &Path) -> Result<ModelConfig, HfError> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Err(HfError::NoModel { path: folder.into(), missing: CONFIG });
    }
    let text = fs::read_to_string(&path).map_err(HfError::io("read", &path))?;
    serde_json::from_str(&text).map_err(|error| HfError::Json { path, problem: error.to_string() })
}

/// The tokenizer beside a model, if there is one.
///
/// # Errors
/// [`HfError::Tokenizer`] when it is damaged.
pub fn read_tokenizer(folder: &Path) -> Result<Option<Tokenizer>, HfError> {
    let path = folder.join(fathom_dataprep::tokenizer::TOKENIZER);
    Ok(if path.exists() { Some(Tokenizer::load(&path)?) } else { None })
}

/// A tensor of a checkpoint of a model.
pub(super) struct ModelTensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) place: Place,
}

/// Where the tensor is in a model.
pub(super) enum Place {
    Weight(Parameter),
    /// The expert bias of a router, by its number.
    Bias(usize),
    /// The multi-token-prediction modules' copies, written for other programs and shared here.
    Copy(Parameter),
}

/// Every tensor of a checkpoint of `model`, in the order of its layers.
pub(super) fn tensors<D: Kernels>(model: &Model<D>) -> Vec<ModelTensor> {
    let parameters = model.architecture().layout().parameters();
    let weight =
        |p: &Parameter| ModelTensor { name: p.name.clone(), shape: p.shape(), place: Place::Weight(p.clone()) };
    let mut all: Vec<ModelTensor> = parameters.iter().map(weight).collect();
    for (number, router) in model.routers.iter().enumerate() {
        if let Some(name) = router.bias_name.clone() {
            all.push(ModelTensor { name, shape: vec![router.bias.shape().elements()], place: Place::Bias(number) });
        }
    }
    for (name, of) in copies(model.config()) {
        if let Some(p) = parameters.iter().find(|p| p.name == of) {
            all.push(ModelTensor { name, shape: p.shape(), place: Place::Copy(p.clone()) });
        }
    }
    all
}

const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// `(copy, original)` of what published checkpoints hold twice.
pub(crate) fn copies(config: &ModelConfig) -> Vec<(String, &'static str)> {
    let head = if config.tie_word_embeddings { EMBEDDING } else { HEAD };
    let modules = config.num_hidden_layers..config.num_hidden_layers + config.num_nextn_predict_layers;
    let of_module = |index: usize| {
        let prefix = format!("model.layers.{index}");
        [(format!("{prefix}.embed_tokens.weight"), EMBEDDING), (format!("{prefix}.shared_head.head.weight"), head)]
    };
    modules.flat_map(of_module).collect()
}
