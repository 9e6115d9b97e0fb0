//! Devices by name, as `--device` takes them. Everything else is generic over the device;
//! [`on_device!`](crate::on_device) is the one place where a name becomes a type.

use fathom_core::device::{Device, Name as DeviceName};
use fathom_core::error::{DeviceError, ErrorKind};
use fathom_cpu::Cpu;
use fathom_cuda::{Cuda, CudaError, Emulation};

use crate::error::{Error, Result};

/// The names there are, for messages.
const NAMES: &str = "auto, cpu, cuda, cuda:N or cuda:emulated";

/// A CPU or CUDA device; [`on_device!`](crate::on_device) runs code with the device inside.
pub enum AnyDevice {
    /// The processor.
    Cpu(Cpu),
    /// A GPU, or the emulator of one.
    Cuda(Cuda),
}

/// Runs `body` with `device` bound to what is inside an [`AnyDevice`]: `on_device!(chosen, device => work(&device))`.
/// The body is compiled for every kind of device.
#[macro_export]
macro_rules! on_device {
    ($chosen:expr, $device:ident => $body:expr) => {
        match $chosen {
            $crate::device::AnyDevice::Cpu($device) => $body,
            $crate::device::AnyDevice::Cuda($device) => $body,
        }
    };
}

/// A parsed device name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Auto,
    Cpu,
    /// The GPU of that number.
    Gpu(usize),
    Emulated,
}

fn parse(name: &str) -> Result<Name> {
    let wrong = || Error::Usage(format!("--device {name}: must be {NAMES}"));
    match (name, name.strip_prefix("cuda:")) {
        ("auto", _) => Ok(Name::Auto),
        ("cpu", _) => Ok(Name::Cpu),
        ("cuda", _) => Ok(Name::Gpu(0)),
        (_, Some("emulated")) => Ok(Name::Emulated),
        (_, Some(n)) if n.bytes().all(|b| b.is_ascii_digit()) => n.parse().map(Name::Gpu).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

impl AnyDevice {
    /// Opens a device by name:
    ///
    /// - `auto`: the first GPU where there is one, else the processor; says on stderr which,
    /// - `cpu`: the processor, on `threads` threads, 0 for every core,
    /// - `cuda`, `cuda:N`: the first GPU, or the one with number N, counted from 0,
    /// - `cuda:emulated`: the GPU's kernels on the processor, every access checked: slow, for tests.
    ///
    /// # Errors
    /// Unknown device name, or the device is missing or unusable.
    pub fn open(name: &str, threads: usize) -> Result<Self> {
        // The driver says what it looked for and what to do.
        let failed = |e: CudaError| Error::Run(format!("--device {name}: {e}"));
        match parse(name)? {
            Name::Auto => Self::automatic(threads),
            Name::Cpu => Self::processor(threads).map(Self::Cpu),
            Name::Gpu(ordinal) => Cuda::new(ordinal).map(Self::Cuda).map_err(failed),
            Name::Emulated => Cuda::emulated(Emulation::default()).map(Self::Cuda).map_err(failed),
        }
    }

    fn automatic(threads: usize) -> Result<Self> {
        if Cuda::count() > 0 {
            match Cuda::new(0) {
                Ok(device) => {
                    eprintln!("device: {}, {}", device.capabilities().name, device.description());
                    return Ok(Self::Cuda(device));
                }
                Err(error) => {
                    eprintln!("there is a GPU, but it is not used: {error} (--device cuda insists on it)");
                }
            }
        }
        let device = Self::processor(threads)?;
        eprintln!("device: cpu, {} threads, {}", device.threads(), device.isa());
        Ok(Self::Cpu(device))
    }

    fn processor(threads: usize) -> Result<Cpu> {
        Cpu::open(threads).map_err(|e| match e.kind() {
            ErrorKind::Unsupported => Error::Usage(e.to_string()),
            _ => Error::Run(format!("{e}; ask for fewer by train.threads, --threads or RAYON_NUM_THREADS")),
        })
    }

    /// The device's short name: `cpu`, `cuda:0`.
    pub fn name(&self) -> DeviceName {
        on_device!(self, device => device.capabilities().name)
    }
}

/// The memory that training on the device of that name has: the device's name and bytes. `None` where that is not
/// known, or there is no such device here.
pub fn memory(name: &str) -> Option<(DeviceName, u64)> {
    let gpu = |ordinal| {
        let device = Cuda::new(ordinal).ok()?;
        let capabilities = device.capabilities();
        Some((capabilities.name, capabilities.memory?))
    };
    match parse(name).ok()? {
        Name::Gpu(ordinal) => gpu(ordinal),
        Name::Auto if Cuda::count() > 0 => gpu(0),
        Name::Auto | Name::Cpu => host_memory().map(|bytes| (DeviceName::new("cpu"), bytes)),
        Name::Emulated => None,
    }
}

/// Bytes of memory that this process may use: those of the machine, or of its control group if that has fewer.
fn host_memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total_of_meminfo);
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    limits.into_iter().filter_map(limit).chain(machine).min()
}

/// `MemTotal` of a `/proc/meminfo`, in bytes.
fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_or_refused() {
        let known = [("auto", Name::Auto), ("cpu", Name::Cpu), ("cuda", Name::Gpu(0)), ("cuda:0", Name::Gpu(0))];
        for (name, want) in known.into_iter().chain([("cuda:17", Name::Gpu(17)), ("cuda:emulated", Name::Emulated)]) {
            assert_eq!(parse(name).unwrap(), want);
        }
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0x1", "CUDA", "cuda:99999999999999999999999"] {
            let error = parse(name).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{name}");
            assert!(error.to_string().contains("cuda:emulated"), "{error}");
        }
    }

    #[test]
    fn the_memory_of_a_machine_is_read_from_its_table() {
        let table = "MemTotal:       24684084 kB\nMemFree:        13138884 kB\n";
        assert_eq!(total_of_meminfo(table), Some(25_276_502_016));
        assert_eq!(total_of_meminfo("MemFree: 1 kB\n"), None);
        assert_eq!(memory("tpu"), None);
        assert_eq!(memory("cuda:emulated"), None);
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_that_helps() {
        let far = Cuda::count() + 7;
        let error = AnyDevice::open(&format!("cuda:{far}"), 1).err().expect("no machine has that many");
        assert_eq!(error.exit_code(), 1);
        let text = error.to_string();
        let what = if far == 7 { "driver" } else { "GPU" };
        assert!(text.contains(&format!("cuda:{far}")) && text.contains(what), "{text}");
    }
}
