//! The suite of collectives under the launchers that this machine has, and what a run says where one does not fit.

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[allow(dead_code)]
#[path = "../examples/conform.rs"]
mod conform;

/// Ranks of one test at a time: they wait for each other by spinning, and machines of CI have few cores.
static TURN: Mutex<()> = Mutex::new(());

/// A family of MPI that a test runs.
struct Family {
    mpirun: &'static str,
    arguments: &'static [&'static str],
    library: &'static str,
    package: &'static str,
}

const MPICH: Family = Family { mpirun: "mpirun.mpich", arguments: &[], library: "libmpich.so.12", package: "mpich" };
const OPEN: Family = Family {
    mpirun: "mpirun.openmpi",
    arguments: &["--allow-run-as-root", "--oversubscribe"],
    library: "libmpi.so.40",
    package: "openmpi-bin",
};

/// Whether all of these families are installed; says which is not.
fn have(families: &[&Family]) -> bool {
    let missing = families.iter().find(|f| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        !std::env::split_paths(&paths).any(|folder| folder.join(f.mpirun).is_file())
    });
    if let Some(Family { mpirun, package, .. }) = missing {
        println!("passed over: {mpirun} is not installed (Debian: apt-get install {package})");
    }
    missing.is_none()
}

/// Arguments of the example for the test that is one rank.
const ARGUMENTS: &str = "FATHOM_TEST_ARGUMENTS";

/// One rank: the other tests start this program again, under a launcher.
#[test]
#[ignore = "the other tests run it under a launcher"]
fn rank() {
    let words = std::env::var(ARGUMENTS).unwrap_or_default();
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    conform::run(&words).unwrap_or_else(|error| panic!("{error}"));
}

/// A command that runs [`rank`], through a launcher or not.
fn command(launcher: &[&str], arguments: &[&str]) -> Command {
    let own = std::env::current_exe().expect("the path of this test");
    let own = own.to_str().expect("a path in UTF-8");
    let words = [launcher, &[own, "--exact", "rank", "--ignored", "--nocapture"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env(ARGUMENTS, arguments.join(" ")).env_remove("FATHOM_MPI_LIBRARY");
    command
}

/// What came out of a run.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the example on `n` ranks, with the variable that names a library where one is given.
fn ranks(family: &Family, n: usize, library: Option<&str>, arguments: &[&str]) -> Ran {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let n_ranks = n.to_string();
    let launcher = [&[family.mpirun], family.arguments, &["-n", &n_ranks]].concat();
    let mut command = command(&launcher, arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(library) = library {
        command.env("FATHOM_MPI_LIBRARY", library);
    }
    let mut child = command.spawn().expect("mpirun");
    let start = Instant::now();
    while child.try_wait().expect("mpirun").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().expect("mpirun to end");
            panic!("{} -n {n} {arguments:?} does not end", family.mpirun);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let out = child.wait_with_output().expect("its output");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

/// The suite passes on 1, 2, 3 and 4 ranks, and on 3 with messages cut into small pieces.
fn conforms(family: &Family) {
    if !have(&[family]) {
        return;
    }
    for (n, arguments) in
        [(1, &[][..]), (2, &[]), (3, &[]), (4, &[]), (2, &["--piece", "1000"]), (3, &["--piece", "7001"])]
    {
        let Ran { code, stdout, stderr } = ranks(family, n, None, arguments);
        assert_eq!(code, Some(0), "{n} ranks, {arguments:?}: {stdout}{stderr}");
        if n > 1 {
            assert!(stdout.contains(&format!("{n} ranks, ")) && stdout.contains(family.library), "{stdout}");
        }
        assert!(stdout.contains("cases in place and"), "{stdout}");
    }
}

#[test]
fn mpich_conforms() {
    conforms(&MPICH);
}

#[test]
fn open_mpi_conforms() {
    conforms(&OPEN);
}

#[test]
fn a_byte_that_one_rank_loses_is_found_by_all() {
    for family in [&MPICH, &OPEN] {
        if have(&[family]) {
            let Ran { code, stderr, .. } = ranks(family, 3, None, &["--planted"]);
            assert_ne!(code, Some(0), "{stderr}");
            assert!(stderr.contains("rank 1 of 3: all_gather"), "{stderr}");
            assert!(!stderr.contains("rank 0 of 3") && !stderr.contains("rank 2 of 3"), "{stderr}");
        }
    }
}

#[test]
fn an_abort_ends_ranks_that_wait() {
    for family in [&MPICH, &OPEN] {
        if have(&[family]) {
            let start = Instant::now();
            let Ran { code, stderr, .. } = ranks(family, 3, None, &["--abort", "75"]);
            assert_eq!(code, Some(75), "{stderr}");
            assert!(start.elapsed() < Duration::from_secs(20));
        }
    }
}

#[test]
fn a_second_thread_ends_ranks_that_wait_for_a_stopped_one() {
    for family in [&MPICH, &OPEN] {
        if have(&[family]) {
            let start = Instant::now();
            let Ran { code, stderr, .. } = ranks(family, 3, None, &["--stop", "75"]);
            assert_eq!(code, Some(75), "{stderr}");
            println!("{}: ended in {:?}", family.mpirun, start.elapsed());
        }
    }
}

/// A launcher and a library that do not belong together are refused, with the names and numbers of both.
fn refused(launcher: &Family, library: &Family, texts: &[&str]) {
    if have(&[launcher, library]) {
        let Ran { code, stdout, stderr } = ranks(launcher, 2, Some(library.library), &[]);
        assert_ne!(code, Some(0), "{stdout}{stderr}");
        assert!(!stdout.contains("cases"), "{stdout}");
        for text in texts.iter().chain(&[library.library, launcher.library, "of 1", "of 2", "FATHOM_MPI_LIBRARY"]) {
            assert!(stderr.contains(text), "no {text} in: {stderr}");
        }
    }
}

#[test]
fn open_mpi_under_mpirun_of_mpich_is_refused() {
    refused(&MPICH, &OPEN, &["Open MPI v", "PMI_SIZE", "mpirun.openmpi"]);
}

#[test]
fn mpich_under_mpirun_of_open_mpi_is_refused() {
    refused(&OPEN, &MPICH, &["MPICH ", "OMPI_COMM_WORLD_SIZE", "mpirun.mpich"]);
}

#[test]
fn without_a_library_the_error_says_what_to_install() {
    for family in [&MPICH, &OPEN] {
        if have(&[family]) {
            let Ran { code, stderr, .. } = ranks(family, 2, Some("/nonexistent"), &[]);
            assert_ne!(code, Some(0));
            assert!(stderr.contains("/nonexistent: ") && stderr.contains("apt-get install"), "{stderr}");
        }
    }
    // No launcher is needed to see it: the environment is enough.
    let out = command(&[], &[])
        .envs([("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("FATHOM_MPI_LIBRARY", "/nonexistent")])
        .output()
        .expect("a rank");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert!(stderr.contains("apt-get install mpich"), "{stderr}");
}

#[test]
fn a_library_that_is_no_mpi_is_refused() {
    let out = command(&[], &[])
        .envs([("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("FATHOM_MPI_LIBRARY", "libm.so.6")])
        .output()
        .expect("a rank");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert!(stderr.contains("no MPI_Init_thread") || stderr.contains("libm.so.6"), "{stderr}");
}
