//! The machine: versions, device, memory, limits, and the libraries that are looked for when a run starts.

use std::process::Command;

use fathom_core::device::Device;
use fathom_cuda::{Cuda, Nccl};
use fathom_mpi::Launcher;

use super::{Finding, limits};
use crate::device::{AnyDevice, host_memory_available, memory};
use crate::launch;
use crate::units::size;

/// Version of the compiler that built this program.
const COMPILER: &str = env!("FATHOM_RUSTC");

/// What can be said of this machine for a run on the device of that name, on `ranks` ranks. The largest file that the
/// run would write has `file` bytes, where that is known.
pub fn machine(device: &str, threads: usize, ranks: usize, file: Option<u64>) -> Vec<Finding> {
    let mut findings = vec![versions(), system(), of_device(device, threads)];
    findings.extend(of_memory());
    findings.extend(limits::limits(file));
    findings.push(of_gpus(ranks));
    findings.push(of_mpi(ranks));
    findings
}

fn versions() -> Finding {
    Finding::fine("version", format!("fathom {}, built by {COMPILER}", env!("CARGO_PKG_VERSION")))
}

fn system() -> Finding {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/etc/os-release");
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"'));
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = match kernel.trim() {
        "" => String::new(),
        kernel => format!(", kernel {kernel}"),
    };
    let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
    Finding::fine("system", format!("{}{kernel}, {processor}", name.unwrap_or(system)))
}

fn of_device(name: &str, threads: usize) -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match AnyDevice::open(name, threads) {
        Err(error) => Finding::error("device", error),
        Ok(AnyDevice::Cpu(device)) => {
            let text = format!("cpu, {} threads of {cores} cores, {}", device.threads(), device.isa());
            match device.threads() > cores {
                true => Finding::warning(
                    "device",
                    format!("{text}: more threads than cores slow each other down"),
                    "leave out --threads and RAYON_NUM_THREADS",
                ),
                false => Finding::fine("device", text),
            }
        }
        Ok(AnyDevice::Cuda(device)) => {
            Finding::fine("device", format!("{}, {}", device.capabilities().name, device.description()))
        }
    }
}

fn of_memory() -> Option<Finding> {
    let (_, total) = memory("cpu")?;
    let available = host_memory_available().map_or(String::new(), |bytes| format!(", {} available", size(bytes)));
    Some(Finding::fine("memory", format!("{}{available}", size(total))))
}

fn of_gpus(ranks: usize) -> Finding {
    let subject = "GPUs";
    let count = Cuda::count();
    if count == 0 {
        return Finding::fine(subject, "none that this program can use (--device cuda says why)");
    }
    let nccl = Nccl::version().map_err(|error| error.to_string());
    match nccl {
        Ok(version) => Finding::fine(subject, format!("{count}, {version}")),
        Err(problem) if ranks > 1 => Finding::warning(
            subject,
            format!("{count}; without NCCL ranks exchange data through the host: {problem}"),
            "install libnccl2, or name the library in FATHOM_CUDA_NCCL",
        ),
        Err(_) => Finding::fine(subject, format!("{count}; no NCCL, which only several ranks use")),
    }
}

/// The launcher of several ranks, and the library that goes with it.
fn of_mpi(ranks: usize) -> Finding {
    let subject = "MPI";
    let mpirun = launch::mpirun();
    let wanted = |text: String, remedy: &str| match ranks {
        0 | 1 => Finding::fine(subject, format!("{text}; only several ranks need it")),
        _ => Finding::misfit(subject, text, remedy),
    };
    let install = "install an MPI (Debian, Ubuntu: apt-get install mpich, or openmpi-bin)";
    let version = match Command::new(&mpirun).arg("--version").output() {
        Err(error) => return wanted(format!("{}: {error}", mpirun.display()), install),
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
    };
    let launcher = if version.contains("Open MPI") { Launcher::OpenMpi } else { Launcher::Pmi };
    match fathom_mpi::available(launcher) {
        Ok(library) => Finding::fine(subject, format!("{library}, started by {}", mpirun.display())),
        Err(error) => wanted(error.to_string(), install),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_machine_that_runs_tests_fits() {
        let findings = machine("cpu", 1, 1, None);
        let of = |subject: &str| findings.iter().find(|finding| finding.subject == subject).expect("a finding");
        assert!(of("version").text.contains("rustc 1."), "{findings:?}");
        assert!(of("device").text.starts_with("cpu, 1 threads of "), "{findings:?}");
        assert!(findings.iter().all(|finding| finding.verdict != Verdict::Misfit), "{findings:?}");
        let far = machine("cuda:4096", 1, 1, None);
        assert!(far.iter().any(|finding| finding.subject == "device" && finding.verdict == Verdict::Misfit));
    }
}
