//! A Hugging Face model folder: which files it has, and how its tensors get to a device and back.

use super::commit::Draft;
use super::error::CheckpointError;
use super::safetensors::{self, TensorFile, TensorSpec};
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::layer::Precision;
use fathom_core::model::{Model, Parameter};
use fathom_dataprep::Tokenizer;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The model's description in a checkpoint.
pub const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

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

/// The tensors of a model folder, one file or many.
pub struct ModelFiles {
    folder: PathBuf,
    files: Vec<TensorFile>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl ModelFiles {
    /// Opens `model.safetensors`, or every file that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// [`CheckpointError::NoModel`], [`CheckpointError::BadIndex`], and those of [`TensorFile::open`].
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let index = folder.join(INDEX);
        let names = if index.exists() {
            read_index(&index)?
        } else if folder.join(SINGLE).exists() {
            BTreeMap::from([(SINGLE.to_string(), None)])
        } else {
            return Err(CheckpointError::NoModel { path: folder.into(), missing: SINGLE });
        };
        let mut files = Vec::new();
        let mut seen = BTreeSet::new();
        for (name, tensors) in names {
            let file = TensorFile::open(&folder.join(&name))?;
            for tensor in tensors.into_iter().flatten() {
                if file.entry(&tensor).is_none() {
                    return Err(CheckpointError::MissingTensor { path: file.path().into(), tensor });
                }
            }
            for entry in file.entries() {
                if !seen.insert(entry.name.clone()) {
                    return Err(CheckpointError::UnexpectedTensor {
                        path: file.path().into(),
                        tensor: format!("{} (a second time)", entry.name),
                    });
                }
            }
            files.push(file);
        }
        Ok(Self { folder: folder.into(), files })
    }

    fn file_of(&mut self, tensor: &str) -> Option<&mut TensorFile> {
        self.files.iter_mut().find(|file| file.entry(tensor).is_some())
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, tensor: &str) -> bool {
        self.files.iter().any(|file| file.entry(tensor).is_some())
    }

    /// Whether any tensor belongs to transformer layer `index`.
    pub fn has_layer(&self, index: usize) -> bool {
        let prefix = format!("model.layers.{index}.");
        self.files.iter().flat_map(TensorFile::entries).any(|entry| entry.name.starts_with(&prefix))
    }

    /// Reads a tensor of `shape` as f32.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], [`CheckpointError::WrongShape`], [`CheckpointError::WrongType`].
    pub fn read(&mut self, tensor: &str, shape: &[usize], values: &mut Vec<f32>) -> Result<(), CheckpointError> {
        let folder = self.folder.clone();
        let Some(file) = self.file_of(tensor) else {
            return Err(CheckpointError::MissingTensor { path: folder, tensor: tensor.into() });
        };
        let found = file.entry(tensor).map(|entry| entry.shape.clone()).unwrap_or_default();
        if found != shape {
            return Err(CheckpointError::WrongShape {
                path: file.path().into(),
                tensor: tensor.into(),
                expected: shape.into(),
                found,
            });
        }
        file.read_f32(tensor, values)
    }
}

/// The files an index names, each with its tensors.
fn read_index(path: &Path) -> Result<BTreeMap<String, Option<Vec<String>>>, CheckpointError> {
    let text = fs::read_to_string(path).map_err(CheckpointError::io("read", path))?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| CheckpointError::Json { path: path.into(), problem: error.to_string() })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut files: BTreeMap<String, Option<Vec<String>>> = BTreeMap::new();
    for (tensor, file) in index.weight_map {
        files.entry(file).or_default().get_or_insert_default().push(tensor);
    }
    for file in files.keys() {
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        let problem = match plain {
            false => "is not a plain file name",
            true if !folder.join(file).exists() => "is not there",
            true => continue,
        };
        return Err(CheckpointError::BadIndex { path: path.into(), file: file.clone(), problem });
    }
    Ok(files)
}

/// A tensor of a model: where it is written to, and what it is called.
enum Place<'a> {
    Weight(&'a Parameter),
    /// The expert bias of a router, by its number.
    Bias(usize),
    /// The multi-token-prediction modules' copies, written for other programs and shared here.
    Copy(&'a Parameter),
}

/// Every tensor of a checkpoint of `model`, in the order of its layers.
fn tensors<D: Kernels>(model: &Model<D>) -> Vec<(TensorSpec, Place<'_>)> {
    let layout = model.architecture().layout();
    let mut all: Vec<(TensorSpec, Place<'_>)> = Vec::new();
    for parameter in layout.parameters() {
        all.push((TensorSpec { name: parameter.name.clone(), shape: parameter.shape() }, Place::Weight(parameter)));
    }
    for (number, router) in model.routers.iter().enumerate() {
        if let Some(name) = &router.bias_name {
            let spec = TensorSpec { name: name.clone(), shape: vec![router.bias.shape().elements()] };
            all.push((spec, Place::Bias(number)));
        }
    }
    for (name, of) in copies(model.config()) {
        if let Some(parameter) = layout.parameters().iter().find(|parameter| parameter.name == of) {
            all.push((TensorSpec { name, shape: parameter.shape() }, Place::Copy(parameter)));
        }
    }
    all
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// `(copy, original)` of what published checkpoints hold twice.
fn copies(config: &ModelConfig) -> Vec<(String, &'static str)> {
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
    let mut files = ModelFiles::open(folder)?;
    let mut warnings = Vec::new();
    let config = *model.config();
    let layers = config.num_hidden_layers..config.num_hidden_layers + config.num_nextn_predict_layers;
    let absent: Vec<String> =
        layers.filter(|&index| !files.has_layer(index)).map(|index| format!("model.layers.{index}.")).collect();
    if !absent.is_empty() {
        warnings.push(format!("{}: no multi-token-prediction modules; they start untrained", folder.display()));
    }
    refuse_unexpected(model, &files)?;
    let plan: Vec<(TensorSpec, Option<Parameter>, usize)> = tensors(model)
        .into_iter()
        .filter_map(|(spec, place)| match place {
            Place::Weight(parameter) => Some((spec, Some(parameter.clone()), 0)),
            Place::Bias(number) => Some((spec, None, number)),
            Place::Copy(_) => None,
        })
        .filter(|(spec, ..)| !absent.iter().any(|prefix| spec.name.starts_with(prefix)))
        .collect();
    let device = model.device().clone();
    let mut values = Vec::new();
    for (spec, parameter, number) in plan {
        files.read(&spec.name, &spec.shape, &mut values)?;
        let written = match &parameter {
            Some(parameter) => model.weights_mut().write(&device, parameter, bytemuck::cast_slice(&values)),
            None => model.routers[number].bias.upload(&device, &values),
        };
        written.map_err(device_error(&spec.name))?;
    }
    compare_copies(&config, &mut files, &mut warnings)?;
    Ok(warnings)
}

/// A tensor of a name that no model of this kind has is a sign of the wrong config.json.
fn refuse_unexpected<D: Kernels>(model: &Model<D>, files: &ModelFiles) -> Result<(), CheckpointError> {
    let known: BTreeSet<String> = tensors(model).into_iter().map(|(spec, _)| spec.name).collect();
    let config = model.config();
    let past = |name: &str| {
        let index = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        index.is_some_and(|index| index >= config.num_hidden_layers + config.num_nextn_predict_layers)
    };
    let harmless = |name: &str| {
        // The head of a tied model, frequencies that old releases stored, modules this model was built without.
        (name == HEAD && config.tie_word_embeddings) || name.ends_with(".rotary_emb.inv_freq") || past(name)
    };
    for file in &files.files {
        for entry in file.entries() {
            let name = &entry.name;
            if name.ends_with(".weight_scale_inv") || entry.dtype.name().starts_with("F8") {
                return Err(CheckpointError::WrongType {
                    path: file.path().into(),
                    tensor: name.clone(),
                    dtype: format!("{} with block scales", entry.dtype.name()),
                    remedy: "FP8 weights are not read: dequantise the checkpoint to BF16 first",
                });
            }
            if !known.contains(name) && !harmless(name) {
                return Err(CheckpointError::UnexpectedTensor { path: file.path().into(), tensor: name.clone() });
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

/// The model folder that a user means by `folder`: itself, or the newest checkpoint of the run in it (or in its `model`
/// folder, where the quickstart keeps its run).
///
/// # Errors
/// [`CheckpointError::NoModel`] where there is none.
pub fn model_folder(folder: &Path) -> Result<PathBuf, CheckpointError> {
    if folder.join(CONFIG).is_file() {
        return Ok(folder.into());
    }
    for run in [folder.to_path_buf(), folder.join("model")] {
        if run.is_dir()
            && let Some((_, newest)) = super::latest(&run)?
        {
            return Ok(newest);
        }
    }
    Err(CheckpointError::NoModel { path: folder.into(), missing: CONFIG })
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
    let config = ModelConfig { num_nextn_predict_layers: 0, ..read_config(folder)? };
    let mut model = Model::new(device, &config, precision).map_err(|error| CheckpointError::Device {
        tensor: "the whole model".into(),
        source: error.to_string().into(),
    })?;
    let warnings = load_weights(&mut model, folder)?;
    Ok((model, warnings))
}

/// Writes `model` into a draft: `config.json`, `generation_config.json`, the weights in files of at most `shard_bytes`
/// (but at least a tensor each), and the tokenizer.
///
/// # Errors
/// [`CheckpointError::Io`], [`CheckpointError::Device`].
pub fn save_model<D: Kernels>(
    draft: &mut Draft<'_>,
    model: &Model<D>,
    tokenizer: Option<&Tokenizer>,
    shard_bytes: u64,
) -> Result<(), CheckpointError> {
    write_json(draft, CONFIG, &model.config().hugging_face("float32"))?;
    write_json(draft, GENERATION_CONFIG, &generation_config(model.config()))?;
    if let Some(tokenizer) = tokenizer {
        tokenizer.save(draft.folder())?;
        draft.adopt(fathom_dataprep::tokenizer::TOKENIZER)?;
        draft.adopt(fathom_dataprep::tokenizer::TOKENIZER_CONFIG)?;
    }
    let all = tensors(model);
    let shards = divide(&all, shard_bytes);
    let count = shards.len();
    let name = |number: usize| match count {
        1 => SINGLE.to_string(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
    };
    let mut weight_map = BTreeMap::new();
    for (number, range) in shards.into_iter().enumerate() {
        let (file, part) = (name(number), &all[range]);
        weight_map.extend(part.iter().map(|(spec, _)| (spec.name.clone(), file.clone())));
        let specs: Vec<TensorSpec> = part.iter().map(|(spec, _)| spec.clone()).collect();
        write_tensors(draft, &file, &specs, |index, bytes| read_place(model, &part[index].1, bytes))?;
    }
    if count > 1 {
        let total: u64 = all.iter().map(|(spec, _)| spec.bytes()).sum();
        write_json(
            draft,
            INDEX,
            &serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map }),
        )?;
    }
    Ok(())
}

fn generation_config(config: &ModelConfig) -> serde_json::Value {
    let mut json = serde_json::json!({ "_from_model_config": true });
    for (key, id) in [("bos_token_id", config.bos_token_id), ("eos_token_id", config.eos_token_id)] {
        if let Some(id) = id {
            json[key] = id.into();
        }
    }
    json
}

pub(super) fn write_json(
    draft: &mut Draft<'_>,
    path: &str,
    value: &impl serde::Serialize,
) -> Result<(), CheckpointError> {
    let json = serde_json::to_vec_pretty(value)
        .map_err(|error| CheckpointError::Json { path: draft.folder().join(path), problem: error.to_string() })?;
    draft.write_bytes(path, &json)
}

/// Consecutive tensors of at most `limit` bytes together, or a single larger one.
fn divide(all: &[(TensorSpec, Place<'_>)], limit: u64) -> Vec<std::ops::Range<usize>> {
    let mut shards: Vec<std::ops::Range<usize>> = Vec::new();
    let mut filled = 0;
    for (index, (spec, _)) in all.iter().enumerate() {
        match shards.last_mut() {
            Some(last) if filled + spec.bytes() <= limit => {
                last.end = index + 1;
                filled += spec.bytes();
            }
            _ => {
                shards.push(index..index + 1);
                filled = spec.bytes();
            }
        }
    }
    shards
}

fn read_place<D: Kernels>(model: &Model<D>, place: &Place<'_>, bytes: &mut [u8]) -> Result<(), D::Error> {
    match place {
        Place::Weight(parameter) | Place::Copy(parameter) => model.weights().read(model.device(), parameter, bytes),
        Place::Bias(number) => {
            let view = model.routers[*number].bias.view();
            model.device().download(view.buffer(), view.offset() * 4, bytes)
        }
    }
}

/// Writes a safetensors file; `read` fetches the bytes of a tensor by its number. One tensor is in memory at a time.
pub(super) fn write_tensors<E: std::fmt::Display>(
    draft: &mut Draft<'_>,
    path: &str,
    specs: &[TensorSpec],
    mut read: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
) -> Result<(), CheckpointError> {
    let mut bytes = Vec::new();
    draft.write(path, &mut |file, target| {
        file.write_all(&safetensors::header(specs)).map_err(CheckpointError::io("write", target))?;
        for (index, spec) in specs.iter().enumerate() {
            bytes.resize(spec.bytes() as usize, 0);
            read(index, &mut bytes).map_err(device_error(&spec.name))?;
            file.write_all(&bytes).map_err(CheckpointError::io("write", target))?;
        }
        Ok(())
    })
}
