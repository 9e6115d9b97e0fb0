//! Element by element: fill, cast, unary and binary functions, random numbers.

use alloc::vec::Vec;

use super::matrix::{read, write};
use super::{Host, HostBuffer, Result};
use crate::device::call::{Binary, BinaryOp, Cast, Fill, RandomNormal, Unary, UnaryOp};
use crate::dtype::DType;
use crate::math;

impl Host {
    pub(super) fn fill(&self, mut call: Fill<'_, HostBuffer>) -> Result {
        let values = alloc::vec![call.value; call.y.elements()];
        write(&mut call.y, &values);
        Ok(())
    }

    pub(super) fn cast(&self, mut call: Cast<'_, HostBuffer>) -> Result {
        write(&mut call.y, &read(&call.x).data);
        Ok(())
    }

    pub(super) fn unary(&self, mut call: Unary<'_, HostBuffer>) -> Result {
        let exact = call.y.dtype() == DType::F64;
        let mut y = read(&call.y.as_ref());
        for v in &mut y.data {
            *v = match call.f {
                UnaryOp::Affine(a, b) => a * *v + b,
                UnaryOp::Sigmoid if exact => 1.0 / (1.0 + libm::exp(-*v)),
                UnaryOp::Sigmoid => f64::from(math::sigmoid(*v as f32)),
                UnaryOp::Exp if exact => libm::exp(*v),
                UnaryOp::Exp => f64::from(math::exp(*v as f32)),
                UnaryOp::Ln => libm::log(*v),
                UnaryOp::Square => *v * *v,
                UnaryOp::Sqrt => libm::sqrt(*v),
                UnaryOp::Recip => 1.0 / *v,
                UnaryOp::Sign => sign(*v),
                UnaryOp::ClipFactor(max) => clip_factor(*v, max),
            };
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    pub(super) fn binary(&self, mut call: Binary<'_, HostBuffer>) -> Result {
        let (x, mut y) = (read(&call.x), read(&call.y.as_ref()));
        for r in 0..y.rows {
            for c in 0..y.cols {
                let other = x[(r.min(x.rows - 1), c.min(x.cols - 1))];
                let v = &mut y[(r, c)];
                match call.f {
                    BinaryOp::Add => *v += other,
                    BinaryOp::Sub => *v -= other,
                    BinaryOp::Mul => *v *= other,
                    BinaryOp::Div => *v /= other,
                }
            }
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    pub(super) fn random_normal(&self, mut call: RandomNormal<'_, HostBuffer>) -> Result {
        let mut drawn = alloc::vec![0.0f32; call.y.elements()];
        crate::rng::fill_normal(call.seed, call.stream, 0, call.std, &mut drawn);
        let y: Vec<f64> = drawn.into_iter().map(f64::from).collect();
        write(&mut call.y, &y);
        Ok(())
    }
}

/// −1, 0 or 1; 0 for NaN.
pub(super) fn sign(x: f64) -> f64 {
    f64::from(i8::from(x > 0.0) - i8::from(x < 0.0))
}

fn clip_factor(squared_norm: f64, max: f64) -> f64 {
    if squared_norm.is_finite() { (max / (libm::sqrt(squared_norm) + 1e-6)).min(1.0) } else { f64::NAN }
}
