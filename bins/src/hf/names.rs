//! Names of the files in a model folder and of the tensors in those files.

use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::model::Model;
use fathom_core::weights::Parameter;

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

/// A tensor of a checkpoint of a model.
pub(crate) struct ModelTensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) place: Place,
}

/// Where the tensor is in a model.
pub(crate) enum Place {
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
