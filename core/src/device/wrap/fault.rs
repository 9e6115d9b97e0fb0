//! A device of which one call fails, or leaves NaN or infinity in what it computed.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use spin::Mutex;

use crate::device::Device;
use crate::device::call::{self, Written};
use crate::device::kernels::Kernels;
use crate::device::primitives::Primitives;
use crate::device::view::MatMut;
use crate::dtype::DType;
use crate::error::{ErrorKind, InvalidOp};
use crate::for_each_kernel;

/// A device of which one call fails: allocations and kernels are counted together, and number `n` returns an error
/// without reaching the device inside. Clones share one count.
///
/// A test that sweeps `n` from 0 to [`calls`](Self::calls) of an undisturbed run sees every failure a program can meet.
/// [`corrupt`](Self::corrupt) is for the failures that no call reports.
#[derive(Clone)]
pub struct Fault<D> {
    inner: D,
    n: u64,
    kind: ErrorKind,
    shared: Arc<Mutex<Shared>>,
}

/// What the clones of a device share.
#[derive(Default)]
struct Shared {
    calls: u64,
    /// Calls of each kernel since the last [`Fault::corrupt`].
    of_kernel: BTreeMap<&'static str, u64>,
    pending: Option<Corruption>,
    done: Option<Corrupted>,
}

/// One wrong number in the result of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Corruption {
    /// The kernel's method name, such as `gemm`.
    pub kernel: &'static str,
    /// Which of its calls, counted from 0.
    pub call: u64,
    /// Which of the call's floating-point results that have elements, in the order of its fields; beyond the last it
    /// begins again.
    pub result: u64,
    /// Which element of it; beyond the last it begins again.
    pub element: u64,
    /// What the element becomes: NaN or infinite.
    pub value: f64,
}

/// What a [`Corruption`] changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupted {
    /// Which of the call's floating-point results.
    pub result: u64,
    /// Its element type.
    pub dtype: DType,
    /// The row of the element.
    pub row: usize,
    /// The column of the element.
    pub col: usize,
}

impl<D: Device> Fault<D> {
    /// Lets call `n` of `inner`, counted from 0, fail with an error of `kind`.
    pub fn new(inner: D, n: u64, kind: ErrorKind) -> Self {
        Self { inner, n, kind, shared: Arc::default() }
    }

    /// Lets one of the first `calls` calls fail, which one depends on `seed` alone.
    pub fn seeded(inner: D, seed: u64, calls: u64, kind: ErrorKind) -> Self {
        // The finaliser of SplitMix64, so that neighbouring seeds fail at unrelated places.
        let x = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self::new(inner, (x ^ (x >> 31)) % calls.max(1), kind)
    }

    /// Lets no call fail until one is to be [corrupted](Self::corrupt).
    pub fn calm(inner: D) -> Self {
        Self::new(inner, u64::MAX, ErrorKind::Other)
    }

    /// Allocations and kernels so far.
    pub fn calls(&self) -> u64 {
        self.shared.lock().calls
    }

    /// Corrupts a result once: calls are counted from now on.
    pub fn corrupt(&self, what: Corruption) {
        let mut shared = self.shared.lock();
        shared.of_kernel.clear();
        (shared.pending, shared.done) = (Some(what), None);
    }

    /// What the last [`corrupt`](Self::corrupt) changed; none where the call has not come, or has no floating-point
    /// result.
    pub fn corrupted(&self) -> Option<Corrupted> {
        self.shared.lock().done
    }

    /// Calls of each kernel since the last [`corrupt`](Self::corrupt).
    pub fn kernel_calls(&self) -> BTreeMap<&'static str, u64> {
        self.shared.lock().of_kernel.clone()
    }

    fn pass(&self, name: &'static str) -> Result<(), D::Error> {
        let call = {
            let mut shared = self.shared.lock();
            shared.calls += 1;
            shared.calls - 1
        };
        if call == self.n {
            return Err(InvalidOp::plain(name, "was made to fail").with_kind(self.kind).into());
        }
        Ok(())
    }

    /// Counts a kernel's call. Returns what its result is to be corrupted with.
    fn next(&self, name: &'static str) -> Option<Corruption> {
        let mut shared = self.shared.lock();
        let count = shared.of_kernel.entry(name).or_default();
        *count += 1;
        let call = *count - 1;
        shared.pending.take_if(|what| what.kernel == name && what.call == call)
    }

    /// Replaces an element of the results of `call`.
    fn spoil(&self, call: &mut impl Written<D::Buffer>, what: Corruption) -> Result<(), D::Error> {
        let mut results = 0;
        call.written(&mut |matrix| results += u64::from(floats(&matrix) > 0));
        if results == 0 {
            return Ok(());
        }
        let (mut number, mut failed, mut done) = (0, None, None);
        call.written(&mut |mut matrix| {
            let elements = floats(&matrix);
            if elements == 0 {
                return;
            }
            number += 1;
            if number - 1 != what.result % results {
                return;
            }
            let (at, cols, dtype) = ((what.element % elements) as usize, matrix.cols(), matrix.dtype());
            let (row, col) = (at / cols, at % cols);
            let place = (matrix.offset() + row * matrix.stride() + col) * dtype.size();
            failed = self.inner.upload(matrix.buffer_mut(), place, &encode(dtype, what.value)[..dtype.size()]).err();
            done = Some(Corrupted { result: what.result % results, dtype, row, col });
        });
        self.shared.lock().done = done;
        failed.map_or(Ok(()), Err)
    }
}

/// Elements of a floating-point matrix; 0 for indices and codes.
fn floats<B>(matrix: &MatMut<'_, B>) -> u64 {
    if matrix.dtype().is_float() { matrix.elements() as u64 } else { 0 }
}

/// `value` in an element of type `dtype`, little-endian, in the first bytes.
fn encode(dtype: DType, value: f64) -> [u8; 8] {
    let mut bytes = [0; 8];
    match dtype {
        DType::F64 => bytes = value.to_le_bytes(),
        DType::BF16 => bytes[..2].copy_from_slice(&half::bf16::from_f32(value as f32).to_le_bytes()),
        DType::F16 => bytes[..2].copy_from_slice(&half::f16::from_f32(value as f32).to_le_bytes()),
        _ => bytes[..4].copy_from_slice(&(value as f32).to_le_bytes()),
    }
    bytes
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
                fn $p(&self, mut call: call::$P<'_, D::Buffer>) -> Result<(), D::Error> {
                    const NAME: &str = stringify!($p);
                    self.pass(NAME)?;
                    match self.next(NAME) {
                        None => self.inner.$p(call),
                        Some(what) => {
                            self.inner.$p(call.lend())?;
                            self.spoil(&mut call, what)
                        }
                    }
                }
            )*
        }

        impl<D: Kernels> Kernels for Fault<D> {
            $(
                fn $f(&self, mut call: call::$F<'_, D::Buffer>) -> Result<(), D::Error> {
                    const NAME: &str = stringify!($f);
                    self.pass(NAME)?;
                    match self.next(NAME) {
                        None => self.inner.$f(call),
                        Some(what) => {
                            self.inner.$f(call.lend())?;
                            self.spoil(&mut call, what)
                        }
                    }
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
