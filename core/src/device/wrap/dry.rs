//! A device that counts and computes nothing.
//!
//! On [`Dry`] the real training step of a model of any size runs in seconds on any machine: buffers hold only their
//! size, and a kernel adds the floor of its cost to a tally. What is left is what a plan needs: operations, bytes
//! moved, and the most memory that was in use at once.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use crate::device::call::{self, Call, Cost};
use crate::device::host::{HostError, inside};
use crate::device::kernels::Kernels;
use crate::device::pool::Pool;
use crate::device::primitives::Primitives;
use crate::device::{Capabilities, Device, MemoryUse};
use crate::error::ErrorKind;
use crate::for_each_kernel;

/// A device that counts and computes nothing. Clones share their counters.
#[derive(Clone)]
pub struct Dry {
    capabilities: Capabilities,
    state: Arc<Mutex<State>>,
}

struct State {
    pool: Pool<()>,
    kernels: BTreeMap<&'static str, KernelCount>,
    uploaded: u64,
    downloaded: u64,
}

/// A buffer of a [`Dry`] device: its size, and the counters it gives that back to.
pub struct DryBuffer {
    bytes: usize,
    /// Bytes of the pool's block.
    size: usize,
    state: Arc<Mutex<State>>,
}

impl Drop for DryBuffer {
    fn drop(&mut self) {
        self.state.lock().pool.give(self.size, ());
    }
}

/// How often a kernel was called, and what its calls cost at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelCount {
    /// The kernel's method name.
    pub name: &'static str,
    /// Calls.
    pub calls: u64,
    /// The floor of their cost, summed.
    pub cost: Cost,
}

/// What a [`Dry`] device has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Every kernel that was called, by name.
    pub kernels: Vec<KernelCount>,
    /// Bytes sent to the device.
    pub uploaded: u64,
    /// Bytes read back from it.
    pub downloaded: u64,
}

impl Tally {
    /// What was counted for a kernel, if it was called.
    pub fn kernel(&self, name: &str) -> Option<&KernelCount> {
        self.kernels.iter().find(|k| k.name == name)
    }

    /// Calls of all kernels.
    pub fn calls(&self) -> u64 {
        self.kernels.iter().map(|k| k.calls).sum()
    }

    /// The floor of the cost of all kernels.
    pub fn cost(&self) -> Cost {
        let mut total = Cost::default();
        for k in &self.kernels {
            total.flops = total.flops.saturating_add(k.cost.flops);
            total.bytes = total.bytes.saturating_add(k.cost.bytes);
        }
        total
    }
}

impl Dry {
    /// A device without end to its memory.
    pub fn new() -> Self {
        Self::with(Capabilities::new("dry"))
    }

    /// Creates a dry device that reports `capabilities`. An allocation past `capabilities.memory` fails.
    pub fn with(capabilities: Capabilities) -> Self {
        let state = State { pool: Pool::new(), kernels: BTreeMap::new(), uploaded: 0, downloaded: 0 };
        Self { capabilities, state: Arc::new(Mutex::new(state)) }
    }

    /// What was counted since the start, or since the last [`reset`](Self::reset).
    pub fn tally(&self) -> Tally {
        let state = self.state.lock();
        let kernels = state.kernels.values().copied().collect();
        Tally { kernels, uploaded: state.uploaded, downloaded: state.downloaded }
    }

    /// Clears the tally, and resets the memory peak to the bytes in use now.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        state.kernels.clear();
        (state.uploaded, state.downloaded) = (0, 0);
        state.pool.reset_peak();
    }

    fn count<C: Call>(&self, call: &C) {
        let cost = call.cost();
        let mut state = self.state.lock();
        let none = KernelCount { name: C::NAME, calls: 0, cost: Cost::default() };
        let count = state.kernels.entry(C::NAME).or_insert(none);
        count.calls += 1;
        count.cost.flops = count.cost.flops.saturating_add(cost.flops);
        count.cost.bytes = count.cost.bytes.saturating_add(cost.bytes);
    }
}

impl Default for Dry {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for Dry {
    type Error = HostError;
    type Buffer = DryBuffer;

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn alloc(&self, bytes: usize) -> Result<DryBuffer, HostError> {
        let mut state = self.state.lock();
        let limit = self.capabilities.memory.unwrap_or(u64::MAX);
        let in_use = state.pool.usage().in_use;
        if in_use.checked_add(bytes as u64).is_none_or(|n| n > limit) {
            let message =
                alloc::format!("alloc: {bytes} bytes more than the {in_use} in use pass the limit of {limit}");
            return Err(HostError::new(ErrorKind::OutOfMemory, message));
        }
        let size = state.pool.reuse(bytes).map(|(size, ())| size).unwrap_or_else(|| {
            state.pool.fresh(bytes);
            bytes
        });
        Ok(DryBuffer { bytes, size, state: Arc::clone(&self.state) })
    }

    fn upload(&self, buffer: &mut DryBuffer, offset: usize, bytes: &[u8]) -> Result<(), HostError> {
        inside("upload", offset, bytes.len(), buffer.bytes)?;
        self.state.lock().uploaded += bytes.len() as u64;
        Ok(())
    }

    /// Gives zeros.
    fn download(&self, buffer: &DryBuffer, offset: usize, bytes: &mut [u8]) -> Result<(), HostError> {
        inside("download", offset, bytes.len(), buffer.bytes)?;
        self.state.lock().downloaded += bytes.len() as u64;
        bytes.fill(0);
        Ok(())
    }

    fn flush(&self) -> Result<(), HostError> {
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        self.state.lock().pool.usage()
    }
}

macro_rules! count {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        impl Primitives for Dry {
            $(
                fn $p(&self, call: call::$P<'_, DryBuffer>) -> Result<(), HostError> {
                    self.count(&call);
                    Ok(())
                }
            )*
        }

        impl Kernels for Dry {
            $(
                fn $f(&self, call: call::$F<'_, DryBuffer>) -> Result<(), HostError> {
                    self.count(&call);
                    Ok(())
                }
            )*
        }
    };
}
for_each_kernel!(count);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tensor::Tensor;
    use crate::device::{Form, Gemm};
    use crate::dtype::DType;
    use crate::error::DeviceError;

    #[test]
    fn a_product_too_large_for_any_machine_is_counted() {
        let device = Dry::new();
        let n = 1 << 19;
        let zeros = || Tensor::<Dry>::empty(&device, &[n, n], DType::F32).expect("no memory is taken");
        let (a, b, mut c) = (zeros(), zeros(), zeros());
        device.gemm(Gemm::new(Form::Nt, a.view(), b.view(), c.view_mut()).expect("fits")).expect("counts");
        let tally = device.tally();
        assert_eq!(tally.kernel("gemm").map(|k| k.calls), Some(1));
        assert_eq!(tally.cost(), Cost { flops: 1 << 58, bytes: 3 << 40 });
        assert_eq!(device.memory().peak, 3 << 40);
        drop((a, b, c));
        device.reset();
        assert_eq!((device.memory().in_use, device.memory().peak, device.tally()), (0, 0, Tally::default()));
    }

    #[test]
    fn memory_ends_where_the_capabilities_say() {
        let device = Dry::with(Capabilities { memory: Some(100), ..Capabilities::new("small") });
        let _a = device.alloc(60).expect("fits");
        assert_eq!(device.alloc(41).err().map(|e| e.kind()), Some(ErrorKind::OutOfMemory));
        drop(device.alloc(40).expect("fits"));
        drop(device.alloc(40).expect("fits"));
        assert_eq!(device.memory().system_allocations, 2);
    }

    #[test]
    fn downloads_are_zeros_of_the_right_length() {
        let device = Dry::new();
        let t = Tensor::<Dry>::empty(&device, &[3], DType::F32).expect("counts");
        assert_eq!(t.download::<_, f32>(&device).expect("zeros"), [0.0; 3]);
        assert!(device.download(t.view().buffer(), 8, &mut [0; 5]).is_err());
    }
}
