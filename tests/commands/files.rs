//! Runs and checkpoints that are missing, damaged or finished.

use std::process::Command;

use crate::World;

#[test]
fn damaged_files_are_named() {
    let w = World::new();
    let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 0x40;
    let train = || w.training("again", &[]);
    for (file, name) in
        [("data/train-00000.bin", ".bin"), ("data/train-00000.idx", ".idx"), ("data/manifest.json", "manifest.json")]
    {
        w.damaged(file, half, || w.fails("train", &train(), 1, &[name]));
    }
    w.damaged("data/train-00000.idx", flip(2), || w.fails("train", &train(), 1, &[".idx"]));
    w.damaged("data/tokenizer.json", half, || w.fails("train", &train(), 1, &["tokenizer.json"]));

    let step = "run/step-00000002";
    let eval = ["--checkpoint", "run/step-00000002", "--data", "data"];
    w.damaged(&format!("{step}/model.safetensors"), half, || w.fails("eval", &eval, 1, &["model.safetensors"]));
    w.damaged(&format!("{step}/model.safetensors"), flip(3), || w.fails("eval", &eval, 1, &["model.safetensors"]));
    w.damaged(&format!("{step}/config.json"), half, || w.fails("eval", &eval, 1, &["config.json"]));
    w.damaged(&format!("{step}/tokenizer.json"), half, || w.fails("eval", &eval, 1, &["tokenizer.json"]));
    let wrong = |bytes: &mut Vec<u8>| {
        *bytes = String::from_utf8_lossy(bytes).replace("\"hidden_size\": 32", "\"hidden_size\": 48").into_bytes();
    };
    w.damaged(&format!("{step}/config.json"), wrong, || w.fails("eval", &eval, 1, &["shape"]));

    let resume = w.training("run", &["--resume", "--set", "train.steps=4"]);
    for file in ["trainer/m.safetensors", "trainer/state.json", "model.safetensors"] {
        w.damaged(&format!("{step}/{file}"), flip(20), || w.fails("train", &resume, 1, &["step-00000002"]));
    }
    w.fails("generate", &["--checkpoint", "data"], 1, &["config.json"]);
    w.ok("train", &resume);
}

#[test]
fn a_result_names_its_checkpoint_and_a_damaged_one_is_not_replaced_in_silence() {
    let w = World::new();
    let more = ["--set", "train.steps=4", "--set", "checkpoint.every_steps=2", "--set", "schedule.lr=0.01"];
    w.ok("train", &w.training("k", &more));
    let data = ["--data", "data"];
    let (newest, _) = w.eval(&[&["--checkpoint", "k"], &data[..]].concat());
    assert_eq!(newest["checkpoint"], "k/step-00000004");
    assert_eq!(newest.get("passed_over"), None);
    let older = w.eval(&[&["--checkpoint", "k/step-00000002"], &data[..]].concat()).0;
    assert_ne!(newest["loss"], older["loss"]);

    let weights = "k/step-00000004/model.safetensors";
    w.damaged(
        weights,
        |bytes| bytes.truncate(1000),
        || {
            let note = "passing over k/step-00000004: k/step-00000004/model.safetensors: has 1000 bytes";
            let (result, said) = w.eval(&[&["--checkpoint", "k"], &data[..]].concat());
            assert_eq!((&result["checkpoint"], &result["loss"]), (&older["checkpoint"], &older["loss"]));
            assert!(result["passed_over"][0].as_str().unwrap().starts_with(note) && said.contains(note), "{said}");
            let (code, _, said) = w.run("generate", &["--checkpoint", "k", "--max-new-tokens", "1"]);
            assert!(code == 0 && said.contains(note) && said.contains("checkpoint: k/step-00000002"), "{said}");
            let (code, _, said) = w.run("convert", &["--checkpoint", "k", "--output", "from-k", "--to", "bf16"]);
            assert!(code == 0 && said.contains(note) && said.contains("checkpoint: k/step-00000002"), "{said}");
            // A step that is named is that step or an error.
            for program in ["eval", "generate", "convert"] {
                let more: &[&str] = match program {
                    "eval" => &data,
                    "convert" => &["--output", "x", "--to", "f32"],
                    _ => &[],
                };
                let arguments = [&["--checkpoint", "k/step-00000004"], more].concat();
                w.fails(program, &arguments, 1, &["model.safetensors: has 1000 bytes"]);
            }
            w.fails("train", &w.training("x", &["--set", "train.init=k/step-00000004"]), 2, &["has 1000 bytes"]);
        },
    );
    // The same size and other bytes.
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 0x40;
    w.damaged(weights, flip, || {
        for checkpoint in ["k", "k/step-00000004"] {
            let words = ["k/step-00000004/model.safetensors: has SHA-256"];
            w.fails("eval", &[&["--checkpoint", checkpoint], &data[..]].concat(), 1, &words);
            w.fails("generate", &["--checkpoint", checkpoint], 1, &words);
            w.fails("convert", &["--checkpoint", checkpoint, "--output", "x", "--to", "f32"], 1, &words);
        }
    });
}

#[test]
fn a_run_that_is_not_there_or_is_finished_says_so() {
    let w = World::new();
    w.fails("train", &["--resume", "--output", "none"], 1, &["none holds no complete checkpoint"]);
    assert!(!w.root.join("none").exists());
    let (code, _, said) = w.run("train", &w.training("run", &["--resume", "--set", "train.steps=1"]));
    assert!(code == 0 && said.contains("2 steps are done and the settings ask for 1: nothing to train"), "{said}");
    // From another folder, with the data where it was.
    let elsewhere = w.root.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let mut train = Command::new(env!("CARGO_BIN_EXE_train"));
    train.args(["--resume", "--output", "../run", "--set", "train.steps=3"]).current_dir(&elsewhere);
    let output = train.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let diverging = ["--set", "schedule.lr=1e30", "--set", "train.steps=9"];
    w.fails("train", &w.training("nan", &diverging), 1, &["no checkpoint was written yet"]);
}
