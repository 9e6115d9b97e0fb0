//! A device that times every kernel of the device inside.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use crate::device::Device;
use crate::device::call::{self, Call, Cost};
use crate::device::kernels::Kernels;
use crate::device::primitives::Primitives;
use crate::for_each_kernel;

/// A clock, which the core itself does not have; on a system with one, a wrapper of `std::time::Instant` will do.
pub trait Clock {
    /// Seconds since some fixed moment; never falls.
    fn seconds(&self) -> f64;
}

/// What a [`Trace`] knows of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelTime {
    /// The kernel's method name.
    pub name: &'static str,
    /// Calls.
    pub calls: u64,
    /// Seconds they took, from an idle device to an idle device.
    pub seconds: f64,
    /// Floating-point operations they needed at least.
    pub flops: u64,
    /// Bytes they moved at least.
    pub bytes: u64,
}

/// A device that times every kernel of the device inside. Clones share one report.
///
/// The device is flushed before and after every kernel, so that each is charged its own time; a device that overlaps
/// kernels is therefore slower under a trace.
pub struct Trace<D, C> {
    inner: D,
    clock: Arc<C>,
    times: Arc<Mutex<BTreeMap<&'static str, KernelTime>>>,
}

impl<D: Device, C: Clock> Trace<D, C> {
    /// Traces `inner` by `clock`.
    pub fn new(inner: D, clock: C) -> Self {
        Self { inner, clock: Arc::new(clock), times: Arc::default() }
    }

    /// The device inside.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Every kernel that was called, the one that took longest first.
    pub fn report(&self) -> Vec<KernelTime> {
        let mut report: Vec<_> = self.times.lock().values().copied().collect();
        report.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        report
    }

    /// Forgets what was measured so far.
    pub fn reset(&self) {
        self.times.lock().clear();
    }

    fn timed(
        &self,
        name: &'static str,
        cost: Cost,
        run: impl FnOnce() -> Result<(), D::Error>,
    ) -> Result<(), D::Error> {
        self.inner.flush()?;
        let start = self.clock.seconds();
        run()?;
        self.inner.flush()?;
        let seconds = self.clock.seconds() - start;
        let mut times = self.times.lock();
        let time = times.entry(name).or_insert(KernelTime { name, calls: 0, seconds: 0.0, flops: 0, bytes: 0 });
        time.calls += 1;
        time.seconds += seconds;
        time.flops = time.flops.saturating_add(cost.flops);
        time.bytes = time.bytes.saturating_add(cost.bytes);
        Ok(())
    }
}

impl<D: Clone, C> Clone for Trace<D, C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), clock: Arc::clone(&self.clock), times: Arc::clone(&self.times) }
    }
}

impl<D: Device, C: Clock> Device for Trace<D, C> {
    type Error = D::Error;
    type Buffer = D::Buffer;

    fn alloc(&self, bytes: usize) -> Result<D::Buffer, D::Error> {
        self.inner.alloc(bytes)
    }

    crate::forward_device!();
}

macro_rules! trace {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        impl<D: Primitives, C: Clock> Primitives for Trace<D, C> {
            $(
                fn $p(&self, call: call::$P<'_, D::Buffer>) -> Result<(), D::Error> {
                    self.timed(call::$P::<D::Buffer>::NAME, call.cost(), || self.inner.$p(call))
                }
            )*
        }

        impl<D: Kernels, C: Clock> Kernels for Trace<D, C> {
            $(
                fn $f(&self, call: call::$F<'_, D::Buffer>) -> Result<(), D::Error> {
                    self.timed(call::$F::<D::Buffer>::NAME, call.cost(), || self.inner.$f(call))
                }
            )*
        }
    };
}
for_each_kernel!(trace);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tensor::Tensor;
    use crate::device::{Fill, Host, Swiglu};
    use crate::dtype::DType;
    use core::cell::Cell;

    /// One second a look.
    struct Ticks(Cell<f64>);

    impl Clock for Ticks {
        fn seconds(&self) -> f64 {
            self.0.set(self.0.get() + 1.0);
            self.0.get()
        }
    }

    fn work<D: Kernels>(device: &D) -> Result<(), D::Error> {
        let x = Tensor::<D>::zeros(device, &[2, 6], DType::F32)?;
        let mut y = Tensor::<D>::empty(device, &[2, 3], DType::F32)?;
        device.fill(Fill::new(y.view_mut(), 1.0))?;
        device.swiglu(Swiglu::new(x.view(), None, y.view_mut())?)
    }

    #[test]
    fn a_trace_times_the_kernels_of_the_device_inside() {
        let device = Trace::new(Host::new(), Ticks(Cell::new(0.0)));
        work(&device).expect("the host has these kernels");
        let report = device.report();
        let calls: Vec<_> = report.iter().map(|t| (t.name, t.calls, t.seconds)).collect();
        assert_eq!(calls, [("fill", 2, 2.0), ("swiglu", 1, 1.0)]);
        assert!(report[1].flops > 0 && report[0].bytes == 4 * 18);
        device.reset();
        assert!(device.report().is_empty());
    }
}
