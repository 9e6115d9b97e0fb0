//! A device of which one call fails.

use alloc::sync::Arc;

use spin::Mutex;

use crate::device::Device;
use crate::device::call::{self, Call};
use crate::device::kernels::Kernels;
use crate::device::primitives::Primitives;
use crate::error::{ErrorKind, InvalidOp};
use crate::for_each_kernel;

/// A device of which one call fails: allocations and kernels are counted together, and number `n` returns an error
/// without reaching the device inside. Clones share one count.
///
/// A test that sweeps `n` from 0 to [`calls`](Self::calls) of an undisturbed run sees every failure a program can meet.
#[derive(Clone)]
pub struct Fault<D> {
    inner: D,
    n: u64,
    kind: ErrorKind,
    calls: Arc<Mutex<u64>>,
}

impl<D: Device> Fault<D> {
    /// Lets call `n` of `inner`, counted from 0, fail with an error of `kind`.
    pub fn new(inner: D, n: u64, kind: ErrorKind) -> Self {
        Self { inner, n, kind, calls: Arc::default() }
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
        *self.calls.lock()
    }

    fn pass(&self, name: &'static str) -> Result<(), D::Error> {
        let call = {
            let mut calls = self.calls.lock();
            *calls += 1;
            *calls - 1
        };
        if call == self.n {
            return Err(InvalidOp::plain(name, "was made to fail").with_kind(self.kind).into());
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
                fn $p(&self, call: call::$P<'_, D::Buffer>) -> Result<(), D::Error> {
                    self.pass(call::$P::<D::Buffer>::NAME)?;
                    self.inner.$p(call)
                }
            )*
        }

        impl<D: Kernels> Kernels for Fault<D> {
            $(
                fn $f(&self, call: call::$F<'_, D::Buffer>) -> Result<(), D::Error> {
                    self.pass(call::$F::<D::Buffer>::NAME)?;
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
    use crate::device::tensor::Tensor;
    use crate::device::{Fill, Host, Swiglu};
    use crate::dtype::DType;
    use crate::error::DeviceError;

    fn work<D: Kernels>(device: &D) -> Result<(), D::Error> {
        let x = Tensor::<D>::zeros(device, &[2, 6], DType::F32)?;
        let mut y = Tensor::<D>::empty(device, &[2, 3], DType::F32)?;
        device.fill(Fill::new(y.view_mut(), 1.0))?;
        device.swiglu(Swiglu::new(x.view(), None, y.view_mut())?)
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
