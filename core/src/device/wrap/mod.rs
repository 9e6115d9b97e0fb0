//! Devices that stand in for others: [`Dry`] only counts, [`Trace`] times every kernel of the device inside, [`Fault`]
//! makes a call fail or corrupts its result.
//!
//! A wrapper's buffers are those of the device inside, so its views are that device's views and calls pass through as
//! they are, fused kernels included: nothing falls back to a default body that the device inside overrides.

mod dry;
mod fault;
mod trace;

pub use dry::{Dry, DryBuffer, KernelCount, Tally};
pub use fault::{Corrupted, Corruption, Fault};
pub use trace::{Clock, KernelTime, Trace};

/// The methods of [`Device`](crate::device::Device) but `alloc`, each handed on to the device in the field `inner`: for
/// wrappers whose buffers and errors are those of the device inside.
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
