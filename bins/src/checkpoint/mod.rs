//! Checkpoints: a Hugging Face model folder with `trainer/` in it, committed in one step.
//!
//! ```text
//! step-00001000/
//!     config.json  generation_config.json  tokenizer.json  tokenizer_config.json
//!     model.safetensors            or model-00001-of-00002.safetensors ... and model.safetensors.index.json
//!     trainer/m.safetensors  trainer/v.safetensors  trainer/state.json
//!     trainer/ema.safetensors      the moving average of the weights, where one is kept
//!     trainer/weights.safetensors  the weights in f32, where the model's files are in another format
//!     manifest.json                sizes and SHA-256, written last
//! ```
//!
//! [`safetensors`] is the file format, [`format`](Format) what weights are stored in, [`commit`] how a folder comes to
//! count, [`store`] the seam through which all of it is written.

pub mod commit;
mod error;
mod files;
mod format;
mod model;
pub mod safetensors;
pub(crate) mod save;
mod state;
pub mod store;

pub use commit::{Draft, Found, Manifest, clean, latest, list, survey};
pub use error::{CheckpointError, Damage};
pub use files::{CONFIG, FoundTensor, ModelFiles};
pub use format::{DEEPSEEK, Deviation, Encoder, Format, Stored, is_quantized};
pub use model::{load_average_model, load_model, load_weights, model_folder, read_config, read_tokenizer};
pub use save::{save_model, specs};
pub use state::{State, load_average, load_trainer, save_trainer};
pub use store::{Disk, Store};
