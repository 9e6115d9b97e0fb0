//! The layers of the model.

pub mod router;
