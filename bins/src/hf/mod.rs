//! Hugging Face model folders: names, file format, storage formats, reading and writing.
//!
//! [`names`] has the names of files and tensors, [`generation`] the defaults for generation, [`safetensors`] the file
//! format, [`Format`] what weights are stored in, [`read`] the way from a folder to a model on a device, [`load`] that
//! to a model for inference, and [`mod@write`] the way back.

mod error;
mod experts;
mod finite;
mod folder;
mod format;
pub mod generation;
mod index;
pub mod load;
pub mod names;
pub mod read;
pub mod safetensors;
mod template;
pub mod write;

pub(crate) use error::remedy;
pub use error::{Damage, HfError};
pub(crate) use folder::no_model;
pub use folder::{read_config, read_tokenizer};
pub use format::{DEEPSEEK, Deviation, Encoder, Format, Stored, is_quantized};
pub use generation::{GenerationConfig, read_end_tokens};
pub use load::{Inference, Weights, load_for_inference};
pub use names::CONFIG;
pub use read::{FoundTensor, ModelFiles, load_average_model, load_model, load_weights};
pub use template::{Template, read_template};
pub use write::{Folder, save_model, specs};
