//! Devices by name, as `--device` takes them. Everything else is generic over the device;
//! [`on_device!`](crate::on_device) is the one place where a name becomes a type.

use fathom_core::device::{Capabilities, Device, Name as DeviceName};
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

/// Refuses what is no name of a device.
///
/// # Errors
/// Lists the names.
pub(crate) fn check_name(name: &str) -> Result<()> {
    parse(name).map(drop)
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

/// What a plan needs to know of the device of that name. One that is not here is not needed: its memory is then `None`,
/// and the rest is what every such device has.
///
/// # Errors
/// Unknown device name.
pub fn capabilities(name: &str) -> Result<Capabilities> {
    let here = |ordinal| Cuda::new(ordinal).ok().map(|device| device.capabilities());
    let processor = || {
        let mut capabilities = Capabilities::new("cpu");
        capabilities.memory = host_memory();
        capabilities
    };
    Ok(match parse(name)? {
        Name::Gpu(ordinal) => here(ordinal).unwrap_or_else(|| Cuda::unopened(&format!("cuda:{ordinal}"))),
        Name::Auto if Cuda::count() > 0 => here(0).unwrap_or_else(processor),
        Name::Auto | Name::Cpu => processor(),
        Name::Emulated => Cuda::unopened("cuda:emulated"),
    })
}

/// The memory that training on the device of that name has: the device's name and bytes. `None` where that is not
/// known, or there is no such device here.
pub fn memory(name: &str) -> Option<(DeviceName, u64)> {
    let capabilities = capabilities(name).ok()?;
    Some((capabilities.name, capabilities.memory?))
}

/// Bytes of memory that this process may use: those of the machine, or of its control groups if one has fewer.
pub(crate) fn host_memory() -> Option<u64> {
    let machine = meminfo("MemTotal");
    limits_of_groups().into_iter().map(|(_, limit, _)| limit).chain(machine).min()
}

/// Bytes of memory that this process may still take: those that the machine has to give, or its control groups.
pub(crate) fn host_memory_available() -> Option<u64> {
    let groups = limits_of_groups().into_iter().map(|(_, limit, used)| limit.saturating_sub(used));
    groups.chain(meminfo("MemAvailable")).min()
}

/// The control groups of this process that limit its memory: name, limit and use in bytes. Pages of files that were not
/// used lately are no use, as the group gives them up.
pub(crate) fn limits_of_groups() -> Vec<(String, u64, u64)> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let read = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = |(folder, limit, used): (String, &str, &str)| {
        // The first version of control groups writes no limit as the largest number of whole pages.
        let limit = read(&format!("{folder}/{limit}")).filter(|limit| *limit < 1 << 60)?;
        let used = read(&format!("{folder}/{used}")).unwrap_or(0);
        let stat = std::fs::read_to_string(format!("{folder}/memory.stat")).unwrap_or_default();
        let files = stat.lines().find_map(|line| {
            let line = line.strip_prefix("total_").unwrap_or(line);
            line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok()
        });
        Some((folder, limit, used.saturating_sub(files.unwrap_or(0))))
    };
    folders_of_groups(&own).into_iter().filter_map(group).collect()
}

/// Folders that may hold limits, the root first, for the text of a `/proc/self/cgroup`, with the names of the files.
fn folders_of_groups(own: &str) -> Vec<(String, &'static str, &'static str)> {
    const SECOND: (&str, &str, &str) = ("/sys/fs/cgroup", "memory.max", "memory.current");
    const FIRST: (&str, &str, &str) = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes");
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, limit, used) = match controllers {
            "" => SECOND,
            list if list.split(',').any(|one| one == "memory") => FIRST,
            _ => return None,
        };
        // A path that leads out of the process's own view names nothing here.
        let parts = path.split('/').filter(|part| !part.is_empty() && *part != "..");
        let deeper = parts.scan(root.to_owned(), |folder, part| {
            *folder = format!("{folder}/{part}");
            Some(folder.clone())
        });
        Some(deeper.map(|folder| (folder, limit, used)).collect::<Vec<_>>())
    };
    let roots = [SECOND, FIRST].map(|(root, limit, used)| (root.to_owned(), limit, used));
    roots.into_iter().chain(own.lines().filter_map(line).flatten()).collect()
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(name: &str) -> Option<u64> {
    line_of_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?, name)
}

fn line_of_meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
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
        assert_eq!(line_of_meminfo(table, "MemTotal"), Some(25_276_502_016));
        assert_eq!(line_of_meminfo(table, "MemFree"), Some(13_454_217_216));
        assert_eq!(line_of_meminfo("MemFree: 1 kB\n", "MemTotal"), None);
        assert_eq!(line_of_meminfo("MemFree: 99999999999999999999 kB\n", "MemFree"), None);
        assert_eq!(memory("tpu"), None);
        assert_eq!(capabilities("tpu").unwrap_err().exit_code(), 2);
        // A GPU that is not here has the pieces of one that is.
        let far = capabilities(&format!("cuda:{}", Cuda::count() + 7)).unwrap();
        let emulated = capabilities("cuda:emulated").unwrap();
        assert_eq!((far.memory, far.chunk), (None, emulated.chunk));
        assert!(far.chunk > capabilities("cpu").unwrap().chunk);
        assert_eq!(memory("cuda:emulated"), None);
    }

    #[test]
    fn limits_are_looked_for_in_every_group_above_the_process() {
        let folders = |own: &str| folders_of_groups(own).into_iter().map(|(folder, ..)| folder).collect::<Vec<_>>();
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"];
        assert_eq!(folders(""), roots);
        assert_eq!(folders("0::/\n"), roots);
        let job = folders("0::/system.slice/slurmstepd.scope/job_7\n");
        assert_eq!(job[4], "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7");
        assert_eq!((job.len(), &*job[2]), (5, "/sys/fs/cgroup/system.slice"));
        let first = folders("12:cpu,cpuacct:/a\n4:memory:/docker/b\n1:name=systemd:/c\nnonsense\n");
        assert_eq!(first[2..], ["/sys/fs/cgroup/memory/docker", "/sys/fs/cgroup/memory/docker/b"]);
        assert_eq!(folders("0::/../../b")[2..], ["/sys/fs/cgroup/b"]);
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
