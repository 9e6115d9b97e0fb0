//! Wrappers that are devices themselves: [`Trace`] times every kernel of the device inside, [`Fault`] makes a call fail.
//!
//! A wrapper's buffers are those of the device inside, so its views are that device's views and calls pass through as
//! they are, fused kernels included: nothing falls back to a default body that the device inside overrides.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::{Call, Cost, Device, Kernels, Primitives};
use crate::error::{ErrorKind, InvalidOp};
use crate::for_each_kernel;

/// The methods of [`Device`] but `alloc`, each handed on to the device in the field `inner`: for wrappers whose buffers and
/// errors are those of the device inside.
#[macro_export]
macro_rules! forward_device {
    () => {
        fn capabilities(&self) -> $crate::device::Capabilities {
            self.inner.capabilities()
        }

        fn upload(&self, buffer: &mut Self::Buffer, offset: usize, bytes: &[u8]) -> Result<(), Self::Error> {
            self.inner.upload(buffer, offset, bytes)
        }

        fn download(&self, buffer: &Self::Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), Self::Error> {
            self.inner.download(buffer, offset, bytes)
        }

        fn flush(&self) -> Result<(), Self::Error> {
            self.inner.flush()
        }

        fn memory(&self) -> $crate::device::MemoryUse {
            self.inner.memory()
        }
    };
}

/// A clock. Core has none of its own; on a system with one, a wrapper of `std::time::Instant` will do.
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
    clock: Rc<C>,
    times: Rc<RefCell<BTreeMap<&'static str, KernelTime>>>,
}

impl<D: Device, C: Clock> Trace<D, C> {
    /// Traces `inner` by `clock`.
    pub fn new(inner: D, clock: C) -> Self {
        Self { inner, clock: Rc::new(clock), times: Rc::default() }
    }

    /// The device inside.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Every kernel that was called, the one that took longest first.
    pub fn report(&self) -> Vec<KernelTime> {
        let mut report: Vec<_> = self.times.borrow().values().copied().collect();
        report.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        report
    }

    /// Forgets what was measured so far.
    pub fn reset(&self) {
        self.times.borrow_mut().clear();
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
        let mut times = self.times.borrow_mut();
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
        Self { inner: self.inner.clone(), clock: Rc::clone(&self.clock), times: Rc::clone(&self.times) }
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
                fn $p(&self, call: super::$P<'_, D::Buffer>) -> Result<(), D::Error> {
                    self.timed(super::$P::<D::Buffer>::NAME, call.cost(), || self.inner.$p(call))
                }
            )*
        }

        impl<D: Kernels, C: Clock> Kernels for Trace<D, C> {
            $(
                fn $f(&self, call: super::$F<'_, D::Buffer>) -> Result<(), D::Error> {
                    self.timed(super::$F::<D::Buffer>::NAME, call.cost(), || self.inner.$f(call))
                }
            )*
        }
    };
}
for_each_kernel!(trace);

/// A device of which one call fails: allocations and kernels are counted together, and number `n` returns an error
/// without reaching the device inside. Clones share one count.
///
/// A test that sweeps `n` from 0 to [`calls`](Self::calls) of an undisturbed run sees every failure a program can meet.
#[derive(Clone)]
pub struct Fault<D> {
    inner: D,
    n: u64,
    kind: ErrorKind,
    calls: Rc<Cell<u64>>,
}

impl<D: Device> Fault<D> {
    /// Lets call `n` of `inner`, counted from 0, fail with an error of `kind`.
    pub fn new(inner: D, n: u64, kind: ErrorKind) -> Self {
        Self { inner, n, kind, calls: Rc::default() }
    }

    /// Lets one of the first `calls` calls fail, which one depends on `seed` alone.
    pub fn seeded(inner: D, seed: u64, calls: u64, kind: ErrorKind) -> Self {
        // The finaliser of SplitMix64, so that neighbouring seeds fail at unrelated places.
        let x = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self::new(inner, (x ^ (x >> 31)) % calls.max(1), kind)
    }

    /// Allocations and kernels so far.
    pub fn calls(&self) -> u64 {
        self.calls.get()
    }

    fn pass(&self, name: &'static str) -> Result<(), D::Error> {
        let call = self.calls.replace(self.calls.get() + 1);
        if call == self.n {
            return Err(InvalidOp::new(name, "was made to fail", 0, 0).with_kind(self.kind).into());
        }
        Ok(())
    }
}

impl<D: Device> Device for Fault<D> {
    type Error = D::Error;
    type Buffer = D::Buffer;

    fn alloc(&self, bytes: usize) -> Result<D::Buffer, D::Error> {
        self.pass("alloc")?;
        self.inner.alloc(bytes)
    }

    crate::forward_device!();
}

macro_rules! fault {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        impl<D: Primitives> Primitives for Fault<D> {
            $(
                fn $p(&self, call: super::$P<'_, D::Buffer>) -> Result<(), D::Error> {
                    self.pass(super::$P::<D::Buffer>::NAME)?;
                    self.inner.$p(call)
                }
            )*
        }

        impl<D: Kernels> Kernels for Fault<D> {
            $(
                fn $f(&self, call: super::$F<'_, D::Buffer>) -> Result<(), D::Error> {
                    self.pass(super::$F::<D::Buffer>::NAME)?;
                    self.inner.$f(call)
                }
            )*
        }
    };
}
for_each_kernel!(fault);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Fill, Host, Swiglu};
    use crate::dtype::DType;
    use crate::error::DeviceError;
    use crate::tensor::Tensor;

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

    #[test]
    fn every_call_can_be_made_to_fail_and_only_that_one() {
        let calm = Fault::new(Host::new(), u64::MAX, ErrorKind::Other);
        work(&calm).expect("nothing fails");
        assert_eq!(calm.calls(), 5);
        for n in 0..calm.calls() {
            let device = Fault::new(Host::new(), n, ErrorKind::DeviceLost);
            assert_eq!(work(&device).err().map(|e| e.kind()), Some(ErrorKind::DeviceLost), "call {n}");
            assert_eq!(device.memory().in_use, 0, "what was allocated went back");
            work(&device).expect("only one call fails");
        }
        let seeded = Fault::seeded(Host::new(), 7, 5, ErrorKind::OutOfMemory);
        assert_eq!(work(&seeded).err().map(|e| e.kind()), Some(ErrorKind::OutOfMemory));
    }
}
