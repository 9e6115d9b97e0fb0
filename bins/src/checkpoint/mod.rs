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
//! [`commit`] is how a folder comes to count, [`store`] the seam through which all of it is written. The model's own
//! files are [`hf`](crate::hf)'s.

pub mod commit;
mod error;
mod state;
pub mod store;

pub use commit::{Draft, Found, Keep, Located, Manifest, clean, latest, list, locate, survey};
pub use error::CheckpointError;
pub use state::{Best, State, load_average, load_trainer, save_trainer};
pub use store::{Disk, Store};
