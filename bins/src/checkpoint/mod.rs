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
//! [`commit`] writes a checkpoint and gives it its name in one step, through the file operations of
//! [`durable`](fathom_dataprep::durable);
//! [`locate`] finds checkpoints, [`Manifest`] checks them, [`State`] is what training needs beside the model. The
//! model's own files are those of [`hf`](crate::hf).

pub mod commit;
mod error;
mod identity;
mod load;
mod locate;
mod manifest;
mod snapshot;
mod state;
mod together;

pub use commit::{Draft, Keep, clean};
pub use error::CheckpointError;
pub use fathom_dataprep::durable::DISK;
pub use identity::identity;
pub use load::{load_average, load_trainer};
pub use locate::{Found, Located, latest, list, locate, survey};
pub(crate) use manifest::hash_file;
pub use manifest::{FileEntry, MANIFEST, Manifest};
pub use snapshot::Snapshot;
pub use state::{Best, BestCheckpoint, SpikeWindow, State, best};
pub use together::{Files, bytes, save};
