//! A run that is killed and resumed equals the undisturbed run, bit for bit in weights, moments and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const STEPS: usize = 40;

fn program(name: &str) -> Command {
    Command::new(match name {
        "prep" => env!("CARGO_BIN_EXE_prep"),
        "train" => env!("CARGO_BIN_EXE_train"),
        other => panic!("no program {other}"),
    })
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A corpus of several documents, prepared.
fn prepare(folder: &Path) -> PathBuf {
    let text = folder.join("text");
    std::fs::create_dir(&text).unwrap();
    for i in 0..12u32 {
        let words: Vec<String> = (0..300u32).map(|j| format!("word{}", (i * 31 + j * j) % 97)).collect();
        std::fs::write(text.join(format!("{i}.txt")), words.join(" ")).unwrap();
    }
    let data = folder.join("data");
    let set = "output.validation_fraction=0.3";
    succeeds(
        program("prep").args(["--tokenizer", "bytes", "--set", set, "--input"]).arg(&text).arg("--output").arg(&data),
    );
    data
}

fn train(data: &Path, output: &Path, steps: usize, every: usize) -> Command {
    let mut command = program("train");
    for set in [
        format!("data.path={}", data.display()),
        format!("train.steps={steps}"),
        format!("checkpoint.every_steps={every}"),
        "schedule.decay_tokens=100000".into(),
        "schedule.decay=cosine".into(),
        "model.hidden_size=32".into(),
        "model.num_hidden_layers=2".into(),
        "model.n_routed_experts=8".into(),
        "train.batch_size=4".into(),
        "train.micro_batch_size=2".into(),
        "train.sequence_length=48".into(),
        "train.ema_decay=0.9".into(),
        "train.eval_every=7".into(),
        "train.eval_tokens=500".into(),
    ] {
        command.arg("--set").arg(set);
    }
    command.arg("--output").arg(output).stderr(Stdio::piped());
    command
}

/// Everything that must be equal: the checkpoint's files, and the metrics without times.
fn result(output: &Path) -> (BTreeMap<String, Vec<u8>>, Vec<serde_json::Value>) {
    let folder = output.join(format!("step-{STEPS:08}"));
    let mut files = BTreeMap::new();
    for name in [
        "model.safetensors",
        "trainer/ema.safetensors",
        "trainer/m.safetensors",
        "trainer/v.safetensors",
        "config.json",
    ] {
        files.insert(name.to_string(), std::fs::read(folder.join(name)).unwrap());
    }
    (files, metrics(output))
}

fn metrics(output: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap_or_default();
    let complete = text.lines().filter(|line| line.ends_with('}'));
    complete
        .map(|line| {
            let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
            let object = value.as_object_mut().unwrap();
            object.remove("seconds");
            object.remove("tokens_per_second");
            value
        })
        .collect()
}

fn assert_same(what: &str, a: &Path, b: &Path) {
    let ((files, steps), (other_files, other_steps)) = (result(a), result(b));
    assert_eq!(steps.len(), STEPS, "{what}");
    for (step, other) in steps.iter().zip(&other_steps) {
        assert_eq!(step, other, "{what}: metrics");
    }
    assert_eq!(other_steps.len(), STEPS, "{what}");
    for (name, bytes) in files {
        assert!(bytes == other_files[&name], "{what}: {name} differs");
    }
}

/// Two sources with different texts, drawn three to one.
fn mix(folder: &Path) -> Vec<String> {
    let mut sets = vec!["data.packing=best_fit".to_string()];
    for (name, weight) in [("first", 3), ("second", 1)] {
        let place = folder.join(name);
        std::fs::create_dir(&place).unwrap();
        let data = prepare(&place);
        sets.push(format!("data.sources.{name}.path={}", data.display()));
        sets.push(format!("data.sources.{name}.weight={weight}"));
    }
    sets
}

#[test]
fn a_mix_of_sources_goes_on_where_it_was_and_tells_their_losses_apart() {
    let folder = tempfile::tempdir().unwrap();
    let sets = mix(folder.path());
    let run = |output: &Path, steps: usize| {
        let mut command = train(Path::new("-"), output, steps, 0);
        let arguments: Vec<_> = command.get_args().map(|a| a.to_os_string()).collect();
        command = program("train");
        // `data.path=-` goes, with the `--set` before it.
        let path = arguments.iter().position(|a| a == "data.path=-").unwrap();
        command.args(arguments[..path - 1].iter().chain(&arguments[path + 1..]));
        sets.iter().for_each(|set| {
            command.arg("--set").arg(set);
        });
        command.stderr(Stdio::piped());
        command
    };
    let (whole, halves) = (folder.path().join("whole"), folder.path().join("halves"));
    let said = succeeds(&mut run(&whole, STEPS));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("packed first: ") && said.contains("packed second: "), "{said}");
    succeeds(&mut run(&halves, STEPS / 2));
    succeeds(run(&halves, STEPS).arg("--resume"));
    assert_same("20 steps and 20 more of a mix", &whole, &halves);
    for step in metrics(&whole) {
        // Four sequences a step: three of the first source and one of the second.
        let loss = |source: &str| step["loss_by_source"][source].as_f64().unwrap();
        let mean = (3.0 * loss("first") + loss("second")) / 4.0;
        assert!((mean - step["loss"].as_f64().unwrap()).abs() < 1e-5, "{step}");
    }
    let other = run(&whole, STEPS).args(["--resume", "--set", "data.sources.second.weight=2"]).output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("data.sources.second.weight"));
    let short = run(&folder.path().join("short"), STEPS)
        .args(["--set", "data.sources.first.epochs=0.1", "--set", "data.sources.second.epochs=0.1"])
        .output()
        .unwrap();
    assert_eq!(short.status.code(), Some(1));
    let said = String::from_utf8_lossy(&short.stderr);
    assert!(said.contains("160 sequences") && said.contains("epochs"), "{said}");
}

/// Steps of the checkpoints in a run's folder.
fn steps(output: &Path) -> BTreeSet<u64> {
    let names = std::fs::read_dir(output).unwrap().map(|entry| entry.unwrap().file_name());
    let step = |name: std::ffi::OsString| name.to_str()?.strip_prefix("step-")?.parse::<u64>().ok();
    names.filter_map(step).collect()
}

/// Steps and values of the validation losses of a run.
fn measured(output: &Path) -> Vec<(u64, f64)> {
    let loss = |row: &serde_json::Value| Some((row["step"].as_u64()?, row["validation_loss"].as_f64()?));
    metrics(output).iter().filter_map(loss).collect()
}

fn wait_for_step(child: &mut Child, output: &Path, step: usize) {
    let start = Instant::now();
    while metrics(output).len() < step {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself before step {step}");
        assert!(start.elapsed() < Duration::from_secs(120), "the run does not get to step {step}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn stopping_and_going_on_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = prepare(folder.path());
    let whole = folder.path().join("whole");
    succeeds(&mut train(&data, &whole, STEPS, 0));

    let halves = folder.path().join("halves");
    succeeds(&mut train(&data, &halves, STEPS / 2, 0));
    succeeds(train(&data, &halves, STEPS, 0).arg("--resume"));
    assert_same("20 steps and 20 more", &whole, &halves);

    // Killed without warning at three moments, two of them past the last checkpoint.
    let killed = folder.path().join("killed");
    for step in [9, 17, 33] {
        let mut command = train(&data, &killed, STEPS, 8);
        let mut child = command.arg("--resume").spawn().unwrap();
        wait_for_step(&mut child, &killed, step);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    succeeds(train(&data, &killed, STEPS, 8).arg("--resume"));
    assert_same("killed three times", &whole, &killed);

    // A run neither overwrites another nor resumes with other settings.
    let refused = train(&data, &whole, STEPS, 0).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--resume"));
    let refused = train(&data, &whole, STEPS, 0).args(["--resume", "--set", "schedule.lr=0.1"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("schedule.lr"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_and_saves() {
    let folder = tempfile::tempdir().unwrap();
    let data = prepare(folder.path());
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    succeeds(&mut train(&data, &whole, STEPS, 0));

    let mut child = train(&data, &stopped, STEPS, 0).spawn().unwrap();
    wait_for_step(&mut child, &stopped, 5);
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(metrics(&stopped).len() < STEPS, "it stopped early");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--resume"));
    succeeds(train(&data, &stopped, STEPS, 0).arg("--resume"));
    assert_same("stopped by Ctrl-C", &whole, &stopped);
}

#[test]
fn the_best_checkpoint_is_kept_through_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let data = prepare(folder.path());
    let sets = ["checkpoint.keep=1", "checkpoint.keep_best=always", "checkpoint.keep_every=15", "schedule.lr=0.03"];
    let run = |output: &Path, steps: usize| {
        let mut command = train(&data, output, steps, 9);
        for set in sets {
            command.arg("--set").arg(set);
        }
        command
    };
    let (whole, halves) = (folder.path().join("whole"), folder.path().join("halves"));
    let said = succeeds(&mut run(&whole, STEPS)).stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    let losses = measured(&whole);
    assert_eq!(losses.len(), 5, "every seventh of forty steps");
    let (best, loss) = *losses.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let end = format!("best checkpoint: {}/step-{best:08}, validation loss {loss:.4}\n", whole.display());
    assert!(said.contains(&end), "{end}\n{said}");
    let page = std::fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(page.contains(&format!("complete; the best: validation loss {loss:.4}")) && page.contains("\"ring\":["));
    assert!(said.contains("(best "), "the progress line names it: {said}");
    let expected = [best, 15, 30, STEPS as u64].into_iter().collect();
    assert_eq!(steps(&whole), expected);

    // Stopped at a step that is not the best, and gone on.
    succeeds(&mut run(&halves, STEPS / 2));
    succeeds(run(&halves, STEPS).arg("--resume"));
    assert_eq!((measured(&halves), steps(&halves)), (losses, expected));
    assert_same("the best kept, 20 steps and 20 more", &whole, &halves);
    let refused = run(&folder.path().join("x"), 3).args(["--set", "train.eval_every=0"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("checkpoint.keep_best"));
}

#[test]
fn rotation_spares_the_best_checkpoint_and_writes_none_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = prepare(folder.path());
    // The learning rate makes the loss rise again after a while.
    let run = |output: &Path, count: usize, more: &[&str]| {
        let mut command = train(&data, output, count, 5);
        for set in ["checkpoint.keep=1", "schedule.lr=0.03"].iter().chain(more) {
            command.arg("--set").arg(set);
        }
        command
    };
    let (whole, halves) = (folder.path().join("whole"), folder.path().join("halves"));
    let said = String::from_utf8(succeeds(&mut run(&whole, STEPS, &[])).stderr).unwrap();
    // A checkpoint every fifth step, a loss every seventh: the loss of checkpoint 10 is that of step 7.
    let losses = measured(&whole);
    let of = |(step, loss): &(u64, f64)| (step.div_ceil(5) * 5, *step, *loss);
    let (best, at, loss) = losses.iter().map(of).min_by(|a, b| a.2.total_cmp(&b.2)).unwrap();
    assert!(best < STEPS as u64, "the last one would be kept anyway: {losses:?}");
    let measured_at = if at == best { String::new() } else { format!(", measured at step {at}") };
    let end = format!("best checkpoint: {}/step-{best:08}, validation loss {loss:.4}{measured_at}\n", whole.display());
    assert!(said.contains(&end), "{end}\n{said}");
    let expected: BTreeSet<u64> = [best, STEPS as u64].into();
    assert_eq!(steps(&whole), expected);

    // Stopped at a checkpoint that is not the best, and gone on.
    let half = (best as usize + 5).min(STEPS - 5);
    succeeds(&mut run(&halves, half, &[]));
    assert_eq!(steps(&halves), [best, half as u64].into());
    let resumed = succeeds(run(&halves, STEPS, &[]).arg("--resume"));
    let end = end.replace("whole", "halves");
    assert!(String::from_utf8_lossy(&resumed.stderr).contains(&end), "{end}");
    assert_eq!((measured(&halves), steps(&halves)), (losses, expected));
    assert_same("the best kept, stopped and gone on", &whole, &halves);

    // `false` is `none`: the best goes like any other.
    let none = folder.path().join("none");
    let said = String::from_utf8(succeeds(&mut run(&none, STEPS, &["checkpoint.keep_best=false"])).stderr).unwrap();
    assert_eq!(steps(&none), [STEPS as u64].into());
    assert!(said.contains(&format!("lowest validation loss: {loss:.4} at step {at} (no checkpoint there")), "{said}");
    // Without validation losses there is no best one, and nothing is refused.
    let blind = folder.path().join("blind");
    let said = String::from_utf8(succeeds(&mut run(&blind, 6, &["train.eval_every=0"])).stderr).unwrap();
    assert_eq!(steps(&blind), [6].into());
    assert!(!said.contains("best checkpoint"), "{said}");
}

/// The files of a checkpoint but its manifest; of its state all but the seconds, which no two runs share.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            if path.ends_with("trainer/state.json") {
                let mut state: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                state.as_object_mut().unwrap().remove("seconds").expect("a state has seconds");
                bytes = state.to_string().into_bytes();
            }
            if !path.ends_with("manifest.json") {
                found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), bytes);
            }
        }
    }
    found
}

/// `train` with checkpoints in the background, every third of them kept.
fn in_the_background(data: &Path, output: &Path, every: usize) -> Command {
    let mut command = train(data, output, STEPS, every);
    for set in ["checkpoint.async=true", "checkpoint.format=bf16", "checkpoint.keep_every=3"] {
        command.arg("--set").arg(set);
    }
    command
}

#[test]
fn checkpoints_in_the_background_are_those_that_training_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let data = prepare(folder.path());
    let [waiting, behind, killed] = ["waiting", "behind", "killed"].map(|name| folder.path().join(name));
    succeeds(in_the_background(&data, &waiting, 3).args(["--set", "checkpoint.async=false"]));
    succeeds(&mut in_the_background(&data, &behind, 3));
    let expected: BTreeSet<u64> = (3..STEPS as u64).step_by(3).chain([STEPS as u64]).collect();
    assert_eq!((steps(&waiting), steps(&behind)), (expected.clone(), expected.clone()));
    for step in expected {
        let of = |run: &Path| files(&run.join(format!("step-{step:08}")));
        let (waiting, behind) = (of(&waiting), of(&behind));
        assert_eq!(waiting.keys().collect::<Vec<_>>(), behind.keys().collect::<Vec<_>>());
        assert!(waiting.len() > 6);
        for (name, bytes) in waiting {
            assert!(bytes == behind[&name], "step {step}: {}", name.display());
        }
    }
    assert_same("in the background", &waiting, &behind);

    // Killed without warning, perhaps in the middle of one: the newest that is complete is one to go on from.
    for step in [4, 10, 19, 31] {
        let mut child = in_the_background(&data, &killed, 1).arg("--resume").spawn().unwrap();
        wait_for_step(&mut child, &killed, step);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    succeeds(in_the_background(&data, &killed, 3).arg("--resume"));
    assert_same("killed while a checkpoint was written", &waiting, &killed);
}

/// A file over the limit cannot be written: the failure of a checkpoint in the background is that of any other.
#[cfg(unix)]
#[test]
fn checkpoints_in_the_background_that_fail_end_the_run_at_the_third() {
    let folder = tempfile::tempdir().unwrap();
    let (data, output) = (prepare(folder.path()), folder.path().join("run"));
    let plain = in_the_background(&data, &output, 2);
    let mut limited = Command::new("sh");
    // 100 blocks of 512 bytes.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh"]).arg(plain.get_program());
    let ended = limited.args(plain.get_args()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    // Every second step, and every third, which is kept.
    for (step, count) in [(2, 1), (3, 2)] {
        let warning =
            format!("could not save step {step} ({count} of 3 failures before giving up); training goes on: ");
        assert_eq!(said.matches(&warning).count(), 1, "{said}");
    }
    assert!(said.contains("error: ") && said.contains(".safetensors"), "{said}");
    assert!(steps(&output).is_empty());
    let left = std::fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A task of `items` questions with three short answers each, and the settings that measure it.
fn task(folder: &Path, items: usize, every: usize) -> Vec<String> {
    let source = "name = 'sums'\nkind = 'choice'\ndata = ['sums.jsonl']\nprompt = 'word{{ a }} word{{ b }}'\n\
                  choices = 'answers'\ntarget = '{{ right }}'\nmetrics = ['acc', 'acc_norm']\n";
    std::fs::write(folder.join("sums.toml"), source).unwrap();
    let line = |i: usize| {
        let (a, b) = (i * 7 % 97, i * 31 % 89);
        let answers = [a + b, a, b].map(|n| format!("word{n}"));
        serde_json::json!({"a": a, "b": b, "answers": answers, "right": i % 3}).to_string() + "\n"
    };
    std::fs::write(folder.join("sums.jsonl"), (0..items).map(line).collect::<String>()).unwrap();
    let folder = folder.display();
    let sets = [format!("eval.tasks={folder}/sums.toml"), format!("eval.task_data={folder}")];
    sets.into_iter().chain([format!("eval.every_steps={every}")]).collect()
}

/// Steps and scores of the benchmark tasks of a run.
fn scores(output: &Path) -> Vec<(u64, serde_json::Value)> {
    let score = |row: &serde_json::Value| Some((row["step"].as_u64()?, row.get("tasks")?.clone()));
    metrics(output).iter().filter_map(score).collect()
}

#[test]
fn benchmark_tasks_change_nothing_and_come_back_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = prepare(folder.path());
    let sets = task(folder.path(), 30, 15);
    let run = |output: &Path, precision: &str, sets: &[String]| {
        let mut command = train(&data, output, STEPS, 8);
        command.args(["--set", &format!("train.precision={precision}")]);
        for set in sets {
            command.args(["--set", set]);
        }
        command
    };
    for precision in ["f32", "fp8"] {
        let (plain, with) = (folder.path().join(format!("plain-{precision}")), folder.path().join(precision));
        succeeds(&mut run(&plain, precision, &[]));
        let said = succeeds(&mut run(&with, precision, &sets)).stderr;
        let said = String::from_utf8_lossy(&said).into_owned();
        let found = scores(&with);
        assert_eq!(found.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [15, 30, 40], "and at the end");
        for (step, tasks) in &found {
            let score = |key: &str| tasks["sums"][key].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&score("acc,none")) && score("acc_stderr,none") > 0.0, "{tasks}");
            let (acc, error) = (score("acc,none"), score("acc_stderr,none"));
            let line = format!("tasks after step {step} (");
            let line = said.lines().find(|said| said.starts_with(&line)).unwrap_or_else(|| panic!("{said}"));
            assert!(line.contains(&format!("sums acc {acc:.4} ± {error:.4}, acc_norm ")), "{line}");
        }
        let page = std::fs::read_to_string(with.join("report.html")).unwrap();
        assert!(page.contains("Task scores") && page.contains("sums acc_norm"));
        // The same bits in weights, moments and metrics as without.
        let (files, mut rows) = result(&with);
        rows.iter_mut().for_each(|row| drop(row.as_object_mut().unwrap().remove("tasks")));
        assert!((files, rows) == result(&plain), "{precision}: tasks changed the training");
    }
    // Killed without warning, and stopped at a step whose tasks are due.
    let (whole, killed) = (folder.path().join("f32"), folder.path().join("killed"));
    for step in [10, 20, 32] {
        let mut child = run(&killed, "f32", &sets).arg("--resume").spawn().unwrap();
        wait_for_step(&mut child, &killed, step);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    succeeds(run(&killed, "f32", &sets).arg("--resume"));
    assert_same("killed three times, with tasks", &whole, &killed);
    assert_eq!(scores(&whole), scores(&killed));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_tasks_soon_and_a_resumed_run_measures_them() {
    let folder = tempfile::tempdir().unwrap();
    let data = prepare(folder.path());
    let sets = task(folder.path(), 1500, 5);
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    let run = |output: &Path| {
        let mut command = train(&data, output, 10, 0);
        for set in &sets {
            command.args(["--set", set]);
        }
        command
    };
    succeeds(&mut run(&whole));
    let mut child = run(&stopped).spawn().unwrap();
    wait_for_step(&mut child, &stopped, 4);
    // The fifth step takes milliseconds, its tasks seconds.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(metrics(&stopped).len(), 4, "the tasks after step 5 are being measured");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!((metrics(&stopped).len(), steps(&stopped)), (5, [5].into()), "the step is kept: {said}");
    assert!(scores(&stopped).is_empty() && said.contains("--resume"), "{said}");
    succeeds(run(&stopped).arg("--resume"));
    assert_eq!(metrics(&stopped), metrics(&whole));
    assert_eq!(scores(&stopped).iter().map(|(step, _)| *step).collect::<Vec<_>>(), [5, 10]);
    // Every step is once in the events for TensorBoard, and so are the scores.
    let names = std::fs::read_dir(&stopped).unwrap().map(|entry| entry.unwrap().path());
    let events: Vec<PathBuf> = names.filter(|path| path.display().to_string().contains("tfevents")).collect();
    assert_eq!(events.len(), 1, "{events:?}");
    let bytes = std::fs::read(&events[0]).unwrap();
    let count = |tag: &[u8]| bytes.windows(tag.len()).filter(|window| *window == tag).count();
    assert_eq!((count(b"loss/train"), count(b"tasks/sums/acc\x15"), count(b"tasks/sums/acc_norm\x15")), (10, 2, 2));
}
