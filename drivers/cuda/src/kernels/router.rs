//! The choice of experts, its gradient, and the balance loss.

use fathom_core::device::{Balance, Call, Route, RouteGrad};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_route(&self, _: Route<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Route::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_route_grad(&self, _: RouteGrad<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(RouteGrad::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_balance(&self, _: Balance<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Balance::<Buffer>::NAME, "is not there yet"))
    }
}
