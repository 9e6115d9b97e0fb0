//! The programs answer bad input with an exit code, the place and the remedy, and their output is stable for scripts.

mod arguments;
mod doctor;
mod files;
mod folders;
mod formats;
mod generate;
mod measure;
mod report;
mod shell;
mod tasks;
mod watching;

use std::path::PathBuf;
use std::process::Command;

struct World {
    _folder: tempfile::TempDir,
    root: PathBuf,
}

impl World {
    /// A prepared corpus and a tiny trained model.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        std::fs::write(root.join("text.txt"), "the quick brown fox jumps over the lazy dog. ".repeat(120)).unwrap();
        let world = Self { _folder: folder, root };
        world.ok(
            "prep",
            &["--tokenizer", "bytes", "--input", "text.txt", "--output", "data", "--set", "output.validation_tail=0.2"],
        );
        world.ok("train", &world.training("run", &[]));
        world
    }

    fn training<'a>(&self, output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut arguments = vec!["--output", output];
        for set in [
            "data.path=data",
            "model.hidden_size=32",
            "model.num_hidden_layers=2",
            "model.n_routed_experts=8",
            "model.max_position_embeddings=64",
            "train.batch_size=4",
            "train.sequence_length=32",
            "train.steps=2",
        ] {
            arguments.extend(["--set", set]);
        }
        arguments.extend(more);
        arguments
    }

    fn run(&self, program: &str, arguments: &[&str]) -> (i32, String, String) {
        let path = match program {
            "prep" => env!("CARGO_BIN_EXE_prep"),
            "train" => env!("CARGO_BIN_EXE_train"),
            "eval" => env!("CARGO_BIN_EXE_eval"),
            "convert" => env!("CARGO_BIN_EXE_convert"),
            "serve" => env!("CARGO_BIN_EXE_serve"),
            "fathom" => env!("CARGO_BIN_EXE_fathom"),
            _ => env!("CARGO_BIN_EXE_generate"),
        };
        let mut command = Command::new(path);
        // Under cargo, programs name each other as `cargo run`.
        command.args(arguments).current_dir(&self.root).env_remove("CARGO");
        let output = command.output().expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().expect("no signal ends a program on bad input");
        (code, text(&output.stdout), text(&output.stderr))
    }

    fn ok(&self, program: &str, arguments: &[&str]) -> String {
        let (code, out, err) = self.run(program, arguments);
        assert_eq!(code, 0, "{program} {arguments:?}\n{err}");
        out
    }

    /// The program must fail with `code` and say all of `words`, without panicking.
    fn fails(&self, program: &str, arguments: &[&str], code: i32, words: &[&str]) {
        let (found, _, err) = self.run(program, arguments);
        assert_eq!(found, code, "{program} {arguments:?}\n{err}");
        assert!(!err.contains("panicked"), "{err}");
        for word in words {
            assert!(err.contains(word), "{program} {arguments:?}\nshould say {word:?}:\n{err}");
        }
    }

    /// Runs `check` while the file holds what `change` makes of it.
    fn damaged(&self, file: &str, change: impl Fn(&mut Vec<u8>), check: impl Fn()) {
        let path = self.root.join(file);
        let good = std::fs::read(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
        let mut bad = good.clone();
        change(&mut bad);
        std::fs::write(&path, bad).unwrap();
        check();
        std::fs::write(&path, good).unwrap();
    }
}
