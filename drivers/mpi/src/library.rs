//! Finds the MPI library that belongs to the launcher, and refuses one that does not.

use std::path::{Path, PathBuf};

use crate::abi::{self, Calls, Form, Loaded};
use crate::error::MpiError;
use crate::launch::{Launched, Launcher};

/// The variable in which a user names a library, by path or by name.
pub(crate) const VARIABLE: &str = "FATHOM_MPI_LIBRARY";

/// Names of libraries that go with a launcher, the likeliest first. The loader looks for them where it does for others,
/// `LD_LIBRARY_PATH` included.
fn names(launcher: Launcher) -> &'static [&'static str] {
    match launcher {
        Launcher::OpenMpi => &["libmpi.so.40", "libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi.so"],
        // Open MPI comes last: some are built to understand this launcher, Debian's is not.
        Launcher::Pmi => {
            &["libmpich.so.12", "libmpi.so.12", "libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi.so", "libmpi.so.40"]
        }
        Launcher::SrunPmix => {
            &["libmpi.so.40", "libmpi_abi.so.1", "libmpi_abi.so.0", "libmpich.so.12", "libmpi.so.12", "libmpi.so"]
        }
        // MPICH first, although few of either kind can work: Open MPI ends the process where it cannot, and its message
        // does not name the options of `srun`.
        Launcher::Srun | Launcher::Torchrun => {
            &["libmpich.so.12", "libmpi.so.12", "libmpi.so.40", "libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi.so"]
        }
    }
}

/// The packages to install for a launcher.
fn remedy(launcher: Launcher) -> &'static str {
    match launcher {
        Launcher::OpenMpi => "install Open MPI on each machine (Debian and Ubuntu: apt-get install openmpi-bin)",
        Launcher::Pmi => "install MPICH on each machine (Debian and Ubuntu: apt-get install mpich)",
        Launcher::Srun | Launcher::SrunPmix | Launcher::Torchrun => {
            "install an MPI on each machine (Debian and Ubuntu: apt-get install mpich, or openmpi-bin)"
        }
    }
}

/// A library that was started.
pub(crate) struct Started {
    pub(crate) calls: Box<dyn Calls>,
    /// Name, version and path.
    pub(crate) text: String,
}

/// Loads and starts the library that `named` names, else the first of the launcher's that is found.
pub(crate) fn start(launched: &Launched, named: Option<PathBuf>) -> Result<Started, MpiError> {
    let launcher = launched.launcher;
    let loaded = find(launcher, named, abi::load)?;
    let path = file_of(loaded.address).unwrap_or(loaded.asked);
    let text = format!("{} ({})", short(&loaded.library.version), path.display());
    let calls = loaded.library.start();
    let calls = calls.map_err(|problem| MpiError::new(format!("the MPI library {text} does not start: {problem}")))?;
    if (calls.world(), calls.rank()) != (launched.world, launched.rank) {
        // A world of one has nobody to wait for.
        if calls.world() == 1 {
            calls.finalize();
        }
        return Err(MpiError::new(mismatch(&text, loaded.library.form, launched, calls.world(), calls.rank())));
    }
    Ok(Started { calls, text })
}

/// Name, version and path of the library that ranks of `launcher` would load. It is loaded and not started.
///
/// # Errors
/// There is none; the message says what was tried and what to install.
pub fn available(launcher: Launcher) -> Result<String, MpiError> {
    let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
    let loaded = find(launcher, named, abi::load)?;
    let path = file_of(loaded.address).unwrap_or(loaded.asked);
    Ok(format!("{} ({})", short(&loaded.library.version), path.display()))
}

/// A library, and the path or name by which it was found.
struct Found<L> {
    library: L,
    asked: PathBuf,
    address: usize,
}

trait Address {
    fn address(&self) -> usize;
}

impl Address for Loaded {
    fn address(&self) -> usize {
        self.address
    }
}

/// The first library that `load` loads; the error says which were tried and what to install.
fn find<L: Address>(
    launcher: Launcher,
    named: Option<PathBuf>,
    load: impl Fn(&Path) -> Result<L, String>,
) -> Result<Found<L>, MpiError> {
    let candidates: Vec<PathBuf> = match &named {
        Some(path) => vec![path.clone()],
        None => names(launcher).iter().map(PathBuf::from).collect(),
    };
    let mut failures = String::new();
    for asked in candidates {
        match load(&asked) {
            Ok(library) => return Ok(Found { address: library.address(), library, asked }),
            // The loader's messages mostly repeat the name.
            Err(problem) => failures.push_str(&format!("\n  {}: {problem}", asked.display())),
        }
    }
    let advice = match named {
        Some(_) => format!("correct {VARIABLE}, or unset it so that the library is searched for; if there is none, "),
        None => format!("if there is one elsewhere, put its path into {VARIABLE}; if there is none, "),
    };
    let message = format!(
        "no MPI library was found for the ranks that {launcher} started: {advice}{}. Tried:{failures}",
        remedy(launcher)
    );
    Err(MpiError::new(message))
}

/// The message about a library that sees another world than its launcher.
fn mismatch(text: &str, form: Form, launched: &Launched, world: usize, rank: usize) -> String {
    let Launched { launcher, .. } = *launched;
    let variable = launcher.size_variable();
    let own = match form {
        Form::Open => "Open MPI's (on Debian mpirun.openmpi)",
        Form::Mpich => "MPICH's (on Debian mpirun.mpich, or srun --mpi=pmi2)",
        Form::Standard => "the one that came with it",
    };
    let other = match launcher {
        Launcher::Torchrun => "torchrun starts no MPI (to train alone, unset RANK and WORLD_SIZE)".to_owned(),
        Launcher::Srun | Launcher::SrunPmix => {
            format!("or give srun the --mpi of that library (srun --mpi=list), or another library in {VARIABLE}")
        }
        _ => format!("or put the launcher's library, for example {}, into {VARIABLE}", names(launcher)[0]),
    };
    format!(
        "the MPI library {text} does not belong to the launcher: it is rank {rank} of {world}, while the launcher, \
         {launcher}, says rank {} of {} ({variable}). Use that library's own launcher, {own}; {other}",
        launched.rank, launched.world
    )
}

/// Name and version out of the long text of a library.
fn short(version: &str) -> String {
    // MPICH: "MPICH Version:      4.0.2", and more lines. Open MPI: "Open MPI v4.1.4, package: …".
    let first = version.lines().next().unwrap_or_default().split(',').next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().filter(|word| *word != "Version:").collect();
    if words.is_empty() { "MPI of an unknown version".into() } else { words.join(" ") }
}

/// The file that is mapped at an address, where the system tells.
fn file_of(address: usize) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    mapped(&maps, address)
}

/// The file at an address in the text of `/proc/self/maps`.
fn mapped(maps: &str, address: usize) -> Option<PathBuf> {
    maps.lines().find_map(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let path = line.find('/').map(|at| PathBuf::from(&line[at..]))?;
        (number(start)?..number(end)?).contains(&address).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Address for String {
        fn address(&self) -> usize {
            0
        }
    }

    /// What is loaded on a machine that has some libraries.
    fn choice(launcher: Launcher, named: Option<&str>, has: &[&str]) -> Result<String, String> {
        let load = |path: &Path| {
            let name = path.display().to_string();
            if has.contains(&name.as_str()) { Ok(name) } else { Err("no such file".to_owned()) }
        };
        find(launcher, named.map(PathBuf::from), load).map(|f| f.library).map_err(|e| e.to_string())
    }

    #[test]
    fn the_launcher_chooses_the_library() {
        let both = ["libmpich.so.12", "libmpi.so.40"];
        assert_eq!(choice(Launcher::OpenMpi, None, &both).unwrap(), "libmpi.so.40");
        assert_eq!(choice(Launcher::Pmi, None, &both).unwrap(), "libmpich.so.12");
        assert_eq!(choice(Launcher::Pmi, None, &["libmpi.so.12", "libmpi.so.40"]).unwrap(), "libmpi.so.12");
        assert_eq!(choice(Launcher::Pmi, None, &["libmpi_abi.so.0"]).unwrap(), "libmpi_abi.so.0");
        assert_eq!(choice(Launcher::Srun, None, &both).unwrap(), "libmpich.so.12");
        assert_eq!(choice(Launcher::SrunPmix, None, &both).unwrap(), "libmpi.so.40");
        assert_eq!(choice(Launcher::SrunPmix, None, &both[..1]).unwrap(), "libmpich.so.12");
    }

    #[test]
    fn a_named_library_is_the_only_one() {
        let both = ["libmpich.so.12", "libmpi.so.40"];
        assert_eq!(choice(Launcher::OpenMpi, Some("libmpich.so.12"), &both).unwrap(), "libmpich.so.12");
        let error = choice(Launcher::Pmi, Some("/opt/mpi.so"), &both).unwrap_err();
        assert!(error.contains("/opt/mpi.so: no such file") && error.contains(VARIABLE), "{error}");
        assert!(!error.contains("libmpich.so.12"), "{error}");
    }

    #[test]
    fn a_missing_library_is_named_with_its_package() {
        for (launcher, package) in
            [(Launcher::OpenMpi, "openmpi-bin"), (Launcher::Pmi, "mpich"), (Launcher::Srun, "mpich")]
        {
            let error = choice(launcher, None, &[]).unwrap_err();
            assert!(error.contains(&format!("apt-get install {package}")), "{error}");
            assert!(names(launcher).iter().all(|name| error.contains(name)), "{error}");
        }
    }

    #[test]
    fn a_library_of_another_launcher_is_refused_with_both_numbers() {
        let launched = Launched { rank: 3, world: 4, local_rank: 3, launcher: Launcher::Pmi };
        let text = mismatch("Open MPI v4.1.4 (/lib/libmpi.so.40)", Form::Open, &launched, 1, 0);
        let parts = ["/lib/libmpi.so.40", "rank 0 of 1", "rank 3 of 4", "PMI_SIZE", "mpirun.openmpi", "libmpich.so.12"];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn versions_are_short() {
        assert_eq!(short("MPICH Version:\t4.0.2\nMPICH Release date:\tThu"), "MPICH 4.0.2");
        assert_eq!(short("Open MPI v4.1.4, package: Debian OpenMPI, ident"), "Open MPI v4.1.4");
        assert_eq!(short(""), "MPI of an unknown version");
    }

    #[test]
    fn a_file_is_found_by_address() {
        let maps = "7f00-7f80 r-xp 00000000 08:01 5   /usr/lib/a b.so\n7f80-7f90 rw-p 00000000 00:00 0 \nbad\n";
        assert_eq!(mapped(maps, 0x7f7f), Some("/usr/lib/a b.so".into()));
        assert_eq!(mapped(maps, 0x7f80), None);
        assert!(cfg!(not(target_os = "linux")) || file_of(mapped as *const () as usize).is_some());
    }
}
