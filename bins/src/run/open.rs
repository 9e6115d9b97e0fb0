//! The beginning of a run: data, model and checkpoint are opened, and must fit each other.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use fathom_core::comm::{Comm, Solo};
use fathom_core::device::Kernels;
use fathom_core::model::{Architecture, Model};
use fathom_core::train::{Ema, Hyperparameters, Shards, Trainer, Zero};
use fathom_dataprep::durable::{DISK, Files};

use super::ahead::Ahead;
use super::benchmarks::Benchmarks;
use super::folder::{lock_on, newest};
use super::limit::TimeLimit;
use super::metrics::Metrics;
use super::watch::{self, Identity, Limits, Watch};
use super::{Observed, Run, data, ranks, resolved, space};
use crate::checkpoint::{self, State};
use crate::error::{Error, Result};
use crate::hf;
use crate::settings::Settings;
use crate::uptime;

impl<D: Kernels> Run<D> {
    /// Opens the data, builds the model, and takes up the newest checkpoint in `output` if `resume` is set.
    ///
    /// # Errors
    /// Settings, data, model and checkpoint that do not fit each other, by name.
    pub fn open(device: &D, settings: Settings, output: &Path, resume: bool) -> Result<Self> {
        Self::open_with(device, Solo, Observed::default(), settings, output, resume)
    }
}

impl<D: Kernels, C: Comm<D>> Run<D, C> {
    /// Opens a run as [`open`](Run::open) does, as rank `comm.rank()` of several. Rank 0 prints, and writes all files
    /// but those of checkpoints, which all ranks write.
    ///
    /// # Errors
    /// As [`open`](Run::open), and ranks that do not begin the same run.
    pub fn open_with(
        device: &D,
        comm: C,
        observed: Observed,
        settings: Settings,
        output: &Path,
        resume: bool,
    ) -> Result<Self> {
        Self::open_on(&DISK, device, comm, observed, settings, output, resume)
    }

    /// As [`open_with`](Self::open_with), through the given file operations: for tests of what happens where one fails.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open_on(
        files: &'static dyn Files,
        device: &D,
        comm: C,
        observed: Observed,
        settings: Settings,
        output: &Path,
        resume: bool,
    ) -> Result<Self> {
        // The time of a run counts from here at the latest.
        uptime::elapsed();
        let mut watch = None;
        match Self::open_watched(files, device, comm, observed, settings, (output, resume), &mut watch) {
            Ok(run) => Ok(Self { _watch: watch, ..run }),
            Err(error) => {
                if let Some(watch) = watch {
                    watch.progress().failed(error.to_string());
                }
                Err(error)
            }
        }
    }

    /// Opens a run. Begins the watch of a rank that is alone once it may write into the run's folder.
    fn open_watched(
        files: &'static dyn Files,
        device: &D,
        comm: C,
        mut observed: Observed,
        mut settings: Settings,
        (output, resume): (&Path, bool),
        watch: &mut Option<Watch>,
    ) -> Result<Self> {
        let leads = comm.rank() == 0;
        if comm.world() == 1 && settings.parallel.how.zero == Zero::Weights {
            // One rank has them whole, and the same bits.
            settings.parallel.how.zero = Zero::Gradients;
        }
        let _patience = observed.progress.patient();
        observed.progress.phase("opening the data");
        let sources = data::open(&settings)?;
        let tokenizer = data::fit_vocabulary(&mut settings, &sources[0].data)?;
        data::check_samples(&settings, tokenizer.as_ref())?;
        needs_whole_weights(&settings)?;
        needs_one_rank(&settings, comm.world())?;
        let benchmarks = if leads { Benchmarks::open(&settings, tokenizer.as_ref())? } else { None };
        let schedule = settings.schedule()?;
        let (_, steps) = settings.budget()?;
        ranks::fit(&settings, &schedule, steps, comm.world())?;
        let lock = leads.then(|| lock_on(files, output)).transpose()?;
        let newest = newest(output, resume, leads)?;
        let matter = resolved::that_matter(&settings);
        let saved = newest.as_deref().map(State::read).transpose()?;
        if let (Some(folder), Some(state)) = (&newest, &saved) {
            state.check(folder, &matter)?;
        }
        let mut loader = data::loader(&settings, sources, leads)?;
        let validation = data::validation(&settings)?;
        let same = ranks::Same {
            settings: resolved::that_ranks_share(&settings),
            training: format!("{:?}", loader.cursor()),
            validation: validation.as_ref().map_or(String::new(), |set| {
                format!("{:?} {}", set.data().manifest().map(|manifest| &manifest.fingerprint), set.targets())
            }),
            init: settings.train.init.as_deref().filter(|_| newest.is_none()).map_or(Ok(String::new()), initial)?,
            step: saved.as_ref().map(|state| state.step),
        };
        ranks::agree(&comm, &same)?;
        ranks::share_folder(&comm, output, lock.as_ref())?;
        if comm.world() == 1 && observed.meter.is_none() {
            observed.progress = watch.insert(watch_alone(output, &settings)).progress();
        }
        observed.progress.phase("building the model");
        let model = build_model(device, &comm, &settings, newest.is_none())?;
        let trainer = Trainer::sharing(model, comm, hyperparameters(&settings), settings.parallel.how);
        let mut trainer = trainer.map_err(Error::device("preparing"))?;
        let average = settings.train.ema().map(|memory| {
            let (layout, held) = (trainer.model.architecture().layout(), trainer.shards().all_own());
            Ema::part(device, settings.train.ema_decay, layout, held, memory)
        });
        let mut average = average.transpose().map_err(Error::device("preparing the EMA (train.ema_memory)"))?;
        let mut state = match (&newest, saved) {
            (Some(folder), Some(state)) => {
                observed.progress.phase("reading the checkpoint");
                checkpoint::load_trainer(&mut trainer, folder, &state)?;
                if let Some(average) = &mut average {
                    checkpoint::load_average(device, average, folder, &state)?;
                }
                loader.seek(&state.cursor).map_err(|error| other_data(error, output, &settings))?;
                state
            }
            _ => State::new(0, 0, settings.train.seed, 0.0, loader.cursor()),
        };
        state.settings = matter;
        state.best_checkpoint = checkpoint::best(output)?;
        if validation.is_none() && settings.train.eval_every > 0 && leads {
            eprintln!(
                "the data has no validation split, so no validation loss is measured: prepare it with --set \
                 output.validation_tail=0.1, name other data as data.validation_path, or set train.eval_every=0"
            );
        }
        let (format, beside) = (settings.checkpoint.format, tokenizer_bytes(&settings));
        let checkpoint_bytes = checkpoint::bytes(&trainer, format, average.is_some(), beside);
        // Everything fits, on every rank: only now is anything changed in a folder that holds a run.
        ranks::all(trainer.comm(), Ok(()), "opening the run")?;
        let open = || -> Result<Option<Metrics>> {
            if !leads {
                return Ok(None);
            }
            checkpoint::clean(files, output)?;
            if state.step < steps {
                space::check(output, checkpoint_bytes)?;
                if let Some(warning) = space::warning(output, &settings, steps, checkpoint_bytes) {
                    eprintln!("{warning}");
                }
            }
            resolved::write(files, output, &settings)?;
            Ok(Some(Metrics::open_on(files, output, state.step)?))
        };
        let metrics = ranks::all(trainer.comm(), open(), "opening the run's files")?;
        Ok(Self {
            saved: newest.map(|folder| (state.step, folder)),
            output: output.into(),
            files,
            failed_saves: 0,
            saving: None,
            snapshot: None,
            notices: Vec::new(),
            spikes: Vec::new(),
            unmeasured: false,
            reading: reading(&settings),
            limit: TimeLimit::new(settings.train.max_hours, checkpoint_bytes),
            out_of_time: false,
            checkpoint_bytes,
            _watch: None,
            schedule,
            steps,
            trainer,
            observed,
            average,
            loader,
            ahead: Ahead::default(),
            validation,
            tokenizer,
            benchmarks,
            metrics,
            state,
            measured: None,
            settings,
            _lock: lock,
        })
    }
}

/// Opens, for `world` ranks, what a run opens before it builds the model. Says what was found, for people.
///
/// # Errors
/// As [`Run::open`](Run::open).
pub(crate) fn open_data(settings: &Settings, world: usize) -> Result<String> {
    data::check(settings, world)?;
    let mut settings = settings.clone();
    let sources = data::open(&settings)?;
    let tokenizer = data::fit_vocabulary(&mut settings, &sources[0].data)?;
    data::check_samples(&settings, tokenizer.as_ref())?;
    needs_whole_weights(&settings)?;
    needs_one_rank(&settings, world)?;
    Benchmarks::open(&settings, tokenizer.as_ref())?;
    let tokens: u64 = sources.iter().map(|source| source.data.tokens()).sum();
    let places: Vec<String> = data::data_paths(&settings)?.iter().map(|path| path.display().to_string()).collect();
    data::loader(&settings, sources, false)?;
    let held_out = match data::validation(&settings)? {
        Some(set) => format!("{} targets to validate on", set.targets()),
        None => "none to validate on".into(),
    };
    let vocabulary = settings.model.vocab_size;
    Ok(format!("{}: {tokens} tokens, {held_out}; a vocabulary of {vocabulary}", places.join(", ")))
}

/// Names both data folders where a saved data position does not belong to the data of this run.
fn other_data(error: fathom_dataprep::Error, output: &Path, settings: &Settings) -> Error {
    let before = resolved::read(output).ok().and_then(|saved| Some(saved.get("data.path")?.as_str()?.to_owned()));
    match (&error, before, &settings.data.path) {
        (fathom_dataprep::Error::CursorMismatch { .. }, Some(before), Some(now)) => Error::Run(format!(
            "{error}; {} was trained on {before}, and this command names {}",
            output.display(),
            now.display()
        )),
        _ => error.into(),
    }
}

/// The watch of a rank that is alone; says what the records of a run before say of its end. Nobody is waited for, so
/// there is no verdict.
fn watch_alone(output: &Path, settings: &Settings) -> Watch {
    if let Some(before) = watch::previous(output) {
        eprintln!("{before}");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let start = format!("{now:x}-{:x}", std::process::id());
    let limits = Limits { timeout: settings.parallel.timeout, patient: settings.parallel.init_timeout };
    Watch::start(output, Identity::new(0, 1, &start), limits, |_| ())
}

/// What a step does first, with the place of the data where there is one.
fn reading(settings: &Settings) -> String {
    settings.data.path.as_ref().map_or("reading data".into(), |path| format!("reading data from {}", path.display()))
}

/// Bytes of the tokenizer that goes with each checkpoint; 0 where there is none.
pub(crate) fn tokenizer_bytes(settings: &Settings) -> u64 {
    let file = data::folder(settings).ok().map(|folder| folder.join("tokenizer.json"));
    file.and_then(|file| Some(file.metadata().ok()?.len())).unwrap_or(0)
}

/// What tells the weights in a folder from others at a glance: names and sizes of its files.
fn initial(folder: &Path) -> Result<String> {
    let folder = checkpoint::locate(folder)?.folder;
    let files = std::fs::read_dir(&folder).map_err(Error::io("read", &folder))?.flatten();
    let mut files: Vec<String> = files
        .map(|file| format!("{:?} {}", file.file_name(), file.metadata().map_or(0, |found| found.len())))
        .collect();
    files.sort();
    Ok(files.join(", "))
}

/// Refuses what needs all weights on one rank, where they are divided.
fn needs_whole_weights(settings: &Settings) -> Result<()> {
    if settings.parallel.how.zero != Zero::Weights {
        return Ok(());
    }
    let asked = [
        ("train.sample_every", settings.train.sample_every > 0, "set it to 0"),
        ("eval.tasks", !settings.eval.tasks.is_empty(), "leave it out"),
    ];
    match asked.iter().find(|(_, asked, _)| *asked) {
        None => Ok(()),
        Some((key, _, remedy)) => {
            let problem = format!(
                "needs the whole model on one rank, and parallel.zero = 3 divides its weights: {remedy} and measure \
                 checkpoints with `eval` and `generate`, or set parallel.zero to 2"
            );
            Err(settings.reject(key, problem).into())
        }
    }
}

/// Refuses what a rank can only do alone.
pub(crate) fn needs_one_rank(settings: &Settings, world: usize) -> Result<()> {
    if world == 1 || !settings.checkpoint.asynchronous {
        return Ok(());
    }
    let problem = format!("is for one rank, and there are {world}, which write a checkpoint together: set it to false");
    Err(settings.reject("checkpoint.async", problem).into())
}

fn hyperparameters(settings: &Settings) -> Hyperparameters {
    let train = &settings.train;
    Hyperparameters {
        beta1: train.beta1,
        beta2: train.beta2,
        eps: train.eps,
        weight_decay: train.weight_decay,
        clip_norm: if train.clip_norm > 0.0 { train.clip_norm } else { f64::INFINITY },
    }
}

fn build_model<D: Kernels, C: Comm<D>>(device: &D, comm: &C, settings: &Settings, fresh: bool) -> Result<Model<D>> {
    let (config, precision, leads) = (&settings.model, settings.train.precision, comm.rank() == 0);
    let model = match settings.parallel.how.zero {
        Zero::Weights => {
            let shards = Shards::new(Architecture::new(config).layout(), comm.rank(), comm.world());
            Model::part(device, config, precision, shards.all_own())
        }
        _ => Model::new(device, config, precision),
    };
    let mut model = model.map_err(Error::device("building the model"))?;
    match &settings.train.init {
        _ if !fresh => {} // the checkpoint brings the weights
        Some(folder) => {
            let located = checkpoint::locate(folder)?;
            located.verify(false)?;
            let notes = located.notes().into_iter().chain(hf::load_weights(&mut model, &located.folder)?);
            if leads {
                eprintln!("initial weights: {}", located.folder.display());
                notes.for_each(|note| eprintln!("{note}"));
            }
        }
        None => model.initialize(settings.train.seed).map_err(Error::device("initialising the model"))?,
    }
    Ok(model)
}
