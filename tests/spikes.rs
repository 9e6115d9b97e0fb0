//! Runs skip, take back or stop at a loss spike or a number that is not finite, as `train.spike` says.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use fathom::checkpoint::State;
use fathom::error::{Error, Result};
use fathom::run::metrics::{self, StepMetrics};
use fathom::run::spike::{Action, Cause};
use fathom::run::{Observed, Outcome, Run};
use fathom::settings::Settings;
use fathom_conformance::ranks;
use fathom_core::comm::{Comm, Solo};
use fathom_core::device::{Corruption, Fault};
use fathom_cpu::Cpu;
use fathom_dataprep::pipeline::{self, PrepConfig, Silent};

type Device = Fault<Cpu>;

const MODEL: &str = r#"
[model]
preset = "tiny"
hidden_size = 32
intermediate_size = 48
moe_intermediate_size = 16
num_hidden_layers = 2
num_attention_heads = 2
q_lora_rank = 24
kv_lora_rank = 16
qk_nope_head_dim = 16
qk_rope_head_dim = 8
v_head_dim = 16
[train]
batch_size = 4
micro_batch_size = 2
sequence_length = 24
eval_every = 0
tensorboard = false
[checkpoint]
every_steps = 10
"#;

fn prepared(folder: &Path) -> PathBuf {
    let (text, shards) = (folder.join("text.txt"), folder.join("shards"));
    let line = |i: usize| format!("{} is the {}th number of {}.\n", i * i % 977, i, i * 31 % 89);
    fs::write(&text, (0..3000).map(line).collect::<String>()).unwrap();
    let mut config = PrepConfig::default();
    config.input.paths = vec![text];
    config.output.dir = shards.clone();
    pipeline::run(&config, &mut Silent).unwrap();
    shards
}

/// Trains in `folder/name`, alone or as one rank, from its newest checkpoint on.
fn train<C: Comm<Device>>(device: &Device, comm: C, folder: &Path, name: &str, sets: &[&str]) -> Result<Outcome> {
    let config = folder.join(format!("{name}-{}.toml", comm.rank()));
    fs::write(&config, MODEL).unwrap();
    let data = format!("data.path={}", folder.join("shards").display());
    let sets: Vec<String> = sets.iter().map(ToString::to_string).chain([data]).collect();
    let settings = Settings::load(Some(&config), &sets)?;
    let mut run = Run::open_with(device, comm, Observed::default(), settings, &folder.join(name), true)?;
    run.train(&AtomicBool::new(false), &mut ())
}

fn calm() -> Device {
    Fault::calm(Cpu::with_threads(1))
}

/// The lines of a run without what depends on the clock.
fn lines(folder: &Path, name: &str) -> Vec<StepMetrics> {
    let timeless = |m: StepMetrics| StepMetrics { seconds: 0.0, tokens_per_second: 0.0, ..m };
    let without_ranks = |m: StepMetrics| StepMetrics { comm_seconds: None, comm_bytes: None, ..m };
    metrics::read(&folder.join(name)).unwrap().into_iter().map(timeless).map(without_ranks).collect()
}

fn steps(lines: &[StepMetrics]) -> Vec<u64> {
    lines.iter().map(|line| line.step).collect()
}

/// The lines as text: values that are not finite are equal there.
fn text(lines: &[StepMetrics]) -> String {
    serde_json::to_string_pretty(lines).unwrap()
}

/// So low a threshold that many ordinary steps are above it.
const OFTEN: [&str; 4] =
    ["train.spike_threshold=0.5", "train.spike_window=8", "train.spike_limit=1000", "train.steps=40"];

#[test]
fn skipped_steps_have_the_same_bits_after_a_resume_and_on_two_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder);
    let sets = [&OFTEN[..], &["train.spike=skip"]].concat();
    train(&calm(), Solo, folder, "whole", &sets).unwrap();
    let whole = lines(folder, "whole");
    assert_eq!(steps(&whole), (1..=40).collect::<Vec<_>>());
    let skipped: Vec<u64> = whole.iter().flat_map(|line| &line.spikes).map(|spike| spike.step).collect();
    assert!(skipped.len() >= 3 && skipped.len() < 30, "{skipped:?}");
    let newest = |name: &str| State::read(&folder.join(name).join("step-00000040")).unwrap();
    assert_eq!(newest("whole").optimizer_step, 40 - skipped.len() as u64);
    for line in &whole {
        for spike in &line.spikes {
            assert_eq!((spike.step, spike.action, spike.back_to), (line.step, Action::Skip, None));
            assert!(spike.value > spike.limit && spike.cause != Cause::NonFinite, "{spike:?}");
        }
    }

    // Sessions that end in the middle of windows.
    for stop in [13, 20, 29, 40] {
        let steps = format!("train.steps={stop}");
        train(&calm(), Solo, folder, "pieces", &[&sets[..], &[&steps]].concat()).unwrap();
    }
    let pieces = lines(folder, "pieces");
    // The schedule of a shorter run is another, unless it is constant: it is by default.
    assert_eq!(text(&pieces), text(&whole));
    assert_eq!(newest("pieces").spikes, newest("whole").spikes);

    let done = ranks::run(2, |comm| train(&calm(), comm, folder, "ranks", &sets).map(drop).map_err(|e| e.to_string()));
    assert_eq!(done, [Ok(()), Ok(())]);
    assert_eq!(text(&lines(folder, "ranks")), text(&whole));
    assert_eq!(newest("ranks").spikes, newest("whole").spikes);
}

/// Lets a number of step `at` become NaN: the CPU driver scores the main model's loss once a micro-batch and depth.
fn with_nan(step: u64) -> Device {
    let device = calm();
    let per_step = 2 * 2;
    let call = (step - 1) * per_step;
    device.corrupt(Corruption { kernel: "cross_entropy", call, result: 1, element: 5, value: f64::NAN });
    device
}

#[test]
fn a_number_that_is_not_finite_is_skipped_rolled_back_or_the_end_as_the_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder);
    let steps_of = |n: u64| (1..=n).collect::<Vec<_>>();

    let error = train(&with_nan(15), Solo, folder, "off", &["train.steps=30"]).unwrap_err();
    assert!(error.to_string().contains("training step 15") && error.exit_code() == 1, "{error}");

    let outcome = train(&with_nan(15), Solo, folder, "skip", &["train.steps=30", "train.spike=skip"]).unwrap();
    let skip = lines(folder, "skip");
    assert_eq!((outcome.step, steps(&skip)), (30, steps_of(30)));
    let spikes = &skip[14].spikes;
    assert!(spikes.len() == 1 && spikes[0].cause == Cause::NonFinite && skip[14].loss.is_nan(), "{spikes:?}");
    assert!(skip[15].loss.is_finite() && skip[15].spikes.is_empty());
    let state = State::read(&outcome.checkpoint).unwrap();
    assert_eq!((state.optimizer_step, state.tokens), (29, 30 * 4 * 24));
    assert!(state.spikes.loss.len() == 29 && state.spikes.loss.iter().all(|x| x.is_finite()));

    let outcome = train(&with_nan(15), Solo, folder, "back", &["train.steps=30", "train.spike=rollback"]).unwrap();
    let back = lines(folder, "back");
    assert_eq!((outcome.step, steps(&back)), (30, steps_of(30)));
    let spikes = &back[10].spikes;
    assert_eq!((spikes.len(), spikes[0].step, spikes[0].back_to), (1, 15, Some(10)));
    let state = State::read(&outcome.checkpoint).unwrap();
    // Steps 11 to 15 were computed twice, with other data.
    assert_eq!((state.optimizer_step, state.cursor.position), (30, (30 + 5) * 4));
    assert_eq!(text(&back[..10]), text(&skip[..10]));
    assert_ne!(text(&back[10..14]), text(&skip[10..14]));

    // A run returns to a checkpoint that is still being written as to any other.
    let near = ["train.steps=30", "train.spike=rollback", "train.ema_decay=0.9", "checkpoint.every_steps=14"];
    train(&with_nan(15), Solo, folder, "near", &near).unwrap();
    let behind = [&near[..], &["checkpoint.async=true"]].concat();
    train(&with_nan(15), Solo, folder, "behind", &behind).unwrap();
    let (near, behind) = (lines(folder, "near"), lines(folder, "behind"));
    assert!(near.iter().flat_map(|line| &line.spikes).any(|spike| spike.back_to == Some(14)), "{}", text(&near));
    assert_eq!(text(&near), text(&behind));
    let average = |name: &str| fs::read(folder.join(name).join("step-00000030/trainer/ema.safetensors")).unwrap();
    assert!(average("near") == average("behind"));

    let sets = ["train.steps=30", "train.spike=stop"];
    let error = train(&with_nan(15), Solo, folder, "stop", &sets).unwrap_err();
    assert!(matches!(error, Error::Spike(_)) && error.exit_code() == 3, "{error}");
    let said = error.to_string();
    assert!(said.contains("step 15") && said.contains("step-00000014") && said.contains("train.spike=skip"), "{said}");
    assert_eq!(State::read(&folder.join("stop/step-00000014")).unwrap().step, 14);
    train(&calm(), Solo, folder, "stop", &sets).unwrap();
    // The fault is gone, so nothing of it is left.
    train(&calm(), Solo, folder, "never", &sets).unwrap();
    assert_eq!(text(&lines(folder, "stop")), text(&lines(folder, "never")));
}

#[test]
fn spikes_in_a_row_end_the_run_and_rollbacks_are_counted_to_the_next_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder);
    // A learning rate at which the loss goes up at once, and bounds that it soon leaves for good.
    let wild = ["schedule.lr=0.3", "train.spike_threshold=0.01", "train.spike_window=6", "train.spike_limit=3"];
    for policy in ["train.spike=skip", "train.spike=rollback"] {
        let name = policy.rsplit('=').next().unwrap();
        let error =
            train(&calm(), Solo, folder, name, &[&wild[..], &[policy, "train.steps=300"]].concat()).unwrap_err();
        assert!(error.to_string().contains("after 3 spikes in a row") && error.exit_code() == 3, "{error}");
    }
}
