//! Arguments, settings and devices: what is accepted, and how mistakes are named.

use std::process::Command;

use crate::World;

#[test]
fn wrong_arguments_and_settings_are_named() {
    let w = World::new();
    w.fails("train", &["--no-such-flag"], 2, &["--no-such-flag"]);
    w.fails("train", &["--set", "train.stepz=3"], 2, &["train.stepz", "train.steps"]);
    w.fails("train", &["--set", "train.steps=many"], 2, &["train.steps", "whole number"]);
    w.fails(
        "train",
        &w.training("x", &["--set", "train.micro_batch_size=3"]),
        2,
        &["train.micro_batch_size", "divide"],
    );
    w.fails("train", &w.training("x", &["--set", "train.sequence_length=65"]), 2, &["max_position_embeddings", "64"]);
    w.fails("train", &w.training("x", &["--set", "model.vocab_size=100"]), 2, &["model.vocab_size", "257"]);
    w.fails("train", &w.training("x", &["--set", "train.precision=fp6"]), 2, &["train.precision", "fp6"]);
    w.fails("train", &["--set", "train.steps=2", "--output", "x"], 2, &["data.path"]);
    w.fails("train", &["--config", "nowhere.toml"], 2, &["nowhere.toml"]);
    std::fs::write(w.root.join("bad.toml"), "[train]\nsteps = = 3\n").unwrap();
    w.fails("train", &["--config", "bad.toml"], 2, &["bad.toml", "2"]);
    w.fails("prep", &["--output", "y"], 2, &["--input"]);
    w.fails("prep", &["--input", "nothing-here", "--output", "y"], 1, &["nothing-here"]);
    w.fails("generate", &["--checkpoint", "run", "--top-p", "2"], 2, &["--top-p"]);
    w.fails("eval", &["--checkpoint", "run"], 2, &["--data", "--score"]);
    for program in ["prep", "train", "eval", "generate", "serve", "convert"] {
        let help = w.ok(program, &["--help"]);
        assert!(help.contains("Examples:") && help.contains("Options:"), "{help}");
    }
}

#[test]
fn devices_are_chosen_by_name() {
    let w = World::new();
    let names = ["auto, cpu, cuda", "cuda:emulated"];
    for name in ["tpu", "cuda:", "cuda:one", "cuda:-1", "gpu"] {
        w.fails("train", &w.training("x", &["--device", name]), 2, &[&["--device", name], &names[..]].concat());
    }
    let generate = ["--checkpoint", "run", "--prompt", "the ", "--max-new-tokens", "4", "--device"];
    let eval = ["--checkpoint", "run", "--data", "data", "--device"];
    // No machine has as many, and most that run this test have none.
    let far = "cuda:4096";
    w.fails("train", &w.training("x", &["--device", far]), 1, &[far]);
    w.fails("train", &["--device", far], 1, &[far]);
    w.fails("eval", &[&eval[..], &[far]].concat(), 1, &[far]);
    w.fails("generate", &[&generate[..], &[far]].concat(), 1, &[far]);
    assert!(!w.root.join("x").exists() && !w.root.join("runs").exists(), "the device is looked for first");

    let (code, _, said) = w.run("generate", &[&generate[..], &["auto"]].concat());
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("device: "), "auto says what it chose: {said}");
    let (code, _, said) = w.run("generate", &[&generate[..], &["cpu"]].concat());
    assert!(code == 0 && !said.contains("device: "), "{said}");
    let (code, _, said) = w.run("eval", &[&eval[..], &["cuda"]].concat());
    if code != 0 {
        assert!(code == 1 && said.contains("--device cuda: ") && said.contains("NVIDIA driver"), "{said}");
    }
}

#[test]
fn a_plan_is_of_the_data_that_is_named() {
    let w = World::new();
    let plan = |more: &[&str]| {
        let text = w.ok("train", &[&["--plan", "--json", "--device", "cpu"], more].concat());
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let (alone, with_data) = (plan(&["--set", "model.preset=tiny"]), plan(&["--set", "data.path=data"]));
    assert_eq!((&alone["vocab_size"], &with_data["vocab_size"]), (&4096.into(), &257.into()));
    assert_eq!(with_data["parameters_by_kind"]["embedding"], 257 * 128);
    assert_eq!(with_data["vocabulary_of"], "data");
    w.fails("train", &["--plan", "--set", "data.path=nowhere"], 1, &["nowhere"]);
    w.fails("train", &["--plan", "--set", "data.sources.a.path=nowhere"], 1, &["nowhere"]);
    let text = w.ok("train", &["--plan", "--device", "cpu", "--set", "data.path=data"]);
    if cfg!(target_os = "linux") {
        assert!(text.contains("\n  fits here: "), "{text}");
        assert_eq!(with_data["fits"], true);
        assert_eq!(plan(&["--set", "model.preset=v3-671b"])["fits"], false);
    }
}

#[test]
fn the_program_fathom_holds_every_command() {
    let w = World::new();
    let welcome = w.ok("fathom", &[]);
    let fathom = env!("CARGO_BIN_EXE_fathom");
    let called = format!("  {fathom} ");
    assert_eq!(welcome.lines().filter(|line| line.starts_with(&called)).count(), 5, "{welcome}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(w.ok("fathom", &["--version"]).trim(), format!("fathom {version}"));
    assert_eq!(w.ok("fathom", &["train", "-V"]).trim(), format!("fathom {version}"));
    for program in ["prep", "train", "eval", "generate", "serve", "convert"] {
        assert_eq!(w.ok(program, &["--version"]).trim(), format!("{program} (fathom) {version}"));
        let help = w.ok("fathom", &["help", program]);
        assert!(help.contains(&format!("Usage: {fathom} {program} ")), "{help}");
        for arguments in [&[program, "--help"][..], &[program, "-h"], &[program, "help"]] {
            assert_eq!(w.ok("fathom", arguments), help);
        }
        assert!(!help.contains("{{") && help.contains("-h, --help"), "{help}");
    }
    assert_eq!(w.ok("fathom", &["help", "prep", "inspect"]), w.ok("fathom", &["prep", "inspect", "--help"]));
    w.fails("fathom", &["trian"], 2, &["did you mean `train`?", "--help"]);
    w.fails("fathom", &["train", "--ouput", "x"], 2, &["did you mean --output?", &format!("{fathom} train --help")]);

    let arguments = ["--checkpoint", "run", "--data", "data", "--json"];
    assert_eq!(w.ok("fathom", &[&["eval"], &arguments[..]].concat()), w.ok("eval", &arguments));
    // Keys stand among the options, and are listed whole.
    for program in ["prep", "train"] {
        assert!(w.ok(program, &["--help"]).contains("  --keys "));
        assert_eq!(w.ok(program, &["--keys"]), w.ok("fathom", &[program, "--keys"]));
    }
    let keys = w.ok("train", &["--keys"]);
    for key in ["train.steps", "precision.fp8_dispatch", "schedule.lr", "model.FIELD"] {
        assert!(keys.contains(key), "{key}: {keys}");
    }
}

#[test]
fn arguments_may_be_written_as_elsewhere() {
    let w = World::new();
    let apart =
        w.ok("generate", &["--checkpoint", "run", "--prompt", "the ", "--max-new-tokens", "6", "--threads", "1"]);
    let joined = w.ok("generate", &["--checkpoint=run", "--prompt=the ", "--max-new-tokens=6", "--threads=1"]);
    assert_eq!(apart, joined);
    w.fails("generate", &["--checkpoint", "run", "--prompt"], 2, &["--prompt needs a value"]);
    w.fails("generate", &["--checkpoint", "run", "--ema=yes"], 2, &["--ema takes no value"]);
    w.fails("prep", &["--tokenizer", "bytes", "--vocab-size", "1000", "text.txt"], 2, &["--tokenizer", "--vocab-size"]);
    w.fails("prep", &["text.txt", "data"], 2, &["--output"]);

    // Text and data need no option.
    let said = w.run("fathom", &["prep", "text.txt", "--set=output.validation_tail=0.2"]).2;
    assert!(said.contains("data/text: prepared"), "{said}");
    let mut arguments: Vec<&str> = w.training("positional", &["data/text", "--threads=1"]);
    arguments.retain(|&argument| argument != "data.path=data");
    arguments.remove(2);
    w.ok("train", &arguments);
    let config = std::fs::read_to_string(w.root.join("positional/config.resolved.toml")).unwrap();
    assert!(config.contains("/data/text\"\n") && config.contains("threads = 1"), "{config}");
    w.fails("train", &w.training("x", &["data/text"]), 2, &["data/text", "data.path"]);
}

#[cfg(unix)]
#[test]
fn bytes_that_are_not_text_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let w = World::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_generate"));
    command.args(["--checkpoint", "run", "--prompt"]).arg(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    let output = command.current_dir(&w.root).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("--prompt") && said.contains("not UTF-8"), "{said}");
}
