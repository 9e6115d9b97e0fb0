//! Training: one step of the V3 recipe, its schedules, and the plan of a run.

pub mod schedule;

#[cfg(feature = "alloc")]
mod ema;
#[cfg(feature = "alloc")]
mod gate;
#[cfg(feature = "alloc")]
mod gathered;
#[cfg(feature = "alloc")]
mod health;
#[cfg(feature = "alloc")]
mod norm;
#[cfg(feature = "alloc")]
mod optimizer;
mod parallel;
#[cfg(feature = "alloc")]
pub mod plan;
#[cfg(feature = "alloc")]
mod shard;
#[cfg(feature = "alloc")]
mod step;
#[cfg(feature = "alloc")]
mod sum;

#[cfg(feature = "alloc")]
pub use ema::{Ema, EmaMemory};
#[cfg(feature = "alloc")]
pub use gate::{Limits, Withheld};
#[cfg(feature = "alloc")]
pub use health::ExpertLoad;
#[cfg(feature = "alloc")]
pub use optimizer::{Hyperparameters, Optimizer};
pub use parallel::{Parallel, Sum, Zero};
#[cfg(feature = "alloc")]
pub use shard::Shards;
#[cfg(feature = "alloc")]
pub use step::{StepReport, Trainer};
