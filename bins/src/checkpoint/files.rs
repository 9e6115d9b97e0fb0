//! The tensors of a Hugging Face model folder, read as f32 whatever they are stored in.

use super::error::CheckpointError;
use super::model::{copies, read_config};
use super::safetensors::{ElementType, TensorEntry, TensorFile};
use fathom_core::config::Quantization;
use fathom_core::fp8::Blocks;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// The model's description in a checkpoint.
pub const CONFIG: &str = "config.json";
pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// What follows a weight's name in the name of its scales.
pub(crate) const SCALES: &str = "_scale_inv";
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
}

/// What is read in place of the folder's own weights.
struct Average {
    file: TensorFile,
    /// The prediction modules' copies of other weights, and of which.
    copies: HashMap<String, &'static str>,
}

/// The file a tensor is read from.
#[derive(Clone, Copy, Debug)]
enum Place {
    Model(usize),
    Average,
}

/// A tensor of a model folder that has been looked up: what [`ModelFiles::read_rows`] needs to read any part of it.
#[derive(Clone, Debug)]
pub struct FoundTensor {
    place: Place,
    /// The tensor.
    pub entry: TensorEntry,
    /// All dimensions but the last, and the last. A vector has one row.
    pub rows: usize,
    /// See [`rows`](Self::rows).
    pub cols: usize,
    /// Of codes, how scales apply, and the scales.
    scales: Option<([usize; 2], Vec<f32>)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The keys of `config.json` that say how tensors are stored; the rest need not be of a model that is computed here.
#[derive(Deserialize)]
struct Storage {
    quantization_config: Option<Quantization>,
}

impl ModelFiles {
    /// Opens `model.safetensors`, or every file that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// [`CheckpointError::NoModel`], [`CheckpointError::BadIndex`], [`CheckpointError::Json`] where `config.json` tells of
    /// a quantisation that is not read, and those of [`TensorFile::open`].
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let index = folder.join(INDEX);
        let names = if index.exists() {
            read_index(&index)?
        } else if folder.join(SINGLE).exists() {
            BTreeMap::from([(SINGLE.to_string(), None)])
        } else {
            return Err(CheckpointError::NoModel { path: folder.into(), missing: SINGLE });
        };
        let (mut files, mut places) = (Vec::new(), HashMap::new());
        for (name, tensors) in names {
            let file = TensorFile::open(&folder.join(&name))?;
            for tensor in tensors.into_iter().flatten() {
                if file.entry(&tensor).is_none() {
                    return Err(CheckpointError::MissingTensor { path: file.path().into(), tensor });
                }
            }
            for entry in file.entries() {
                if places.insert(entry.name.clone(), files.len()).is_some() {
                    return Err(CheckpointError::UnexpectedTensor {
                        path: file.path().into(),
                        tensor: format!("{} (a second time)", entry.name),
                    });
                }
            }
            files.push(file);
        }
        Ok(Self { folder: folder.into(), files, places, quantization: read_quantization(folder)?, average: None })
    }

    /// As [`open`](Self::open), but every weight is read from the average that training kept, which is f32.
    ///
    /// # Errors
    /// Those of `open`; [`CheckpointError::NoAverage`] where training kept none.
    pub fn open_average(folder: &Path) -> Result<Self, CheckpointError> {
        let files = Self::open(folder)?;
        let path = folder.join(super::state::AVERAGE);
        if !path.exists() {
            return Err(CheckpointError::NoAverage { path: folder.into() });
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

    /// Looks a tensor up, and reads and checks its scales if it is of codes.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`]; of codes also [`CheckpointError::MissingScale`],
    /// [`CheckpointError::UnknownBlocks`], [`CheckpointError::WrongShape`] and [`CheckpointError::BadElement`].
    pub fn find(&mut self, tensor: &str) -> Result<FoundTensor, CheckpointError> {
        let missing = || CheckpointError::MissingTensor { path: self.folder.clone(), tensor: tensor.into() };
        let (place, entry) = match self.averaged(tensor) {
            Some(entry) => (Place::Average, entry.clone()),
            None => {
                let file = *self.places.get(tensor).ok_or_else(missing)?;
                (Place::Model(file), self.files[file].entry(tensor).cloned().ok_or_else(missing)?)
            }
        };
        let cols = entry.shape.last().copied().unwrap_or(1);
        // Rows without columns could be any number of nothing.
        let rows = if cols == 0 { 0 } else { entry.shape.split_last().map_or(1, |(_, rest)| rest.iter().product()) };
        let scales = if entry.dtype == ElementType::E4M3 { Some(self.read_scales(place, &entry)?) } else { None };
        Ok(FoundTensor { place, entry, rows, cols, scales })
    }

    /// Where the average has the tensor, if there is one.
    fn averaged(&self, tensor: &str) -> Option<&TensorEntry> {
        let average = self.average.as_ref()?;
        average.file.entry(average.copies.get(tensor).copied().unwrap_or(tensor))
    }

    /// The file of a place that [`find`](Self::find) gave.
    fn file(&mut self, place: Place) -> &mut TensorFile {
        match (place, &mut self.average) {
            (Place::Average, Some(average)) => &mut average.file,
            (Place::Average, None) => unreachable!("found in the average of these files"),
            (Place::Model(file), _) => &mut self.files[file],
        }
    }

    fn read_scales(&mut self, place: Place, codes: &TensorEntry) -> Result<([usize; 2], Vec<f32>), CheckpointError> {
        let (path, tensor) = (self.file(place).path().to_path_buf(), codes.name.clone());
        let name = format!("{tensor}{SCALES}");
        let Some(&file) = self.places.get(&name) else {
            return Err(CheckpointError::MissingScale { path, tensor, scales: name });
        };
        let Some(Quantization { weight_block_size: block, .. }) = self.quantization else {
            return Err(CheckpointError::UnknownBlocks { path, tensor });
        };
        let &[rows, cols] = codes.shape.as_slice() else {
            let remedy = "codes are read as matrices only: convert it";
            return Err(CheckpointError::WrongType { path, tensor, dtype: "F8_E4M3".into(), remedy });
        };
        let expected = Blocks { rows, cols, block }.scales().to_vec();
        let file = &mut self.files[file];
        let found = file.entry(&name).map(|entry| entry.shape.clone()).unwrap_or_default();
        if found != expected {
            return Err(CheckpointError::WrongShape { path: file.path().into(), tensor: name, expected, found });
        }
        let mut scales = Vec::new();
        file.read_f32(&name, &mut scales)?;
        if let Some(at) = scales.iter().position(|scale| !(scale.is_finite() && *scale >= 0.0)) {
            let (row, col) = (at / expected[1], at % expected[1]);
            let problem = "a scale must be a finite number that is not negative";
            return Err(CheckpointError::BadElement { path: file.path().into(), tensor: name, row, col, problem });
        }
        Ok((block, scales))
    }

    /// Replaces `values` by rows `range` of a tensor in f32: plain numbers widened exactly, codes multiplied by their scales
    /// in f32. Of codes, the range must begin where a block does.
    ///
    /// # Errors
    /// [`CheckpointError::BadElement`] for a code that is NaN, [`CheckpointError::WrongType`], [`CheckpointError::Io`].
    ///
    /// # Panics
    /// If the range is not inside the tensor.
    pub fn read_rows(
        &mut self,
        found: &FoundTensor,
        range: Range<usize>,
        values: &mut Vec<f32>,
    ) -> Result<(), CheckpointError> {
        let elements = range.start * found.cols..range.end * found.cols;
        let file = self.file(found.place);
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
        blocks.decode(&codes, scales, values).map_err(|at| CheckpointError::BadElement {
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
    /// [`CheckpointError::Io`].
    ///
    /// # Panics
    /// If the range is not inside the tensor.
    pub fn read_stored(
        &mut self,
        found: &FoundTensor,
        range: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        bytes.clear();
        self.file(found.place).read_bytes(&found.entry, range.start * found.cols..range.end * found.cols, bytes)
    }

    /// Reads a tensor of `shape` as f32.
    ///
    /// # Errors
    /// [`CheckpointError::WrongShape`]; those of [`find`](Self::find) and [`read_rows`](Self::read_rows).
    pub fn read(&mut self, tensor: &str, shape: &[usize], values: &mut Vec<f32>) -> Result<(), CheckpointError> {
        let found = self.find(tensor)?;
        if found.entry.shape != shape {
            return Err(CheckpointError::WrongShape {
                path: self.file(found.place).path().into(),
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

impl FoundTensor {
    /// The scales, of codes: of a matrix of the shape that [`Blocks::scales`] gives.
    pub fn scales(&self) -> Option<&[f32]> {
        self.scales.as_ref().map(|(_, scales)| scales.as_slice())
    }

    /// The rows in pieces of about [`CHUNK`] elements, each of which begins where a block of this tensor does, and where one
    /// of `block` rows does.
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

/// `quantization_config` of the folder's `config.json`, if there are both.
fn read_quantization(folder: &Path) -> Result<Option<Quantization>, CheckpointError> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(CheckpointError::io("read", &path))?;
    let storage: Storage =
        serde_json::from_str(&text).map_err(|error| CheckpointError::Json { path, problem: error.to_string() })?;
    Ok(storage.quantization_config)
}
