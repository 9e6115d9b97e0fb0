//! The parameters of a model: where each lies, and what products read.

mod copies;
mod parameters;

pub use copies::{Copies, Rows, Storage};
pub(crate) use parameters::layer_prefix;
pub use parameters::{Group, Layout, Lowest, Parameter, Parameters, Slot};
