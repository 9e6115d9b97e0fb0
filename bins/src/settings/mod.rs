//! Configuration: TOML and `--set key=value` into typed settings, the same keys for every program.
//!
//! A file may hold the keys of several programs; each reads its own sections and still checks the others' (a slip in
//! `[input]` stops `train` too). [`Settings::to_toml`] writes what a run resolved to; read back, it gives the same run.

mod data;
mod error;
mod eval;
pub mod keys;
mod model;
mod parallel;
mod precision;
mod prep;
mod reader;
mod schedule;
mod source;
mod spike;

pub use data::DataSource;
pub use error::{Place, SettingsError};
pub use eval::{Eval, assignment, names};
pub use parallel::ParallelSettings;
pub use schedule::ScheduleSettings;
pub use source::{Entry, Source};
pub use spike::{Spike, SpikePolicy};

use crate::hf::Format;
use fathom_core::config::ModelConfig;
use fathom_core::precision::{Precision, Products};
use fathom_core::train::EmaMemory;
use fathom_core::train::schedule::{Schedule, ScheduleError};
use fathom_dataprep::{Packing, PrepConfig};
use reader::{Reader, SANE};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Value;

/// `data.*`
#[derive(Clone, Debug)]
pub struct Data {
    /// Prepared folder or prefix.
    pub path: Option<PathBuf>,
    /// Several sources in place of `path`, by name.
    pub sources: Vec<DataSource>,
    /// Packing of documents into sequences.
    pub packing: Packing,
    /// Other data to validate on.
    pub validation_path: Option<PathBuf>,
    /// Shuffle sequences, in a new order every epoch.
    pub shuffle: bool,
    /// Map shards into memory in place of reading them.
    pub mmap: bool,
    /// Random seed of the shuffle.
    pub seed: u64,
    /// Mask attention across document boundaries.
    pub document_mask: bool,
}

/// Length of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// A number of optimizer steps.
    Steps(u64),
    /// A number of training tokens.
    Tokens(u64),
}

/// `train.*`
#[derive(Clone, Debug)]
pub struct Train {
    /// Checkpoint the weights start from.
    pub init: Option<PathBuf>,
    /// Length of the run.
    pub length: Length,
    /// Sequences per optimizer step, once the batch has grown.
    pub batch_size: usize,
    /// Micro-batch size: sequences per forward and backward pass.
    pub micro_batch_size: usize,
    /// Sequence length in tokens.
    pub sequence_length: usize,
    /// The precision policy: `train.precision` and `precision.*`.
    pub precision: Precision,
    /// Random seed of the initial weights.
    pub seed: u64,
    /// Maximum gradient L2 norm; 0 does not clip.
    pub clip_norm: f64,
    /// Loss spikes.
    pub spike: Spike,
    /// AdamW weight decay of matrices.
    pub weight_decay: f64,
    /// AdamW β₁, the decay of the first moment.
    pub beta1: f64,
    /// AdamW β₂, the decay of the second moment.
    pub beta2: f64,
    /// AdamW ε.
    pub eps: f64,
    /// Decay of the moving average of the weights; 0 keeps none.
    pub ema_decay: f64,
    /// Where that average is kept.
    pub ema_memory: EmaMemory,
    /// Steps between validation losses; 0 for none.
    pub eval_every: u64,
    /// Tokens per validation loss; 0 for all.
    pub eval_tokens: u64,
    /// Steps between records of every expert's load; 0 for none.
    pub expert_load_every: u64,
    /// Steps between sample texts; 0 for none.
    pub sample_every: u64,
    /// Prompt of the samples.
    pub sample_prompt: String,
    /// Maximum new tokens per sample.
    pub sample_tokens: usize,
    /// Threads; 0 for every core.
    pub threads: usize,
    /// Seconds between lines of progress where there is no terminal.
    pub report_seconds: f64,
    /// Hours from the start of the program within which the run stops with a checkpoint; 0 for no limit.
    pub max_hours: f64,
    /// Writes the metrics to a TensorBoard event file too.
    pub tensorboard: bool,
}

/// Whether the checkpoint with the lowest validation loss outlives rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepBest {
    /// Rotation may remove it.
    None,
    /// Rotation never removes it. No checkpoint is written for it.
    #[default]
    Saved,
    /// A checkpoint is also written whenever the validation loss falls below that of every checkpoint.
    Always,
}

/// `checkpoint.*`
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Steps between checkpoints; 0 writes only the last.
    pub every_steps: u64,
    /// Newest checkpoints that are kept.
    pub keep: usize,
    /// Rule for the checkpoint with the lowest validation loss.
    pub keep_best: KeepBest,
    /// Steps between checkpoints that are kept for good; 0 for none.
    pub keep_every: u64,
    /// Number format of the model's files.
    pub format: Format,
    /// Maximum bytes per model file.
    pub shard_bytes: u64,
    /// Writes checkpoints in the background.
    pub asynchronous: bool,
}

/// The settings of every program, checked one by one and against one another.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The model to build.
    pub model: ModelConfig,
    /// `data.*`
    pub data: Data,
    /// `train.*`
    pub train: Train,
    /// `schedule.*`
    pub schedule: ScheduleSettings,
    /// `checkpoint.*`
    pub checkpoint: Checkpoint,
    /// `parallel.*`, and `train.sum`.
    pub parallel: ParallelSettings,
    /// `eval.*`
    pub eval: Eval,
    /// `input.*`, `tokenizer.*`, `output.*`, `prep.*`
    pub prep: PrepConfig,
    source: Source,
    resolved: BTreeMap<String, Value>,
}

impl Settings {
    /// Reads a file and `--set`s over it.
    ///
    /// # Errors
    /// Unknown keys, wrong types, values that do not go together; each with its place.
    pub fn load(file: Option<&Path>, sets: &[String]) -> Result<Self, SettingsError> {
        Self::new(Source::read(file, sets)?)
    }

    /// Resolves what was written.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn new(source: Source) -> Result<Self, SettingsError> {
        let mut reader = Reader { source: &source, resolved: BTreeMap::new() };
        let model = model::resolve(&source)?;
        let train = Train::read(&mut reader, &model)?;
        let data = Data::read(&mut reader, train.seed)?;
        let schedule = ScheduleSettings::read(&mut reader, &train)?;
        let checkpoint = Checkpoint::read(&mut reader)?;
        let mut settings = Settings {
            data,
            schedule,
            parallel: ParallelSettings::read(&mut reader)?,
            eval: Eval::read(&mut reader, checkpoint.every_steps)?,
            checkpoint,
            prep: prep::read(&mut reader)?,
            resolved: reader.resolved,
            model,
            train,
            source,
        };
        settings.schedule()?;
        if settings.checkpoint.keep_best == KeepBest::Always && settings.train.eval_every == 0 {
            let problem = "needs a validation loss to compare: set train.eval_every above 0";
            return Err(settings.reject("checkpoint.keep_best", problem));
        }
        if settings.schedule.decays() {
            // A run that goes on for longer keeps its rates unless it is told otherwise.
            let (end, _) = settings.budget()?;
            let end = Value::Integer(i64::try_from(end).unwrap_or(i64::MAX));
            settings.resolved.entry("schedule.decay_tokens".into()).or_insert(end);
        }
        Ok(settings)
    }

    /// Place where `key` was written, for an error about its value.
    pub fn place(&self, key: &str) -> Place {
        self.source.place(key)
    }

    /// Whether `key` was written at all.
    pub fn is_set(&self, key: &str) -> bool {
        self.source.get(key).is_some()
    }

    /// An error about the value of `key`.
    pub fn reject(&self, key: &str, problem: impl Into<String>) -> SettingsError {
        SettingsError::Value { key: key.into(), place: self.place(key), problem: problem.into() }
    }

    /// Resolved value of `key`, as it would be written.
    pub fn resolved(&self, key: &str) -> Option<&Value> {
        self.resolved.get(key)
    }

    /// Makes the paths of a training run independent of the working directory.
    pub(crate) fn make_paths_absolute(&mut self) {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
        for key in keys::KEYS.iter().filter(|key| key.kind == keys::Kind::Path) {
            if let Some(Value::String(text)) = self.resolved.get_mut(key.name) {
                *text = absolute(Path::new(text)).to_string_lossy().into_owned();
            }
        }
        for source in &mut self.data.sources {
            source.path = absolute(&source.path);
        }
        for (key, list) in self.eval.absolute(&|path| absolute(path).to_string_lossy().into_owned()) {
            if let Some(value) = self.resolved.get_mut(key) {
                *value = list;
            }
        }
    }

    /// The resolved configuration of a training run: every key, defaults included, and every field of the model.
    pub fn to_toml(&self) -> String {
        const TRAINING: [&str; 7] = ["data", "train", "precision", "schedule", "checkpoint", "parallel", "eval"];
        let mut sections: Vec<(&str, toml::Table)> = vec![("model", model::fields(&self.model))];
        for key in keys::KEYS {
            let (Some((section, name)), Some(value)) = (key.name.split_once('.'), self.resolved.get(key.name)) else {
                continue;
            };
            if !TRAINING.contains(&section) {
                continue;
            }
            match sections.iter_mut().find(|(known, _)| *known == section) {
                Some((_, table)) => drop(table.insert(name.into(), value.clone())),
                None => sections.push((section, toml::Table::from_iter([(name.into(), value.clone())]))),
            }
        }
        if let Some((_, table)) =
            sections.iter_mut().find(|(section, _)| *section == "data" && !self.data.sources.is_empty())
        {
            table.insert("sources".into(), Value::Table(data::table(&self.data.sources)));
        }
        let text = |(section, table): &(&str, toml::Table)| {
            let nested = toml::Table::from_iter([((*section).to_string(), Value::Table(table.clone()))]);
            toml::to_string(&nested).unwrap_or_default()
        };
        sections.iter().map(text).collect::<Vec<_>>().join("\n")
    }

    /// Tokens and steps of the whole run.
    ///
    /// # Errors
    /// A batch that cannot grow as `schedule.*` says.
    pub fn budget(&self) -> Result<(u64, u64), SettingsError> {
        self.schedule.budget(&self.train).map_err(|error| self.misfit(error))
    }

    /// The schedule of the run.
    ///
    /// # Errors
    /// Rates that make no sense together, such as a warm-up longer than the run.
    pub fn schedule(&self) -> Result<Schedule, SettingsError> {
        let (tokens, _) = self.budget()?;
        self.schedule.schedule(&self.train, tokens).map_err(|error| self.misfit(error))
    }

    fn misfit(&self, (key, error): (&str, ScheduleError)) -> SettingsError {
        self.reject(key, format!("does not fit: {error}"))
    }
}

impl Data {
    fn read(reader: &mut Reader<'_>, train_seed: u64) -> Result<Self, SettingsError> {
        let best_fit = reader.word("data.packing") == "best_fit";
        let data = Data {
            path: reader.path("data.path"),
            sources: data::sources(reader)?,
            packing: if best_fit { Packing::BestFit } else { Packing::Concatenate },
            validation_path: reader.path("data.validation_path"),
            shuffle: reader.flag("data.shuffle"),
            mmap: reader.flag("data.mmap"),
            seed: reader.count_or("data.seed", train_seed),
            document_mask: reader.flag("data.document_mask"),
        };
        if data.path.is_some() && !data.sources.is_empty() {
            let problem = "and data.sources are both given; data comes from one place or from several: leave one out";
            return Err(reader.reject("data.path", problem.into()));
        }
        Ok(data)
    }
}

impl Train {
    fn read(reader: &mut Reader<'_>, model: &ModelConfig) -> Result<Self, SettingsError> {
        let batch_size = reader.size("train.batch_size", SANE)?;
        let largest = (1..=batch_size.min(8)).rev().find(|size| batch_size.is_multiple_of(*size)).unwrap_or(1);
        let context = model.max_position_embeddings;
        let precision = precision::read(reader)?;
        let ema_decay = if precision.products == Products::Fp8 { 0.999 } else { 0.0 };
        let train = Train {
            init: reader.path("train.init"),
            length: Self::length(reader)?,
            batch_size,
            micro_batch_size: reader.size_or("train.micro_batch_size", largest, SANE)?,
            sequence_length: reader.size_or("train.sequence_length", context.min(256), SANE)?,
            precision,
            seed: reader.count("train.seed"),
            clip_norm: reader.number("train.clip_norm"),
            spike: Spike::read(reader)?,
            weight_decay: reader.number("train.weight_decay"),
            beta1: reader.number("train.beta1"),
            beta2: reader.number("train.beta2"),
            eps: reader.number("train.eps"),
            ema_decay: reader.number_or("train.ema_decay", ema_decay),
            ema_memory: match reader.word("train.ema_memory").as_str() {
                "host" => EmaMemory::Host,
                _ => EmaMemory::Device,
            },
            eval_every: reader.count("train.eval_every"),
            eval_tokens: reader.count("train.eval_tokens"),
            expert_load_every: reader.count("train.expert_load_every"),
            sample_every: reader.count("train.sample_every"),
            sample_prompt: reader.word("train.sample_prompt"),
            sample_tokens: reader.size("train.sample_tokens", SANE)?,
            threads: usize::try_from(reader.count("train.threads")).unwrap_or(usize::MAX),
            report_seconds: reader.number("train.report_seconds"),
            max_hours: reader.number("train.max_hours"),
            tensorboard: reader.flag("train.tensorboard"),
        };
        train.check(reader, context)?;
        Ok(train)
    }

    /// Where a moving average of the weights is kept, if one is.
    pub fn ema(&self) -> Option<EmaMemory> {
        (self.ema_decay > 0.0).then_some(self.ema_memory)
    }

    fn length(reader: &mut Reader<'_>) -> Result<Length, SettingsError> {
        let tokens = reader.optional_count("train.tokens");
        let length = match (reader.source.get("train.steps"), tokens) {
            (Some(_), Some(_)) => {
                let problem = "and train.steps are both given; leave one of them out".into();
                return Err(reader.reject("train.tokens", problem));
            }
            (None, Some(tokens)) => Length::Tokens(tokens),
            (_, None) => Length::Steps(reader.count("train.steps")),
        };
        match length {
            Length::Steps(0) => Err(reader.reject("train.steps", "is 0: it must be at least 1".into())),
            Length::Tokens(0) => Err(reader.reject("train.tokens", "is 0: it must be at least 1".into())),
            length => Ok(length),
        }
    }

    fn check(&self, reader: &Reader<'_>, context: usize) -> Result<(), SettingsError> {
        let (batch, micro) = (self.batch_size, self.micro_batch_size);
        if !batch.is_multiple_of(micro) {
            let problem = format!("is {micro}, which does not divide train.batch_size = {batch}; use a divisor");
            return Err(reader.reject("train.micro_batch_size", problem));
        }
        if self.sequence_length > context {
            let length = self.sequence_length;
            let problem = format!(
                "is {length}, longer than the model's context, model.max_position_embeddings = {context}; \
                 lower it or raise the context"
            );
            return Err(reader.reject("train.sequence_length", problem));
        }
        let below_one = [("train.beta1", self.beta1), ("train.beta2", self.beta2), ("train.ema_decay", self.ema_decay)];
        for (key, value) in below_one {
            if value >= 1.0 {
                return Err(reader.reject(key, format!("is {value}: it must be below 1")));
            }
        }
        Ok(())
    }
}

impl Checkpoint {
    fn read(reader: &mut Reader<'_>) -> Result<Self, SettingsError> {
        Ok(Checkpoint {
            every_steps: reader.count("checkpoint.every_steps"),
            keep: reader.size("checkpoint.keep", SANE)?,
            keep_best: match reader.word("checkpoint.keep_best").as_str() {
                "none" => KeepBest::None,
                "always" => KeepBest::Always,
                _ => KeepBest::Saved,
            },
            keep_every: reader.count("checkpoint.keep_every"),
            format: Format::from_name(&reader.word("checkpoint.format")).unwrap_or(Format::F32),
            shard_bytes: reader.size("checkpoint.shard_bytes", usize::MAX)? as u64,
            asynchronous: reader.flag("checkpoint.async"),
        })
    }
}

#[cfg(test)]
mod tests;
