//! Runs the suite of collectives over MPI, on a device that gives its memory and on one that does not.
//!
//! ```sh
//! cargo build --release -p fathom-mpi --examples
//! mpirun -n 4 target/release/examples/conform
//! ```
//!
//! `--piece BYTES` cuts messages into smaller pieces. For tests: with `--planted` rank 1 spoils what it receives; with
//! `--abort CODE` it ends the run while the others wait for it; with `--stop CODE` it stops, and second threads of the
//! others end the run.

use std::process::ExitCode;

use fathom_conformance::comm::check;
use fathom_core::comm::{AllGather, AllToAll, Comm, Solo};
use fathom_core::device::{Device, Host};
use fathom_cpu::Cpu;
use fathom_mpi::{Mpi, launched};

/// Ranks of which rank 1 loses a byte that it received.
struct Planted<'a>(&'a Mpi);

impl<D: Device> Comm<D> for Planted<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn world(&self) -> usize {
        self.0.world()
    }

    fn all_to_all(&self, device: &D, call: AllToAll<'_, D>) -> Result<(), D::Error> {
        self.0.all_to_all(device, call)
    }

    fn all_gather(&self, device: &D, call: AllGather<'_, D>) -> Result<(), D::Error> {
        let AllGather { mut whole, parts } = call;
        let (offset, bytes) = (whole.offset() * whole.dtype().size(), whole.elements() * whole.dtype().size());
        self.0.all_gather(device, AllGather::new(whole.reborrow(), parts)?)?;
        if self.0.rank() == 1 && bytes > 0 {
            let mut first = [0];
            device.download(whole.buffer(), offset, &mut first)?;
            device.upload(whole.buffer_mut(), offset, &[!first[0]])?;
        }
        Ok(())
    }

    fn tell(&self, words: &[u64]) -> Result<Vec<u64>, D::Error> {
        Comm::<D>::tell(self.0, words)
    }
}

/// Runs the suite on both devices, and says how many cases passed.
fn both<C: Comm<Cpu> + Comm<Host>>(comm: &C) -> Result<String, String> {
    let fast = check(&Cpu::with_threads(1), comm).map_err(|e| format!("cpu: {e}"))?;
    let staged = check(&Host::new(), comm).map_err(|e| format!("host: {e}"))?;
    Ok(format!("{} cases in place and {} by copies pass", fast.cases, staged.cases))
}

/// Runs one rank, with the program's arguments.
pub(crate) fn run(words: &[String]) -> Result<(), String> {
    let number = |name: &str| {
        let value = words.iter().position(|w| w == name).and_then(|i| words.get(i + 1));
        value.map(|v| v.parse::<usize>().map_err(|e| format!("{name}: {e}"))).transpose()
    };
    let Some(launched) = launched(|name| std::env::var(name).ok()).map_err(|e| e.to_string())? else {
        println!("not launched: one rank: {}", both(&Solo)?);
        return Ok(());
    };
    let mut mpi = Mpi::start(&launched).map_err(|e| e.to_string())?;
    if let Some(piece) = number("--piece")? {
        mpi = mpi.with_piece(piece);
    }
    if let (Some(code), 1) = (number("--abort")?, mpi.rank()) {
        Mpi::abort(code as i32);
    }
    if let Some(code) = number("--stop")? {
        if mpi.rank() == 1 {
            let own = std::process::id().to_string();
            std::process::Command::new("kill").args(["-STOP", &own]).status().map_err(|e| e.to_string())?;
        }
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_secs(1));
            Mpi::abort(code as i32)
        });
    }
    let passed = if words.iter().any(|w| w == "--planted") { both(&Planted(&mpi)) } else { both(&mpi) };
    let passed = passed.map_err(|e| format!("{e} ({:?})", mpi.problem()))?;
    if mpi.rank() == 0 {
        println!("{} ranks, {}: {passed}", mpi.world(), mpi.library());
    }
    Mpi::may_end();
    Ok(())
}

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
