//! A model from a Hugging Face model folder: what its tensors are called, and how they get to a device.

use super::error::CheckpointError;
use super::files::{CONFIG, ModelFiles};
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::layer::Precision;
use fathom_core::model::{Model, Parameter};
use fathom_dataprep::Tokenizer;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Reads `config.json` of the checkpoint in `folder`.
///
/// # Errors
/// [`CheckpointError::NoModel`], [`CheckpointError::Json`] with the field, [`CheckpointError::Io`].
pub fn read_config(folder: &Path) -> Result<ModelConfig, CheckpointError> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Err(CheckpointError::NoModel { path: folder.into(), missing: CONFIG });
    }
    let text = fs::read_to_string(&path).map_err(CheckpointError::io("read", &path))?;
    serde_json::from_str(&text).map_err(|error| CheckpointError::Json { path, problem: error.to_string() })
}

/// The tokenizer beside a model, if there is one.
///
/// # Errors
/// [`CheckpointError::Tokenizer`] when it is damaged.
pub fn read_tokenizer(folder: &Path) -> Result<Option<Tokenizer>, CheckpointError> {
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
const HEAD: &str = "lm_head.weight";

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

/// Fills `model` from the checkpoint in `folder`; gives warnings for what is unusual but harmless.
///
/// Without the prediction modules' tensors the model's modules stay as they were. A model built without modules passes
/// over those of the checkpoint.
///
/// # Errors
/// A tensor that is missing, unexpected, or of the wrong shape or type; see [`CheckpointError`].
pub fn load_weights<D: Kernels>(model: &mut Model<D>, folder: &Path) -> Result<Vec<String>, CheckpointError> {
    fill(model, folder, ModelFiles::open(folder)?)
}

fn fill<D: Kernels>(
    model: &mut Model<D>,
    folder: &Path,
    mut files: ModelFiles,
) -> Result<Vec<String>, CheckpointError> {
    let mut warnings = Vec::new();
    let config = *model.config();
    let layers = config.num_hidden_layers..config.num_hidden_layers + config.num_nextn_predict_layers;
    let absent: Vec<String> =
        layers.filter(|&index| !files.has_layer(index)).map(|index| format!("model.layers.{index}.")).collect();
    if !absent.is_empty() {
        warnings.push(format!("{}: no multi-token-prediction modules; they start untrained", folder.display()));
    }
    refuse_unexpected(model, &files)?;
    let device = model.device().clone();
    let mut values = Vec::new();
    for ModelTensor { name, shape, place } in tensors(model) {
        if absent.iter().any(|prefix| name.starts_with(prefix)) || matches!(place, Place::Copy(_)) {
            continue;
        }
        files.read(&name, &shape, &mut values)?;
        let written = match place {
            Place::Bias(number) => model.routers[number].bias.upload(&device, &values),
            Place::Weight(parameter) | Place::Copy(parameter) => {
                model.weights_mut().write(&device, &parameter, bytemuck::cast_slice(&values))
            }
        };
        written.map_err(device_error(&name))?;
    }
    compare_copies(&config, &mut files, &mut warnings)?;
    Ok(warnings)
}

/// A tensor of a name that no model of this kind has is a sign of the wrong config.json.
fn refuse_unexpected<D: Kernels>(model: &Model<D>, files: &ModelFiles) -> Result<(), CheckpointError> {
    let known: BTreeSet<String> = tensors(model).into_iter().map(|tensor| tensor.name).collect();
    let config = model.config();
    let past = |name: &str| {
        let index = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        index.is_some_and(|index| index >= config.num_hidden_layers + config.num_nextn_predict_layers)
    };
    let harmless = |name: &str| {
        // The head of a tied model, frequencies that old releases stored, modules this model was built without.
        (name == HEAD && config.tie_word_embeddings) || name.ends_with(".rotary_emb.inv_freq") || past(name)
    };
    for file in files.files() {
        for entry in file.entries() {
            // Scales belong where their codes do.
            let name = files.scaled_by(&entry.name).unwrap_or(&entry.name);
            if !known.contains(name) && !harmless(name) {
                return Err(CheckpointError::UnexpectedTensor { path: file.path().into(), tensor: entry.name.clone() });
            }
        }
    }
    Ok(())
}

/// The modules' copies of embedding and head are shared here: say so where a checkpoint has other values in them.
fn compare_copies(
    config: &ModelConfig,
    files: &mut ModelFiles,
    warnings: &mut Vec<String>,
) -> Result<(), CheckpointError> {
    let shape = [config.vocab_size, config.hidden_size];
    let (mut copy, mut original) = (Vec::new(), Vec::new());
    for (name, of) in copies(config).into_iter().filter(|(name, _)| files.has(name)).collect::<Vec<_>>() {
        files.read(&name, &shape, &mut copy)?;
        files.read(of, &shape, &mut original)?;
        if copy != original {
            warnings.push(format!("tensor `{name}` differs from `{of}`, which is used in its place"));
        }
    }
    Ok(())
}

pub(super) fn device_error<E: std::fmt::Display>(tensor: &str) -> impl FnOnce(E) -> CheckpointError + use<E> {
    let tensor = tensor.to_string();
    move |error| CheckpointError::Device { tensor, source: error.to_string().into() }
}

/// The model folder that a user means by `folder`: itself, or the newest checkpoint of the run in it.
///
/// # Errors
/// [`CheckpointError::NoModel`] where there is none.
pub fn model_folder(folder: &Path) -> Result<PathBuf, CheckpointError> {
    if folder.join(CONFIG).is_file() {
        return Ok(folder.into());
    }
    let newest = if folder.is_dir() { super::latest(folder)? } else { None };
    newest.map(|(_, newest)| newest).ok_or_else(|| CheckpointError::NoModel { path: folder.into(), missing: CONFIG })
}

/// Builds the main model that the checkpoint in `folder` describes, without its multi-token-prediction modules, and fills
/// it: what inference needs. Warnings are given too.
///
/// # Errors
/// Those of [`read_config`] and [`load_weights`].
pub fn load_model<D: Kernels>(
    device: &D,
    folder: &Path,
    precision: Precision,
) -> Result<(Model<D>, Vec<String>), CheckpointError> {
    build(device, folder, precision, ModelFiles::open)
}

/// As [`load_model`], with the moving average of the weights in their place. The expert biases are the checkpoint's own.
///
/// # Errors
/// Those of [`load_model`]; [`CheckpointError::NoAverage`].
pub fn load_average_model<D: Kernels>(
    device: &D,
    folder: &Path,
    precision: Precision,
) -> Result<(Model<D>, Vec<String>), CheckpointError> {
    build(device, folder, precision, ModelFiles::open_average)
}

fn build<D: Kernels>(
    device: &D,
    folder: &Path,
    precision: Precision,
    open: fn(&Path) -> Result<ModelFiles, CheckpointError>,
) -> Result<(Model<D>, Vec<String>), CheckpointError> {
    let config = ModelConfig { num_nextn_predict_layers: 0, quantization_config: None, ..read_config(folder)? };
    let mut model = Model::new(device, &config, precision).map_err(|error| CheckpointError::Device {
        tensor: "the whole model".into(),
        source: error.to_string().into(),
    })?;
    let warnings = fill(&mut model, folder, open(folder)?)?;
    Ok((model, warnings))
}
