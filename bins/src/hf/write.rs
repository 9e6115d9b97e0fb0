//! A model into a Hugging Face model folder, in any format.

use super::error::HfError;
use super::format::{Encoder, Format};
use super::names::{CONFIG, GENERATION_CONFIG, INDEX, ModelTensor, Place, SINGLE, tensors};
use super::safetensors::{self, TensorSpec};
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::fp8::NotANumber;
use fathom_core::model::Model;
use fathom_dataprep::Tokenizer;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// What writes the bytes of a file; it gets the file and its path, for errors.
pub type Fill<'a> = &'a mut dyn FnMut(&mut dyn Write, &Path) -> Result<(), HfError>;

/// A folder that is being written, file by file.
pub trait Folder {
    /// Where its files are for now.
    fn path(&self) -> &Path;

    /// Writes the file at `path` (relative, parts divided by `/`) with the bytes that `fill` gives.
    ///
    /// # Errors
    /// Those of `fill`; [`HfError::Io`].
    fn write(&mut self, path: &str, fill: Fill<'_>) -> Result<(), HfError>;
}

/// Every tensor that [`save_model`] writes of `model`, scales among them, in its order.
pub fn specs<D: Kernels>(model: &Model<D>, format: Format) -> Vec<TensorSpec> {
    tensors(model).into_iter().flat_map(|t| format.of(&t.name, &t.shape).specs(&t.name, &t.shape)).collect()
}

/// Writes `model` into `folder`: `config.json`, `generation_config.json`, the weights in `format` and in files of at
/// most `shard_bytes` (but at least a tensor each), and the tokenizer.
///
/// # Errors
/// [`HfError::Io`], [`HfError::Device`]; [`HfError::BadElement`] for a weight that is no number and
/// cannot be stored in FP8.
pub fn save_model<D: Kernels>(
    folder: &mut dyn Folder,
    model: &Model<D>,
    tokenizer: Option<&Tokenizer>,
    format: Format,
    shard_bytes: u64,
) -> Result<(), HfError> {
    let files = ModelWriter::new(model, format, shard_bytes);
    files.write_description(folder, model.config(), tokenizer)?;
    (0..files.count())
        .try_for_each(|number| files.write_weights(folder, number, &mut |place, bytes| read_place(model, place, bytes)))
}

/// The files of a model: which tensors each of the files with weights holds.
pub(crate) struct ModelWriter {
    format: Format,
    tensors: Vec<ModelTensor>,
    /// Of each tensor, what is stored for it: itself, and its scales.
    specs: Vec<Vec<TensorSpec>>,
    shards: Vec<Range<usize>>,
}

impl ModelWriter {
    /// Files of at most `shard_bytes` each, but at least a tensor.
    pub(crate) fn new<D: Kernels>(model: &Model<D>, format: Format, shard_bytes: u64) -> Self {
        let tensors = tensors(model);
        let specs: Vec<Vec<TensorSpec>> =
            tensors.iter().map(|t| format.of(&t.name, &t.shape).specs(&t.name, &t.shape)).collect();
        let shards = divide(specs.iter().map(|specs| specs.iter().map(TensorSpec::bytes).sum()), shard_bytes);
        Self { format, tensors, specs, shards }
    }

    /// Number of files with weights.
    pub(crate) fn count(&self) -> usize {
        self.shards.len()
    }

    /// Where the tensors of a file with weights are in the model, in the order in which they are written.
    pub(crate) fn places(&self, number: usize) -> impl Iterator<Item = &Place> {
        self.tensors[self.shards[number].clone()].iter().map(|tensor| &tensor.place)
    }

    /// The name of a file with weights.
    pub(crate) fn name(&self, number: usize) -> String {
        shard_name(number, self.shards.len())
    }

    /// Writes everything but the weights.
    pub(crate) fn write_description(
        &self,
        folder: &mut dyn Folder,
        config: &ModelConfig,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<(), HfError> {
        let config = ModelConfig { quantization_config: self.format.quantization(), ..*config };
        write_json(folder, CONFIG, &config.hugging_face(self.format.torch_dtype()))?;
        write_json(folder, GENERATION_CONFIG, &generation_config(&config))?;
        if let Some(tokenizer) = tokenizer {
            for (name, bytes) in tokenizer.files() {
                folder.write(name, &mut |file, target| write(file, target, &bytes))?;
            }
        }
        if self.count() == 1 {
            return Ok(());
        }
        let mut index = Index::default();
        for number in 0..self.count() {
            index.add(&self.name(number), self.specs[self.shards[number].clone()].iter().flatten());
        }
        index.write(folder)
    }

    /// Writes a file with weights, which `read` fetches in f32, one tensor at a time.
    pub(crate) fn write_weights<E: std::fmt::Display>(
        &self,
        folder: &mut dyn Folder,
        number: usize,
        read: &mut impl FnMut(&Place, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), HfError> {
        let range = self.shards[number].clone();
        let specs: Vec<TensorSpec> = self.specs[range.clone()].iter().flatten().cloned().collect();
        folder.write(&self.name(number), &mut |file, target| {
            write(file, target, &safetensors::header(&specs))?;
            for tensor in &self.tensors[range.clone()] {
                let mut values = vec![0.0f32; tensor.shape.iter().product()];
                read(&tensor.place, bytemuck::cast_slice_mut(&mut values)).map_err(HfError::device(&tensor.name))?;
                let cols = tensor.shape.last().copied().unwrap_or(1);
                let mut encoder = Encoder::new(self.format.of(&tensor.name, &tensor.shape), cols, false);
                write(file, target, encoder.rows(&values).map_err(bad_element(target, &tensor.name))?)?;
                write(file, target, &encoder.scales())?;
            }
            Ok(())
        })
    }
}

/// Reads a tensor of `model` that lies here whole, as it is stored.
pub(crate) fn read_place<D: Kernels>(model: &Model<D>, place: &Place, bytes: &mut [u8]) -> Result<(), D::Error> {
    match place {
        Place::Weight(parameter) | Place::Copy(parameter) => model.weights().read(model.device(), parameter, bytes),
        Place::Bias(number) => {
            let view = model.routers[*number].bias.view();
            model.device().download(view.buffer(), view.offset() * 4, bytes)
        }
    }
}

/// Wraps what cannot be encoded with where it would have gone.
pub(crate) fn bad_element(target: &Path, tensor: &str) -> impl FnOnce(NotANumber) -> HfError + use<> {
    let (path, tensor) = (target.to_path_buf(), tensor.to_string());
    move |NotANumber { row, col }| HfError::BadElement {
        path,
        tensor,
        row,
        col,
        problem: "is NaN or infinite, or too large for the format; the model has diverged, take an earlier one",
    }
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

pub(crate) fn write_json(folder: &mut dyn Folder, path: &str, value: &impl serde::Serialize) -> Result<(), HfError> {
    let json = serde_json::to_vec_pretty(value)
        .map_err(|error| HfError::Json { path: folder.path().join(path), problem: error.to_string() })?;
    folder.write(path, &mut |file, target| write(file, target, &json))
}

pub(crate) fn write(file: &mut dyn Write, target: &Path, bytes: &[u8]) -> Result<(), HfError> {
    file.write_all(bytes).map_err(HfError::io("write", target))
}

/// The name of a model file among `count`, as transformers names them.
pub(crate) fn shard_name(number: usize, count: usize) -> String {
    match count {
        1 => SINGLE.to_string(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
    }
}

/// Which file every tensor is in, to be written beside them.
#[derive(Default)]
pub(crate) struct Index {
    weight_map: BTreeMap<String, String>,
    bytes: u64,
}

impl Index {
    pub(crate) fn add<'a>(&mut self, file: &str, specs: impl IntoIterator<Item = &'a TensorSpec>) {
        for spec in specs {
            self.weight_map.insert(spec.name.clone(), file.to_string());
            self.bytes += spec.bytes();
        }
    }

    pub(crate) fn write(&self, folder: &mut dyn Folder) -> Result<(), HfError> {
        let (bytes, map) = (self.bytes, &self.weight_map);
        write_json(folder, INDEX, &serde_json::json!({ "metadata": { "total_size": bytes }, "weight_map": map }))
    }
}

/// Consecutive items of at most `limit` bytes together, or a single larger one.
pub(crate) fn divide(bytes: impl IntoIterator<Item = u64>, limit: u64) -> Vec<std::ops::Range<usize>> {
    let mut shards: Vec<std::ops::Range<usize>> = Vec::new();
    let mut filled = 0u64;
    for (index, bytes) in bytes.into_iter().enumerate() {
        match shards.last_mut() {
            Some(last) if filled.saturating_add(bytes) <= limit => {
                last.end = index + 1;
                filled += bytes;
            }
            _ => {
                shards.push(index..index + 1);
                filled = bytes;
            }
        }
    }
    shards
}

/// Writes a safetensors file; `read` fetches the bytes of a tensor by its number. One tensor is in memory at a time.
pub(crate) fn write_tensors<E: std::fmt::Display>(
    folder: &mut dyn Folder,
    path: &str,
    specs: &[TensorSpec],
    mut read: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
) -> Result<(), HfError> {
    let mut bytes = Vec::new();
    folder.write(path, &mut |file, target| {
        write(file, target, &safetensors::header(specs))?;
        for (index, spec) in specs.iter().enumerate() {
            bytes.resize(spec.bytes() as usize, 0);
            read(index, &mut bytes).map_err(HfError::device(&spec.name))?;
            write(file, target, &bytes)?;
        }
        Ok(())
    })
}
