//! Random numbers, drawn on the host and uploaded.

use alloc::vec::Vec;

use crate::device::call::{Cast, RandomNormal};
use crate::device::primitives::Primitives;
use crate::device::tensor::Tensor;
use crate::dtype::DType;
use crate::rng;

pub(in crate::device) fn random_normal<D: Primitives>(
    device: &D,
    call: RandomNormal<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let (rows, cols) = (call.y.rows(), call.y.cols());
    let mut drawn: Vec<f32> = alloc::vec![0.0; rows * cols];
    rng::fill_normal(call.seed, call.stream, 0, call.std, &mut drawn);
    let drawn = Tensor::<D>::from_slice(device, &[rows, cols], DType::F32, &drawn)?;
    device.cast(Cast::new(drawn.view(), call.y)?)
}
