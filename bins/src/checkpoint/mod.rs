//! Checkpoints: a Hugging Face model folder with `trainer/` in it, committed in one step.
//!
//! ```text
//! step-00001000/
//!     config.json  generation_config.json  tokenizer.json  tokenizer_config.json
//!     model.safetensors            or model-00001-of-00002.safetensors ... and model.safetensors.index.json
//!     trainer/m.safetensors  trainer/v.safetensors  trainer/state.json
//!     manifest.json                sizes and SHA-256, written last
//! ```
//!
//! [`safetensors`] is the file format, [`commit`] how a folder comes to count, [`store`] the seam through which all
//! of it is written.

pub mod commit;
mod error;
mod model;
pub mod safetensors;
mod state;
pub mod store;

pub use commit::{Draft, Found, Manifest, clean, latest, list, survey};
pub use error::{CheckpointError, Damage};
pub use model::{CONFIG, ModelFiles, load_model, load_weights, model_folder, read_config, read_tokenizer, save_model};
pub use state::{State, load_trainer, save_trainer};
pub use store::{Disk, Store};
