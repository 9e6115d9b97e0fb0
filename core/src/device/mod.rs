//! The device ladder: memory, then primitive kernels, then fused ones.
//!
//! [`Device`] is memory and order, no maths. [`Primitives`] are the kernels a driver must write: fourteen, each small.
//! [`Kernels`] are the fused ones; each has a default body written in primitives, so `impl Kernels for MyDevice {}`
//! trains a model, and a driver then overrides, one kernel at a time, whatever is slow.
//!
//! A kernel takes one argument: a [`Call`], a struct that can only be made by its checked constructor. What
//! reaches a driver therefore has fitting shapes and types and lies inside its buffers; what it cannot promise is the
//! *contents* of index tensors, which are device data (see [`Primitives`]).

mod call;
pub mod default;
mod host;
mod kernels;
mod pool;
mod primitives;
pub(crate) mod tensor;
pub(crate) mod view;
mod wrap;

pub use call::*;
pub use host::{Host, HostBuffer, HostError};
pub use kernels::Kernels;
pub use pool::Pool;
pub use primitives::Primitives;
pub use wrap::{Clock, Corrupted, Corruption, Dry, DryBuffer, Fault, KernelCount, KernelTime, Tally, Trace};

use crate::error::DeviceError;

/// What a device can do, so that core can skip what it need not do itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// A short name: `host`, `cpu`, `cuda:0`.
    pub name: Name,
    /// Bytes of memory the device has, if it knows.
    pub memory: Option<u64>,
    /// The same call on the same data gives the same bits every time, whatever the number of threads.
    pub deterministic: bool,
    /// Computes in [`DType::F64`](crate::DType::F64).
    pub f64: bool,
    /// Elements of a piece, where work is cut into pieces to save memory: as few as keep the device busy. On a CPU that
    /// is what its caches hold, on a GPU far more.
    pub chunk: usize,
    /// Calls whose shapes were seen before begin sooner, so that callers do well to pad what grows by one.
    pub replays: bool,
}

impl Capabilities {
    /// Capabilities of a deterministic device that computes in f32, does not know its memory, and has the caches of a
    /// processor.
    pub const fn new(name: &str) -> Self {
        Self { name: Name::new(name), memory: None, deterministic: true, f64: false, chunk: 2 << 20, replays: false }
    }

    /// How many rows to compute in place of `rows`, where the results of more can be left out: a power of two up to 16,
    /// then a multiple of 16. As many, on a device that does not [replay](Self::replays).
    pub const fn padded(&self, rows: usize) -> usize {
        match rows {
            0 => 0,
            _ if !self.replays => rows,
            1..=16 => rows.next_power_of_two(),
            _ => rows.next_multiple_of(16),
        }
    }
}

/// A device's name, which fits into a few bytes: names are made at run time (`cuda:12`) and copied with capabilities.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; Self::MOST],
    length: u8,
}

impl Name {
    /// The most bytes of a name.
    pub const MOST: usize = 23;

    /// The name `name`, cut off after [`MOST`](Self::MOST) bytes.
    pub const fn new(name: &str) -> Self {
        let (mut bytes, name) = ([0; Self::MOST], name.as_bytes());
        let mut length = if name.len() < Self::MOST { name.len() } else { Self::MOST };
        // A character is cut off whole: bytes 10xxxxxx go on with one.
        while length < name.len() && length > 0 && name[length] & 0xc0 == 0x80 {
            length -= 1;
        }
        let mut i = 0;
        while i < length {
            bytes[i] = name[i];
            i += 1;
        }
        Self { bytes, length: length as u8 }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl core::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self)
    }
}

impl core::fmt::Debug for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What a device's pool holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes in buffers that are alive now.
    pub in_use: u64,
    /// The most bytes that were alive at once.
    pub peak: u64,
    /// Bytes taken from the system so far (in use, or kept for reuse).
    pub reserved: u64,
    /// How often the pool had to ask the system for memory. Constant over steady-state training steps.
    pub system_allocations: u64,
}

/// Memory and order. No maths.
///
/// Calls may return before their work is done, and behave as if they ran one after the other. Late errors surface at
/// [`flush`](Device::flush) or [`download`](Device::download).
///
/// For implementers: `alloc` hands out of a pool. Freed buffers go back to it and are reused for requests of the same
/// size, so a step that repeats the sizes of the last one asks the system for nothing.
pub trait Device: Clone {
    /// The driver's own error.
    type Error: DeviceError;
    /// Owned bytes. Dropping it gives them back to the device's pool.
    type Buffer;

    /// What the device can do.
    fn capabilities(&self) -> Capabilities;

    /// A buffer of `bytes` bytes with undefined contents. Zero bytes are allowed.
    fn alloc(&self, bytes: usize) -> Result<Self::Buffer, Self::Error>;

    /// Copies `bytes` into `buffer` from byte `offset` on. Fails with a shape error where they do not fit.
    fn upload(&self, buffer: &mut Self::Buffer, offset: usize, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Copies out of `buffer` from byte `offset` on, after all earlier work on it.
    fn download(&self, buffer: &Self::Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), Self::Error>;

    /// The bytes of a buffer, where the host can read them in place. None by default: they are copied to and fro.
    fn host_bytes<'a>(&self, _buffer: &'a Self::Buffer) -> Option<&'a [u8]> {
        None
    }

    /// The bytes of a buffer, where the host can write them in place. None by default.
    fn host_bytes_mut<'a>(&self, _buffer: &'a mut Self::Buffer) -> Option<&'a mut [u8]> {
        None
    }

    /// Waits for all work and reports late errors.
    fn flush(&self) -> Result<(), Self::Error>;

    /// What the pool holds. Zeros by default, for a driver that does not count.
    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, Name};

    #[test]
    fn rows_are_padded_to_few_numbers() {
        let plain = Capabilities::new("plain");
        let replays = Capabilities { replays: true, ..plain };
        assert_eq!([0, 1, 3, 16, 17, 33].map(|n| replays.padded(n)), [0, 1, 4, 16, 32, 48]);
        assert_eq!([0, 1, 3, 16, 17, 33].map(|n| plain.padded(n)), [0, 1, 3, 16, 17, 33]);
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        assert_eq!((Name::new("cuda:12").as_str(), Name::new("").as_str()), ("cuda:12", ""));
        let long = "an accelerator of ÄÖÜ ß and more";
        assert_eq!(Name::new(long).as_str(), "an accelerator of ÄÖ");
        assert_eq!(std::format!("{:>4}|{:?}", Name::new("a"), Name::new("b")), "   a|\"b\"");
    }
}
