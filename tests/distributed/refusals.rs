//! Ranks that do not fit each other, the launcher, or the folder are refused by name, before the first step.

use std::process::Command;

use crate::support::{Ended, Mpi, Place, alone, checkpoints, metrics, train};

const STEPS: usize = 2;

/// Checks that a run was refused before its first step, with each of `wanted` in its messages.
fn refused(place: &Place, output: &str, ended: &Ended, wanted: &[&str]) {
    let Ended { code, said, line } = ended;
    assert!(code.is_some_and(|code| code != 0), "{line}\n{said}");
    for wanted in wanted {
        assert!(said.contains(wanted), "not said: {wanted}\n{line}\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    // Open MPI ends all ranks by SIGTERM after an error; nothing is saved then.
    assert!(!said.contains("finishing the step"), "{line}\n{said}");
    assert!(metrics(&place.path(output)).is_empty() && checkpoints(&place.path(output)).is_empty(), "{line}\n{said}");
}

/// Runs one process with each list of arguments as the ranks of one run.
fn ranks(place: &Place, mpi: Mpi, output: &str, ranks: &[Vec<String>]) -> Option<Ended> {
    let mut command = mpi.command()?;
    for (number, arguments) in ranks.iter().enumerate() {
        if number > 0 {
            command.arg(":");
        }
        command.args(["-n", "1", train()]).args(arguments);
    }
    Some(place.spawn(command, output).end())
}

fn ranks_that_differ(mpi: Mpi) {
    let (_alone, place) = (alone(), Place::new());
    let plain = |output| place.arguments(output, STEPS, &[]);
    let other = |output, set| place.arguments(output, STEPS, &[set]);
    let Some(ended) =
        ranks(&place, mpi, "rate", &[plain("rate"), plain("rate"), other("rate", "schedule.lr=0.1"), plain("rate")])
    else {
        return;
    };
    refused(&place, "rate", &ended, &["rank 2 has another `schedule.lr`"]);

    let second = crate::support::prepare(&place.path("second"), 5);
    let data = format!("data.path={}", second.display());
    let ended = ranks(&place, mpi, "data", &[plain("data"), other("data", &data)]).unwrap();
    refused(&place, "data", &ended, &["rank 1 has another training data"]);

    let ended = ranks(&place, mpi, "here", &[plain("here"), plain("there")]).unwrap();
    refused(&place, "here", &ended, &["rank 1", "output"]);
    assert!(checkpoints(&place.path("there")).is_empty());
}

#[test]
fn ranks_that_differ_under_mpich() {
    ranks_that_differ(Mpi::Mpich);
}

#[test]
fn ranks_that_differ_under_open_mpi() {
    ranks_that_differ(Mpi::Open);
}

#[test]
fn numbers_of_ranks_that_do_not_fit() {
    let (_alone, place) = (alone(), Place::new());
    if Mpi::Mpich.find().is_none() {
        return;
    }
    let start =
        |ranks, output: &str, arguments: &[String]| place.start(Some((Mpi::Mpich, ranks)), output, arguments).end();
    let ended = start(3, "three", &place.arguments("three", STEPS, &[]));
    let wanted =
        "a batch of 16 sequences is 8 micro-batches of 2, which 3 ranks cannot share evenly: run on 2 or 4 ranks";
    refused(&place, "three", &ended, &[wanted]);

    let ended = start(2, "two", &[place.arguments("two", STEPS, &[]), vec!["--ranks".into(), "3".into()]].concat());
    refused(&place, "two", &ended, &["--ranks 3", "started 2"]);
    assert_eq!(ended.code, Some(2), "{}", ended.said);

    let ended = start(2, "bare", &[]);
    refused(&place, "bare", &ended, &["several ranks need data"]);
    assert_eq!(ended.code, Some(2), "{}", ended.said);

    for ranks in ["0", "1000000", "-1", "x"] {
        let mut command = Command::new(train());
        // In the place of a launcher that would start them.
        command.env("FATHOM_MPIRUN", "false").args(place.arguments("odd", STEPS, &[]));
        command.arg(format!("--ranks={ranks}"));
        let ended = place.spawn(command, "odd").end();
        refused(&place, "odd", &ended, &["--ranks"]);
        assert_eq!(ended.code, Some(2), "{}", ended.said);
    }
}

#[test]
fn an_error_that_all_ranks_have_is_said_once() {
    let (_alone, place) = (alone(), Place::new());
    if Mpi::Mpich.find().is_none() {
        return;
    }
    let nowhere = format!("data.path={}", place.path("nowhere").display());
    for set in ["parallel.zero=7", "parallel.timeout_seconds=0", nowhere.as_str()] {
        let mut arguments = place.arguments("wrong", STEPS, &[set]);
        arguments.extend(["--ranks".into(), "4".into()]);
        let mut command = Command::new(train());
        command.env("FATHOM_MPIRUN", Mpi::Mpich.find().unwrap()).args(&arguments);
        let ended = place.spawn(command, "wrong").end();
        refused(&place, "wrong", &ended, &["error: "]);
        assert_eq!(ended.said.matches("error: ").count(), 1, "{}", ended.said);
    }
}

#[test]
fn a_library_that_is_not_the_launchers_or_not_there() {
    let (_alone, place) = (alone(), Place::new());
    let (mpich, open) = ("libmpich.so.12", "libmpi.so.40");
    let start = |mpi: Mpi, output: &str, library: &str| {
        let mut command = mpi.command()?;
        command.env("FATHOM_MPI_LIBRARY", library).args(["-n", "2", train()]);
        command.args(place.arguments(output, STEPS, &[]));
        Some(place.spawn(command, output).end())
    };
    if Mpi::Mpich.find().is_some() && Mpi::Open.find().is_some() {
        let ended = start(Mpi::Mpich, "a", open).unwrap();
        refused(&place, "a", &ended, &["Open MPI", "does not belong to the launcher", "mpirun.openmpi", mpich]);
        let ended = start(Mpi::Open, "b", mpich).unwrap();
        refused(&place, "b", &ended, &["MPICH", "does not belong to the launcher", "mpirun.mpich", open]);
    }
    for mpi in [Mpi::Mpich, Mpi::Open] {
        let Some(ended) = start(mpi, "c", "/nowhere/libmpi.so") else { continue };
        refused(
            &place,
            "c",
            &ended,
            &["no MPI library was found", "/nowhere/libmpi.so", "FATHOM_MPI_LIBRARY", "install"],
        );
    }
}

#[test]
fn no_mpirun_and_variables_of_torchrun() {
    let (_alone, place) = (alone(), Place::new());
    let mut arguments = place.arguments("none", STEPS, &[]);
    arguments.extend(["--ranks".into(), "2".into()]);
    let mut command = Command::new(train());
    command.env("FATHOM_MPIRUN", "/nowhere/mpirun").args(&arguments);
    let ended = place.spawn(command, "none").end();
    refused(&place, "none", &ended, &["/nowhere/mpirun", "apt-get install mpich", "FATHOM_MPIRUN"]);

    let mut command = Command::new(train());
    command.envs([("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")]).args(place.arguments("torch", STEPS, &[]));
    let ended = place.spawn(command, "torch").end();
    let missing = Mpi::Mpich.find().is_none() && Mpi::Open.find().is_none();
    let wanted = if missing { "no MPI library was found" } else { "WORLD_SIZE" };
    refused(&place, "torch", &ended, &["torchrun", wanted]);
}

#[test]
fn one_of_two_starts_on_one_folder_at_once() {
    let (_alone, place) = (alone(), Place::new());
    if Mpi::Mpich.find().is_none() {
        return;
    }
    let arguments = place.arguments("both", 40, &[]);
    let mut first = place.start(Some((Mpi::Mpich, 2)), "both", &arguments);
    first.until(2);
    let mut command = Mpi::Mpich.command().unwrap();
    command.args(["-n", "2", train()]).args(&arguments);
    let second = place.spawn(command, "second").end();
    assert!(second.code.is_some_and(|code| code != 0), "{}", second.said);
    assert!(second.said.contains("another run is writing there"), "{}", second.said);
    let first = first.end();
    assert_eq!(first.code, Some(0), "the first run goes on\n{}", first.said);
    let alone = place.arguments("alone", 40, &[]);
    place.run(None, "alone", &alone);
    crate::support::assert_same("two starts", &place.path("alone"), &place.path("both"));
    // The refused start did not write over the records of the run.
    let said = place.run(Some((Mpi::Mpich, 2)), "both", &[arguments, vec!["--resume".into()]].concat());
    assert!(!said.contains("did not end well"), "{said}");
}

#[test]
fn a_rank_that_runs_without_others_and_without_a_launcher() {
    let (_alone, place) = (alone(), Place::new());
    place.run(None, "alone", &place.arguments("alone", STEPS, &[]));
    for mpi in [Mpi::Mpich, Mpi::Open] {
        if mpi.find().is_some() {
            let output = format!("one-{mpi:?}");
            place.run(Some((mpi, 1)), &output, &place.arguments(&output, STEPS, &[]));
            crate::support::assert_same("mpirun -n 1", &place.path("alone"), &place.path(&output));
        }
    }
}
