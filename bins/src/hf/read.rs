//! Reads a Hugging Face model folder: tensors as f32, in any storage format, and models from them.

use super::error::HfError;
use super::experts::separate;
use super::finite::{NOT_FINITE, first_not_finite, first_not_number};
use super::folder::read_config;
use super::index::weight_files;
use super::names::{AVERAGE, CONFIG, HEAD, ModelTensor, Place, SCALES, copies, tensors};
use super::safetensors::{ElementType, TensorEntry, TensorFile};
use fathom_core::config::{ModelConfig, Quantization};
use fathom_core::device::Kernels;
use fathom_core::fp8::Blocks;
use fathom_core::model::Model;
use fathom_core::precision::Precision;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Elements read at a time, about.
const CHUNK: usize = 1 << 20;

/// The tensors of a model folder, one file or many.
pub struct ModelFiles {
    folder: PathBuf,
    files: Vec<TensorFile>,
    /// The file of every tensor.
    places: HashMap<String, usize>,
    quantization: Option<Quantization>,
    average: Option<Average>,
    warnings: Vec<String>,
}

/// The EMA of the weights, read in place of the folder's weights.
struct Average {
    file: TensorFile,
    /// The MTP modules' copies of other weights, and the names of those.
    copies: HashMap<String, &'static str>,
}

/// The file a tensor is read from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Model(usize),
    Average,
}

/// A tensor of a model folder that has been looked up: what [`ModelFiles::read_rows`] needs to read any part of it.
#[derive(Clone, Debug)]
pub struct FoundTensor {
    origin: Origin,
    /// The tensor.
    pub entry: TensorEntry,
    /// All dimensions but the last, and the last. A vector has one row.
    pub rows: usize,
    /// See [`rows`](Self::rows).
    pub cols: usize,
    /// FP8 only: rows and columns per scale, and the scales.
    scales: Option<([usize; 2], Vec<f32>)>,
}

/// The keys of `config.json` that say how tensors are stored; the rest need not be of a model that is computed here.
#[derive(Deserialize)]
struct Storage {
    quantization_config: Option<Quantization>,
}

impl ModelFiles {
    /// Opens `model.safetensors`, or every file that `model.safetensors.index.json` names.
    ///
    /// Of a tensor that several files hold, the one counts that the index names. Where `model.safetensors` lies beside
    /// an index of other files it is taken, as transformers does, and a warning names both. Experts that transformers 5
    /// stored together appear as one tensor each.
    ///
    /// # Errors
    /// [`HfError::NoModel`], [`HfError::BadIndex`], [`HfError::DuplicateTensor`], [`HfError::Json`] where `config.json`
    /// tells of a quantization that is not read, and those of [`TensorFile::open`].
    pub fn open(folder: &Path) -> Result<Self, HfError> {
        let quantization = read_quantization(folder)?;
        let (names, warnings) = weight_files(folder)?;
        let of_file = |(name, tensors)| {
            let (name, tensors): (&String, &BTreeSet<String>) = (name, tensors);
            tensors.iter().map(move |tensor| (tensor.as_str(), name.as_str()))
        };
        let home: HashMap<&str, &str> = names.iter().flat_map(of_file).collect();
        let (mut files, mut places) = (Vec::new(), HashMap::new());
        for (name, tensors) in &names {
            let mut file = TensorFile::open(&folder.join(name))?;
            if let Some(tensor) = tensors.iter().find(|tensor| file.entry(tensor).is_none()) {
                return Err(HfError::MissingTensor { path: file.path().into(), tensor: tensor.clone() });
            }
            file.retain(|tensor| home.get(tensor).is_none_or(|home| home == name));
            separate(&mut file, quantization)?;
            for entry in file.entries() {
                if let Some(first) = places.insert(entry.name.clone(), files.len()) {
                    let first = files.get(first).unwrap_or(&file).path().into();
                    let (path, tensor) = (file.path().into(), entry.name.clone());
                    return Err(HfError::DuplicateTensor { path, tensor, first });
                }
            }
            files.push(file);
        }
        Ok(Self { folder: folder.into(), files, places, quantization, average: None, warnings })
    }

    /// What is unusual but harmless about the folder.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// As [`open`](Self::open), but every weight is read from the average that training kept, which is f32.
    ///
    /// # Errors
    /// Those of `open`; [`HfError::NoAverage`] where training kept none.
    pub fn open_average(folder: &Path) -> Result<Self, HfError> {
        let files = Self::open(folder)?;
        let path = folder.join(AVERAGE);
        if !path.exists() {
            return Err(HfError::NoAverage { path: folder.into() });
        }
        let copies = copies(&read_config(folder)?).into_iter().collect();
        Ok(Self { average: Some(Average { file: TensorFile::open(&path)?, copies }), ..files })
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// How FP8 weights are scaled, where `config.json` says it.
    pub fn quantization(&self) -> Option<Quantization> {
        self.quantization
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, tensor: &str) -> bool {
        self.places.contains_key(tensor)
    }

    /// Whether any tensor belongs to transformer layer `index`.
    pub fn has_layer(&self, index: usize) -> bool {
        let prefix = format!("model.layers.{index}.");
        self.places.keys().any(|name| name.starts_with(&prefix))
    }

    /// The tensor that `name` holds the scales of, if that is what its name and the folder's other tensors say.
    pub fn scaled_by<'a>(&self, name: &'a str) -> Option<&'a str> {
        let codes = name.strip_suffix(SCALES)?;
        let entry = self.files[*self.places.get(codes)?].entry(codes)?;
        (entry.dtype == ElementType::E4M3).then_some(codes)
    }

    /// Looks a tensor up; for an FP8 tensor it also reads and checks the scales.
    ///
    /// # Errors
    /// [`HfError::MissingTensor`]; for an FP8 tensor also [`HfError::MissingScale`],
    /// [`HfError::UnknownBlocks`], [`HfError::WrongShape`] and [`HfError::BadElement`].
    pub fn find(&mut self, tensor: &str) -> Result<FoundTensor, HfError> {
        let missing = || HfError::MissingTensor { path: self.folder.clone(), tensor: tensor.into() };
        let (origin, entry) = match self.averaged(tensor) {
            Some(entry) => (Origin::Average, entry.clone()),
            None => {
                let file = *self.places.get(tensor).ok_or_else(missing)?;
                (Origin::Model(file), self.files[file].entry(tensor).cloned().ok_or_else(missing)?)
            }
        };
        let cols = entry.shape.last().copied().unwrap_or(1);
        // Rows without columns could be any number of nothing.
        let rows = if cols == 0 { 0 } else { entry.shape.split_last().map_or(1, |(_, rest)| rest.iter().product()) };
        let scales = if entry.dtype == ElementType::E4M3 { Some(self.read_scales(origin, &entry)?) } else { None };
        Ok(FoundTensor { origin, entry, rows, cols, scales })
    }

    /// Where the average has the tensor, if there is one.
    fn averaged(&self, tensor: &str) -> Option<&TensorEntry> {
        let average = self.average.as_ref()?;
        average.file.entry(average.copies.get(tensor).copied().unwrap_or(tensor))
    }

    /// The file of a place that [`find`](Self::find) gave.
    fn file(&mut self, origin: Origin) -> &mut TensorFile {
        match (origin, &mut self.average) {
            (Origin::Average, Some(average)) => &mut average.file,
            (Origin::Average, None) => unreachable!("found in the average of these files"),
            (Origin::Model(file), _) => &mut self.files[file],
        }
    }

    fn read_scales(&mut self, origin: Origin, codes: &TensorEntry) -> Result<([usize; 2], Vec<f32>), HfError> {
        let (path, tensor) = (self.file(origin).path().to_path_buf(), codes.name.clone());
        let name = format!("{tensor}{SCALES}");
        let Some(&file) = self.places.get(&name) else {
            return Err(HfError::MissingScale { path, tensor, scales: name });
        };
        let Some(Quantization { weight_block_size: block, .. }) = self.quantization else {
            return Err(HfError::UnknownBlocks { path, tensor });
        };
        let &[rows, cols] = codes.shape.as_slice() else {
            let remedy = "codes are read as matrices only: convert it";
            return Err(HfError::WrongType { path, tensor, dtype: "F8_E4M3".into(), remedy });
        };
        let expected = Blocks { rows, cols, block }.scales().to_vec();
        let file = &mut self.files[file];
        let found = file.entry(&name).map(|entry| entry.shape.clone()).unwrap_or_default();
        if found != expected {
            return Err(HfError::WrongShape { path: file.path().into(), tensor: name, expected, found });
        }
        let mut scales = Vec::new();
        file.read_f32(&name, &mut scales)?;
        if let Some(at) = scales.iter().position(|scale| !(scale.is_finite() && *scale >= 0.0)) {
            let (row, col) = (at / expected[1], at % expected[1]);
            let problem = "a scale must be a finite number that is not negative";
            return Err(HfError::BadElement { path: file.path().into(), tensor: name, row, col, problem });
        }
        Ok((block, scales))
    }

    /// Replaces `values` by rows `range` of a tensor in f32: floating point is widened exactly, FP8 values are
    /// multiplied by their scales in f32. The range of an FP8 tensor must begin where a block does.
    ///
    /// # Errors
    /// [`HfError::BadElement`] for a code that is NaN, [`HfError::WrongType`], [`HfError::Io`].
    ///
    /// # Panics
    /// If the range is not inside the tensor.
    pub fn read_rows(
        &mut self,
        found: &FoundTensor,
        range: Range<usize>,
        values: &mut Vec<f32>,
    ) -> Result<(), HfError> {
        let elements = range.start * found.cols..range.end * found.cols;
        let file = self.file(found.origin);
        values.clear();
        let Some((block, scales)) = &found.scales else {
            return file.read_elements(&found.entry, elements, values);
        };
        assert!(range.start.is_multiple_of(block[0]), "begins where a block does");
        let mut codes = Vec::with_capacity(elements.len());
        file.read_bytes(&found.entry, elements, &mut codes)?;
        values.resize(codes.len(), 0.0);
        let blocks = Blocks { rows: range.len(), cols: found.cols, block: *block };
        let [_, across] = blocks.scales();
        let scales = &scales[range.start / block[0] * across..];
        blocks.decode(&codes, scales, values).map_err(|at| HfError::BadElement {
            path: file.path().into(),
            tensor: found.entry.name.clone(),
            row: range.start + at.row,
            col: at.col,
            problem: "the code stands for NaN; the file is damaged or was written from a model that diverged",
        })
    }

    /// Replaces `bytes` by those of rows `range` of a tensor, as they are stored.
    ///
    /// # Errors
    /// [`HfError::Io`].
    ///
    /// # Panics
    /// If the range is not inside the tensor.
    pub fn read_stored(
        &mut self,
        found: &FoundTensor,
        range: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), HfError> {
        bytes.clear();
        self.file(found.origin).read_bytes(&found.entry, range.start * found.cols..range.end * found.cols, bytes)
    }

    /// Reads a tensor of `shape` as f32.
    ///
    /// # Errors
    /// [`HfError::WrongShape`]; those of [`find`](Self::find) and [`read_rows`](Self::read_rows).
    pub fn read(&mut self, tensor: &str, shape: &[usize], values: &mut Vec<f32>) -> Result<(), HfError> {
        let found = self.find(tensor)?;
        if found.entry.shape != shape {
            return Err(HfError::WrongShape {
                path: self.file(found.origin).path().into(),
                tensor: tensor.into(),
                expected: shape.into(),
                found: found.entry.shape,
            });
        }
        let mut part = Vec::new();
        let mut all = std::mem::take(values);
        all.clear();
        all.reserve(found.entry.elements());
        for rows in found.chunks(1) {
            self.read_rows(&found, rows, &mut part)?;
            all.extend_from_slice(&part);
        }
        *values = all;
        Ok(())
    }
}

impl ModelFiles {
    /// Refuses the values of a tensor if one is NaN or infinite.
    pub(super) fn check_finite(&mut self, tensor: &str, values: &[f32]) -> Result<(), HfError> {
        let Some(at) = first_not_number(values) else { return Ok(()) };
        let found = self.find(tensor)?;
        Err(self.not_finite(&found, 0, at))
    }

    /// Refuses values that [`read_rows`](Self::read_rows) gave, from row `first` on, if one is NaN or infinite.
    ///
    /// # Errors
    /// [`HfError::BadElement`].
    pub fn check_rows(&mut self, found: &FoundTensor, first: usize, values: &[f32]) -> Result<(), HfError> {
        first_not_number(values).map_or(Ok(()), |at| Err(self.not_finite(found, first, at)))
    }

    /// As [`check_rows`](Self::check_rows), of what [`read_stored`](Self::read_stored) gave.
    ///
    /// # Errors
    /// [`HfError::BadElement`].
    pub fn check_stored(&mut self, found: &FoundTensor, first: usize, bytes: &[u8]) -> Result<(), HfError> {
        first_not_finite(found.entry.dtype, bytes).map_or(Ok(()), |at| Err(self.not_finite(found, first, at)))
    }

    /// The error for element `at`, counted from row `first` on.
    fn not_finite(&mut self, found: &FoundTensor, first: usize, at: usize) -> HfError {
        let cols = found.cols.max(1);
        let path = self.file(found.origin).path().into();
        let (row, col) = (first + at / cols, at % cols);
        HfError::BadElement { path, tensor: found.entry.name.clone(), row, col, problem: NOT_FINITE }
    }
}

impl FoundTensor {
    /// FP8 only: rows and columns per scale.
    pub fn block(&self) -> Option<[usize; 2]> {
        self.scales.as_ref().map(|(block, _)| *block)
    }

    /// The scales of an FP8 tensor, `[rows, columns]` as [`Blocks::scales`] gives them.
    pub fn scales(&self) -> Option<&[f32]> {
        self.scales.as_ref().map(|(_, scales)| scales.as_slice())
    }

    /// The rows in pieces of about a million elements, each of which begins where a block of this tensor does, and
    /// where one of `block` rows does.
    pub fn chunks(&self, block: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, own) = (self.rows, self.scales.as_ref().map_or(1, |(block, _)| block[0]));
        let unit = match (own, block.max(1)) {
            (a, b) if a.is_multiple_of(b) => a,
            (a, b) if b.is_multiple_of(a) => b,
            (a, b) => a.saturating_mul(b),
        };
        let step = (CHUNK / self.cols.max(1)).max(1).div_ceil(unit).saturating_mul(unit);
        (0..rows).step_by(step).map(move |start| start..rows.min(start.saturating_add(step)))
    }
}

/// `quantization_config` of the folder's `config.json`, if there are both.
fn read_quantization(folder: &Path) -> Result<Option<Quantization>, HfError> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(HfError::io("read", &path))?;
    let storage: Storage =
        serde_json::from_str(&text).map_err(|error| HfError::Json { path, problem: error.to_string() })?;
    Ok(storage.quantization_config)
}

/// Fills `model` from the checkpoint in `folder`; gives warnings for what is unusual but harmless.
///
/// Without the MTP modules' tensors the model's modules stay as they were. A model built without modules passes
/// over those of the checkpoint.
///
/// # Errors
/// A tensor that is missing, unexpected, or of the wrong shape or type; see [`HfError`].
pub fn load_weights<D: Kernels>(model: &mut Model<D>, folder: &Path) -> Result<Vec<String>, HfError> {
    fill(model, ModelFiles::open(folder)?)
}

fn fill<D: Kernels>(model: &mut Model<D>, mut files: ModelFiles) -> Result<Vec<String>, HfError> {
    let mut warnings = files.warnings().to_vec();
    let config = *model.config();
    let layers = config.num_hidden_layers..config.num_hidden_layers + config.num_nextn_predict_layers;
    let absent: Vec<String> =
        layers.filter(|&index| !files.has_layer(index)).map(|index| format!("model.layers.{index}.")).collect();
    if !absent.is_empty() {
        warnings
            .push(format!("{}: no multi-token-prediction (MTP) modules; they start untrained", files.folder.display()));
    }
    let device = model.device().clone();
    let mut values = Vec::new();
    for Checked { tensor: ModelTensor { name, shape, place }, .. } in files.check(model, &absent)? {
        if matches!(place, Place::Copy(_)) {
            continue;
        }
        files.read(&name, &shape, &mut values)?;
        files.check_finite(&name, &values)?;
        let written = match place {
            Place::Bias(number) => model.routers[number].bias.upload(&device, &values),
            Place::Weight(parameter) | Place::Copy(parameter) => {
                // One rank of several may keep a part.
                let held = model.weights().held_of(&parameter);
                let bytes = bytemuck::cast_slice(&values[held.clone()]);
                model.weights_mut().write_range(&device, &parameter, held, bytes)
            }
        };
        written.map_err(HfError::device(&name))?;
    }
    compare_copies(&config, &mut files, &mut warnings)?;
    Ok(warnings)
}

/// A tensor of a model that was found in its folder, in the model's shape.
pub(super) struct Checked {
    pub(super) tensor: ModelTensor,
    /// What the file has it in.
    pub(super) dtype: ElementType,
    /// FP8 only: rows and columns per scale.
    pub(super) block: Option<[usize; 2]>,
    /// Bytes in the file.
    pub(super) bytes: u64,
}

impl ModelFiles {
    /// Looks up every tensor of `model`, but for those whose names begin with one of `absent`.
    ///
    /// # Errors
    /// All tensors that are missing, unexpected, of the wrong shape or without scales: as [`HfError::Tensors`] where
    /// they are several.
    pub(super) fn check<D: Kernels>(&mut self, model: &Model<D>, absent: &[String]) -> Result<Vec<Checked>, HfError> {
        let (mut checked, mut problems) = (Vec::new(), self.unexpected(model));
        for tensor in tensors(model) {
            if absent.iter().any(|prefix| tensor.name.starts_with(prefix)) {
                continue;
            }
            if matches!(tensor.place, Place::Copy(_)) && !self.has(&tensor.name) {
                continue;
            }
            match self.find(&tensor.name) {
                Err(problem) => problems.push(problem),
                Ok(found) if found.entry.shape != tensor.shape => problems.push(HfError::WrongShape {
                    path: self.file(found.origin).path().into(),
                    tensor: tensor.name,
                    expected: tensor.shape,
                    found: found.entry.shape,
                }),
                Ok(found) => {
                    let (dtype, block) = (found.entry.dtype, found.block());
                    checked.push(Checked { tensor, dtype, block, bytes: found.entry.end - found.entry.begin });
                }
            }
        }
        match problems.len() {
            0 => Ok(checked),
            1 => Err(problems.remove(0)),
            _ => Err(HfError::Tensors { problems }),
        }
    }

    /// Tensors of names that no model of this kind has, a sign of the wrong config.json.
    fn unexpected<D: Kernels>(&self, model: &Model<D>) -> Vec<HfError> {
        let known: BTreeSet<String> = tensors(model).into_iter().map(|tensor| tensor.name).collect();
        let config = model.config();
        let past = |name: &str| {
            let rest = name.strip_prefix("model.layers.");
            let index = rest.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            index.is_some_and(|index| index >= config.num_hidden_layers + config.num_nextn_predict_layers)
        };
        let harmless = |name: &str| {
            // The head of a tied model, frequencies that old releases stored, modules this model was built without.
            (name == HEAD && config.tie_word_embeddings) || name.ends_with(".rotary_emb.inv_freq") || past(name)
        };
        let mut all = Vec::new();
        for file in self.files() {
            for entry in file.entries() {
                // Scales belong to the tensor that they scale.
                let name = self.scaled_by(&entry.name).unwrap_or(&entry.name);
                if !known.contains(name) && !harmless(name) {
                    all.push(HfError::UnexpectedTensor { path: file.path().into(), tensor: entry.name.clone() });
                }
            }
        }
        all
    }
}

/// The modules' copies of embedding and head are shared here: say so where a checkpoint has other values in them.
pub(super) fn compare_copies(
    config: &ModelConfig,
    files: &mut ModelFiles,
    warnings: &mut Vec<String>,
) -> Result<(), HfError> {
    let (mut copy, mut original) = (Vec::new(), Vec::new());
    for (name, of) in copies(config).into_iter().filter(|(name, _)| files.has(name)).collect::<Vec<_>>() {
        let (found, found_original) = (files.find(&name)?, files.find(of)?);
        let rows_per_block = found_original.block().map_or(1, |block| block[0]);
        for rows in found.chunks(rows_per_block) {
            files.read_rows(&found, rows.clone(), &mut copy)?;
            files.read_rows(&found_original, rows, &mut original)?;
            if copy != original {
                warnings.push(format!("tensor `{name}` differs from `{of}`, which is used in its place"));
                break;
            }
        }
    }
    Ok(())
}

/// Builds the main model that the checkpoint in `folder` describes, without its multi-token-prediction modules, and
/// fills it: what inference needs. Warnings are given too.
///
/// # Errors
/// Those of [`read_config`] and [`load_weights`].
pub fn load_model<D: Kernels>(
    device: &D,
    folder: &Path,
    precision: Precision,
) -> Result<(Model<D>, Vec<String>), HfError> {
    build(device, folder, precision, ModelFiles::open)
}

/// As [`load_model`], with the moving average of the weights in their place. The expert biases are the checkpoint's
/// own.
///
/// # Errors
/// Those of [`load_model`]; [`HfError::NoAverage`].
pub fn load_average_model<D: Kernels>(
    device: &D,
    folder: &Path,
    precision: Precision,
) -> Result<(Model<D>, Vec<String>), HfError> {
    build(device, folder, precision, ModelFiles::open_average)
}

fn build<D: Kernels>(
    device: &D,
    folder: &Path,
    precision: Precision,
    open: fn(&Path) -> Result<ModelFiles, HfError>,
) -> Result<(Model<D>, Vec<String>), HfError> {
    let config = ModelConfig { num_nextn_predict_layers: 0, quantization_config: None, ..read_config(folder)? };
    let mut model = Model::new(device, &config, precision)
        .map_err(|error| HfError::Device { tensor: "the whole model".into(), source: error.to_string().into() })?;
    let warnings = fill(&mut model, open(folder)?)?;
    Ok((model, warnings))
}
