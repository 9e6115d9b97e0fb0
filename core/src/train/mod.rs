//! Training: one step of the V3 recipe, its schedules, and the plan of a run.

pub mod schedule;

#[cfg(feature = "alloc")]
mod ema;
#[cfg(feature = "alloc")]
mod health;
#[cfg(feature = "alloc")]
mod optimizer;
#[cfg(feature = "alloc")]
pub mod plan;
#[cfg(feature = "alloc")]
mod step;

#[cfg(feature = "alloc")]
pub use ema::Ema;
#[cfg(feature = "alloc")]
pub use health::ExpertLoad;
#[cfg(feature = "alloc")]
pub use optimizer::{Hyperparameters, Optimizer};
#[cfg(feature = "alloc")]
pub use step::{StepReport, Trainer};
