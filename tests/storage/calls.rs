//! The system's own calls fail, under strace.

use std::path::Path;
use std::process::{Command, Output};

fn program(name: &str) -> &'static str {
    match name {
        "prep" => env!("CARGO_BIN_EXE_prep"),
        "train" => env!("CARGO_BIN_EXE_train"),
        "convert" => env!("CARGO_BIN_EXE_convert"),
        other => panic!("no program {other}"),
    }
}

/// Runs a program; with `inject`, under strace with that injection.
fn run(name: &str, arguments: &[&str], folder: &Path, inject: Option<&str>) -> Output {
    let mut command = match inject {
        None => Command::new(program(name)),
        Some(inject) => {
            let mut command = Command::new("strace");
            let calls = inject.split(':').next().unwrap_or_default();
            command.args(["-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={calls}"));
            command.args(["-e", &format!("inject={inject}")]).arg(program(name));
            command
        }
    };
    command.args(arguments).current_dir(folder).output().expect("it starts")
}

/// Whether strace can follow and disturb a program here.
fn strace_works(folder: &Path) -> bool {
    let done = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).current_dir(folder).output();
    done.is_ok_and(|done| done.status.success())
}

const TRAIN: &str = "--set data.path=data --set model.hidden_size=16 --set model.num_hidden_layers=2 \
    --set model.n_routed_experts=8 --set train.batch_size=2 --set train.sequence_length=16 --set train.eval_every=0 \
    --set train.tensorboard=false --set checkpoint.every_steps=1 --set train.steps=3 --resume --output run";

/// `tests/python/storage_faults.py` lets every call fail; here a few do.
#[test]
fn programs_name_failing_calls_and_go_on_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    if !strace_works(folder) {
        eprintln!("skipped: strace is not installed, or may not trace here");
        return;
    }
    std::fs::write(folder.join("text.txt"), "To be, or not to be, that is the question.\n".repeat(100)).unwrap();
    let prep: Vec<&str> = "--tokenizer bytes --input text.txt --output data".split(' ').collect();
    let train: Vec<&str> = TRAIN.split_whitespace().collect();
    let convert: Vec<&str> = "--checkpoint run --to bf16 --output bf16".split(' ').collect();
    for (name, arguments, injections) in [
        ("prep", &prep, ["fsync:error=EIO:when=2", "fsync:error=ENOSPC:when=4+", "rename:error=ENOSPC:when=1"]),
        ("train", &train, ["fsync:error=EIO:when=8+", "fsync:error=EIO:when=3", "rename:error=ENOSPC:when=1"]),
        ("convert", &convert, ["fsync:error=EIO:when=2", "fsync:error=ENOSPC:when=1+", "rename:error=EIO:when=1"]),
    ] {
        for inject in injections {
            let done = run(name, arguments, folder, Some(inject));
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(!done.status.success(), "{name}, {inject}: {said}");
            assert!(said.contains("os error") && !said.contains("panicked"), "{name}, {inject}: {said}");
        }
        let inject = "fsync,rename,write,mkdir,unlink:error=EINTR:when=1+3";
        let done = run(name, arguments, folder, Some(inject));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{name}: interrupted calls are made again: {said}");
    }
}
