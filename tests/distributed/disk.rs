//! A checkpoint that one rank cannot write: training goes on, names the rank and the file, and ends at the third time.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::{Ended, Mpi, Place, alone, assert_same, checkpoints, metrics, train};

const SETS: [&str; 3] = ["checkpoint.every_steps=2", "train.ema_decay=0.9", "train.eval_every=0"];
/// Blocks of 512 bytes: more than the shared memory of an MPI needs, which is files too, and less than a checkpoint's.
const BLOCKS: usize = 10_000;

/// A program under a limit for the size of its files, in blocks of 512 bytes. A file over it gives an error.
fn limited(command: &mut Command, arguments: &[String]) {
    let script = format!("trap '' XFSZ; ulimit -f {BLOCKS}; exec \"$@\"");
    command.args(["-n", "1", "sh", "-c", &script, "sh", train()]).args(arguments);
}

/// Ranks of which `weak` has the limit.
fn start(place: &Place, mpi: Mpi, output: &str, weak: usize, arguments: &[String]) -> Ended {
    let mut command = mpi.command().unwrap();
    for rank in 0..4 {
        if rank > 0 {
            command.arg(":");
        }
        match rank == weak {
            true => limited(&mut command, arguments),
            false => drop(command.args(["-n", "1", train()]).args(arguments)),
        }
    }
    place.spawn(command, output).end()
}

fn one_rank(mpi: Mpi, weak: usize) {
    if mpi.find().is_none() {
        return;
    }
    let (_alone, place) = (alone(), Place::new());
    let sets = [SETS.as_slice(), &["model.hidden_size=192"]].concat();
    let arguments = place.arguments("run", 10, &sets);
    let ended = start(&place, mpi, "run", weak, &arguments);
    let Ended { code, said, .. } = &ended;
    assert_eq!(*code, Some(1), "{said}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("could not save step")).collect();
    assert!(!warnings.is_empty(), "{said}");
    for (step, count) in [(2, 1), (4, 2)] {
        let head = format!("could not save step {step} ({count} of 3 failures before giving up); training goes on: ");
        let mine: Vec<&&str> = warnings.iter().filter(|line| line.contains(&head)).collect();
        assert!(mine.iter().any(|line| line.contains(&format!("rank {weak}"))), "the rank, once each time: {said}");
        assert!(mine.iter().any(|line| line.contains(".safetensors")), "the file: {said}");
    }
    assert!(said.lines().any(|l| l.contains("error: ") && l.contains(&format!("rank {weak}"))), "{said}");
    assert!(!said.contains("gives up"), "no rank was lost: {said}");
    assert_eq!((checkpoints(&place.path("run")), metrics(&place.path("run")).len()), (vec![], 6), "{said}");
    // With room for its files the run goes through, and is the same.
    place.run(Some((mpi, 2)), "run", &[arguments, vec!["--resume".into()]].concat());
    place.run(None, "alone", &place.arguments("alone", 10, &sets));
    assert_same("after a full disk", &place.path("alone"), &place.path("run"));
}

#[test]
fn a_rank_that_cannot_write_its_files_under_mpich() {
    one_rank(Mpi::Mpich, 2);
}

#[test]
fn a_rank_that_cannot_write_its_files_under_open_mpi() {
    one_rank(Mpi::Open, 1);
}

/// A file system of `size` bytes, as long as this lives.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path, size: usize) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: a small tmpfs cannot be mounted here, which needs root");
        }
        mounted.then_some(Self(at))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// Takes all room below `folder`, again and again, until it is dropped.
struct Filler {
    path: PathBuf,
    go_on: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    fn start(folder: &Path) -> Self {
        let (path, go_on) = (folder.join("filler"), Arc::new(AtomicBool::new(true)));
        let (mut file, again) = (File::create(&path).unwrap(), Arc::clone(&go_on));
        let fill = move || {
            while again.load(Ordering::Relaxed) {
                if file.write_all(&[1; 1 << 12]).is_err() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        };
        Self { path, go_on, thread: Some(std::thread::spawn(fill)) }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.go_on.store(false, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn a_full_disk() {
    if Mpi::Mpich.find().is_none() {
        return;
    }
    let (_alone, place) = (alone(), Place::new());
    let output = place.path("run");
    let run = |steps: usize| place.arguments("run", steps, &SETS);
    {
        let Some(_small) = Small::mount(&output, 2_500_000) else { return };
        let Ended { code, said, .. } = place.start(Some((Mpi::Mpich, 4)), "run", &run(10)).end();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("needs") && said.contains("free there"), "no room for one checkpoint: {said}");
        assert!(metrics(&output).is_empty(), "{said}");
    }
    let Some(_small) = Small::mount(&output, 40_000_000) else { return };
    let mut started = place.start(Some((Mpi::Mpich, 4)), "run", &run(10_000));
    started.until(5);
    let filler = Filler::start(&output);
    let Ended { code, said, .. } = started.end();
    drop(filler);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("2 of 3 failures before giving up); the last checkpoint is untouched"), "{said}");
    let saved = *checkpoints(&output).last().unwrap() as usize;
    place.run(Some((Mpi::Mpich, 2)), "run", &[run(saved + 4), vec!["--resume".into()]].concat());
    place.run(None, "alone", &place.arguments("alone", saved + 4, &SETS));
    assert_same("after a full disk", &place.path("alone"), &output);
}
