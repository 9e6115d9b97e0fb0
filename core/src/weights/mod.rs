//! The parameters of a model: where each lies, and their low-precision copies.

mod copies;
mod parameters;

pub use copies::Copies;
pub(crate) use parameters::layer_prefix;
pub use parameters::{Group, Layout, Lowest, Parameter, Parameters, Slot};
