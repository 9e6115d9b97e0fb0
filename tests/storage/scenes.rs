//! A training run, a preparation and a conversion, to be interrupted, and how each is taken up again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use fathom::checkpoint;
use fathom::convert::{Options, convert_on};
use fathom::hf::Format;
use fathom::run::{Observed, Run, metrics};
use fathom::settings::Settings;
use fathom_core::comm::Solo;
use fathom_cpu::Cpu;
use fathom_dataprep::dedup::DedupConfig;
use fathom_dataprep::durable::Files;
use fathom_dataprep::pipeline::{self, Silent};
use fathom_dataprep::{PrepConfig, ShardSet, Split};

use super::faults::PLAIN;

/// Relative paths and contents of all files in a folder.
pub type Contents = BTreeMap<String, Vec<u8>>;

/// Reads a folder; empty where there is none.
pub fn contents(folder: &Path) -> Contents {
    let mut all = Contents::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(&path).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                all.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    all
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    for (name, bytes) in contents(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn same(found: &Contents, wanted: &Contents) {
    let names: Vec<&String> = found.keys().collect();
    assert_eq!(names, wanted.keys().collect::<Vec<_>>());
    for (name, bytes) in found {
        assert!(*bytes == wanted[name], "{name} differs");
    }
}

/// Something that writes below a folder.
pub trait Scene {
    /// Does it, or goes on with it. Returns what went wrong.
    fn perform(&self, files: &'static dyn Files, root: &Path) -> Result<(), String>;
    /// Checks what is left of it, and that it is what it would have been after it was performed again.
    fn recovers(&self, root: &Path);
}

/// A training run that saves after every step and keeps the newest checkpoint.
pub struct Training {
    data: PathBuf,
    /// Files of the checkpoint after every step, but for what holds times.
    reference: BTreeMap<u64, Contents>,
}

pub const STEPS: u64 = 4;

impl Training {
    pub fn new(folder: &Path) -> Self {
        let preparation = Preparation::plain(folder);
        preparation.perform(&PLAIN, folder).unwrap();
        let mut training = Self { data: folder.join("made/data"), reference: BTreeMap::new() };
        let mut run = training.open(&PLAIN, folder, STEPS, 9).unwrap();
        run.train(&AtomicBool::new(false), &mut ()).unwrap();
        training.reference = (1..=STEPS).map(|step| (step, checkpoint_files(folder, step))).collect();
        training
    }

    fn open(&self, files: &'static dyn Files, root: &Path, steps: u64, keep: u64) -> Result<Run<Cpu>, String> {
        let sets = [
            format!("data.path={}", self.data.display()),
            format!("train.steps={steps}"),
            format!("checkpoint.keep={keep}"),
            "checkpoint.every_steps=1".into(),
            "schedule.decay_tokens=100000".into(),
            "schedule.decay=cosine".into(),
            "model.hidden_size=16".into(),
            "model.num_hidden_layers=2".into(),
            "model.n_routed_experts=8".into(),
            "train.batch_size=2".into(),
            "train.sequence_length=16".into(),
            "train.eval_every=0".into(),
            "train.sample_every=0".into(),
            "train.tensorboard=false".into(),
            "train.report_seconds=1000000".into(),
        ];
        let settings = Settings::load(None, &sets).unwrap();
        let (device, output) = (Cpu::with_threads(1), root.join("out/run"));
        Run::open_on(files, &device, Solo, Observed::default(), settings, &output, true).map_err(|e| e.to_string())
    }

    /// Trains to `steps`.
    pub fn train(&self, files: &'static dyn Files, root: &Path, steps: u64) -> Result<(), String> {
        let mut run = self.open(files, root, steps, 1)?;
        run.train(&AtomicBool::new(false), &mut ()).map(drop).map_err(|e| e.to_string())
    }

    /// Checks that the run finds a whole checkpoint of one of the steps, and the lines of its steps.
    pub fn finds(&self, root: &Path, steps: std::ops::RangeInclusive<u64>) -> u64 {
        let run = self.open(&PLAIN, root, STEPS, 1).expect("the run goes on without repairs");
        let step = run.step();
        assert!(steps.contains(&step), "found step {step} where {steps:?} may be");
        let output = root.join("out/run");
        if step > 0 {
            same(&checkpoint_files(root, step), &self.reference[&step]);
        }
        let lines: Vec<u64> = metrics::read(&output).unwrap().iter().map(|row| row.step).collect();
        assert_eq!(lines, (1..=step).collect::<Vec<_>>());
        let left = contents(&output).into_keys().find(|name| name.contains(".tmp-"));
        assert_eq!(left, None, "something is left over");
        step
    }
}

fn checkpoint_files(root: &Path, step: u64) -> Contents {
    let mut files = contents(&root.join("out/run").join(checkpoint::commit::name(step)));
    // These hold seconds of training, and the checksum of them.
    files.retain(|name, _| !["trainer/state.json", "manifest.json"].contains(&name.as_str()));
    files
}

impl Scene for Training {
    fn perform(&self, files: &'static dyn Files, root: &Path) -> Result<(), String> {
        self.train(files, root, STEPS)
    }

    fn recovers(&self, root: &Path) {
        self.finds(root, 0..=STEPS);
        self.train(&PLAIN, root, STEPS).unwrap();
        assert_eq!(self.finds(root, STEPS..=STEPS), STEPS);
    }
}

/// A preparation of a few files.
pub struct Preparation {
    config: PrepConfig,
    reference: Contents,
}

impl Preparation {
    /// Bytes as tokens, nothing removed.
    fn plain(folder: &Path) -> Self {
        let text = folder.join("text");
        std::fs::create_dir_all(&text).unwrap();
        for i in 0..6u32 {
            let words: Vec<String> = (0..60u32).map(|j| format!("word{}", ((i % 5) * 31 + j * j) % 97)).collect();
            std::fs::write(text.join(format!("{i}.txt")), words.join(" ")).unwrap();
        }
        let mut config = PrepConfig::default();
        config.input.paths = vec![text];
        config.dedup = DedupConfig::off();
        (config.threads, config.wait_seconds) = (1, 1);
        Self { config, reference: Contents::new() }
    }

    /// All stages.
    pub fn new(folder: &Path) -> Self {
        let mut preparation = Self::plain(folder);
        let config = &mut preparation.config;
        config.dedup = DedupConfig { exact: true, near: true, ..DedupConfig::off() };
        config.dedup.minhash.buckets = 2;
        config.tokenizer.vocab_size = Some(270);
        (config.output.validation_fraction, config.output.dropped) = (0.3, true);
        config.split_bytes = 1000;
        preparation.perform(&PLAIN, folder).unwrap();
        preparation.reference = contents(&folder.join("made/data"));
        preparation
    }
}

impl Scene for Preparation {
    fn perform(&self, files: &'static dyn Files, root: &Path) -> Result<(), String> {
        let mut config = self.config.clone();
        config.output.dir = root.join("made/data");
        pipeline::run_on(files, &config, &mut Silent).map(drop).map_err(|e| e.to_string())
    }

    fn recovers(&self, root: &Path) {
        self.perform(&PLAIN, root).expect("a preparation goes on without repairs");
        same(&contents(&root.join("made/data")), &self.reference);
        ShardSet::open(&root.join("made/data"), Split::Train).unwrap().verify().unwrap();
    }
}

/// A conversion of a checkpoint to BF16.
pub struct Conversion {
    input: PathBuf,
    reference: Contents,
}

impl Conversion {
    /// Of the last checkpoint of the run that was made in `folder`.
    pub fn new(folder: &Path) -> Self {
        let input = folder.join("out/run").join(checkpoint::commit::name(STEPS));
        std::fs::create_dir_all(input.join("more/and")).unwrap();
        std::fs::write(input.join("more/and/more.txt"), "carried over").unwrap();
        let mut conversion = Self { input, reference: Contents::new() };
        conversion.perform(&PLAIN, folder).unwrap();
        conversion.reference = contents(&folder.join("models/bf16"));
        conversion
    }
}

impl Scene for Conversion {
    fn perform(&self, files: &'static dyn Files, root: &Path) -> Result<(), String> {
        let options =
            Options { format: Format::Bf16, power_of_two_scales: None, shard_bytes: Some(20_000), average: false };
        let done = convert_on(files, &self.input, &root.join("models/bf16"), &options, |_, _| true);
        done.map(drop).map_err(|e| e.to_string())
    }

    fn recovers(&self, root: &Path) {
        let target = root.join("models/bf16");
        if !target.exists() {
            self.perform(&PLAIN, root).expect("the conversion can be made again");
        }
        same(&contents(&target), &self.reference);
    }
}
