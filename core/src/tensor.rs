//! Tensors on a device, and the matrix views that kernels take.

pub use crate::device::tensor::{Tensor, TensorOf, View, ViewMut};
pub use crate::device::view::{MAX_RANK, MatMut, MatRef, Shape};
