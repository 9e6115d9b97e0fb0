//! Errors of model folders: the file, the tensor, the byte, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// A model folder that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HfError {
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy(source))]
    Io {
        /// What was tried: "read", "write", "rename" and so on.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },

    /// A `.safetensors` file that contradicts itself.
    #[error("{}: {problem}; the file is damaged, copy it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What contradicts what.
        problem: Damage,
    },

    /// A file whose JSON is not what belongs there.
    #[error("{}: {problem}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The reader's message, which names line and column or field.
        problem: String,
    },

    /// No model where one was expected.
    #[error("{} holds no model: {missing} is missing; {remedy}", path.display())]
    NoModel {
        /// The folder.
        path: PathBuf,
        /// The file that should be there.
        missing: &'static str,
        /// What is there instead, and what to do.
        remedy: String,
    },

    /// An index names a file that is not a plain name, or is not there.
    #[error("{}: weight_map names `{file}`, which {problem}; fetch the missing part", path.display())]
    BadIndex {
        /// The index.
        path: PathBuf,
        /// The file it names.
        file: String,
        /// What is wrong with that.
        problem: &'static str,
    },

    /// The model needs a tensor that the checkpoint lacks.
    #[error("{}: tensor `{tensor}` is missing; config.json describes another model than these weights", path.display())]
    MissingTensor {
        /// The folder or file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// The checkpoint holds a tensor that the model has no place for.
    #[error("{}: tensor `{tensor}` has no place in the model that config.json describes", path.display())]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// Two files hold a tensor of one name, and no index says which of them counts.
    #[error(
        "{}: tensor `{tensor}` is in {} too, and model.safetensors.index.json names neither: remove one of them",
        path.display(), first.display()
    )]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The other file.
        first: PathBuf,
    },

    /// A tensor of another shape than the model's.
    #[error("{}: tensor `{tensor}` has shape {found:?} where the model needs {expected:?}", path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The model's shape.
        expected: Vec<usize>,
        /// The file's shape.
        found: Vec<usize>,
    },

    /// A tensor in a type that is not read.
    #[error("{}: tensor `{tensor}` is {dtype}; {remedy}", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
        /// What to do.
        remedy: &'static str,
    },

    /// Codes without the scales that make numbers of them.
    #[error(
        "{}: tensor `{tensor}` is F8_E4M3, but its scales `{scales}` are missing; fetch the rest of the checkpoint",
        path.display()
    )]
    MissingScale {
        /// The file or folder.
        path: PathBuf,
        /// The codes.
        tensor: String,
        /// The name their scales should have.
        scales: String,
    },

    /// Codes in a folder that does not say how they are scaled.
    #[error(
        "{}: tensor `{tensor}` is F8_E4M3, but config.json does not say how its scales apply; it needs \
         quantization_config with weight_block_size",
        path.display()
    )]
    UnknownBlocks {
        /// The file.
        path: PathBuf,
        /// The codes.
        tensor: String,
    },

    /// Several tensors that are missing, unexpected or of the wrong shape.
    #[error("{} tensors do not fit the model that config.json describes:{}", problems.len(), listed(problems))]
    Tensors {
        /// What is wrong with each.
        problems: Vec<HfError>,
    },

    /// A value that is invalid here (for example NaN in a weight).
    #[error("{}: tensor `{tensor}`: row {row}, column {col}: {problem}", path.display())]
    BadElement {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row, from 0.
        row: usize,
        /// Column, from 0.
        col: usize,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// A model folder without an average of the weights.
    #[error(
        "{} holds no average of the weights: train with --set train.ema_decay=0.999 to keep one, or leave out --ema",
        path.display()
    )]
    NoAverage {
        /// The folder.
        path: PathBuf,
    },

    /// The device failed while tensors were copied.
    #[error("{tensor}: {source}")]
    Device {
        /// The tensor.
        tensor: String,
        /// The driver's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The tokenizer beside the model cannot be read or written.
    #[error(transparent)]
    Tokenizer(#[from] fathom_dataprep::Error),
}

impl HfError {
    /// Wraps a system error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HfError + use<> {
        let path = path.to_path_buf();
        move |source| HfError::Io { action, path, source }
    }

    /// Wraps a driver's error with the tensor it was copying.
    pub(crate) fn device<E: std::fmt::Display>(tensor: &str) -> impl FnOnce(E) -> HfError + use<E> {
        let tensor = tensor.to_string();
        move |error| HfError::Device { tensor, source: error.to_string().into() }
    }
}

/// One line for each problem, and the number of those past the most that are read.
fn listed(problems: &[HfError]) -> String {
    const MOST: usize = 200;
    let mut lines: String = problems.iter().take(MOST).map(|problem| format!("\n  {problem}")).collect();
    if problems.len() > MOST {
        lines += &format!("\n  and {} more", problems.len() - MOST);
    }
    lines
}

/// What to do about a system error, where there is something to say.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space on that disk",
        _ => "",
    }
}

/// What a `.safetensors` file gets wrong. Bytes are counted from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Not even a length.
    #[error("byte 0: {bytes} bytes are too few for the 8 bytes that state the header's length")]
    TooShort {
        /// Bytes there are.
        bytes: u64,
    },
    /// A header longer than any real one.
    #[error("byte 0: a header of {stated} bytes, more than the {limit} allowed")]
    HeaderTooLong {
        /// The stated length.
        stated: u64,
        /// The limit.
        limit: u64,
    },
    /// A header that ends after the file.
    #[error("byte 0: a header of {stated} bytes in a file of {bytes}")]
    HeaderPastEnd {
        /// The stated length.
        stated: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// A header that is not the JSON it should be.
    #[error("byte {byte}: header: {message}")]
    Header {
        /// Where.
        byte: u64,
        /// The reader's message.
        message: String,
    },
    /// A tensor of a type the format does not have.
    #[error("tensor `{tensor}`: unknown dtype `{dtype}`")]
    UnknownType {
        /// The tensor.
        tensor: String,
        /// The type.
        dtype: String,
    },
    /// A shape whose size is past what can be counted.
    #[error("tensor `{tensor}`: shape {shape:?} has more bytes than can be counted")]
    ShapeOverflow {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// Offsets that do not hold the shape.
    #[error(
        "tensor `{tensor}`: data_offsets [{begin}, {end}] hold another number of bytes than the {needed} its shape \
         needs"
    )]
    WrongSize {
        /// The tensor.
        tensor: String,
        /// Its stated begin, from the end of the header.
        begin: u64,
        /// Its stated end.
        end: u64,
        /// Bytes of its shape.
        needed: u64,
    },
    /// Bytes before a tensor that belong to none.
    #[error("byte {byte}: {hole} bytes before tensor `{tensor}` belong to no tensor")]
    Hole {
        /// Where they begin.
        byte: u64,
        /// How many.
        hole: u64,
        /// The tensor after them.
        tensor: String,
    },
    /// Two tensors on the same bytes.
    #[error("byte {byte}: tensor `{tensor}` begins before `{previous}` ends")]
    Overlap {
        /// Where it begins.
        byte: u64,
        /// The tensor.
        tensor: String,
        /// The one before it.
        previous: String,
    },
    /// A file that is shorter or longer than its header says.
    #[error("byte {end}: the tensors end here, the file at byte {bytes}")]
    WrongLength {
        /// Where the last tensor ends.
        end: u64,
        /// Bytes of the file.
        bytes: u64,
    },
}
