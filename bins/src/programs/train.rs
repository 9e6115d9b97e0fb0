//! `train`: trains a model, from a configuration or, without arguments, on text that the program carries.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::checkpoint::{self, CheckpointError};
use crate::cli::{self, Command, Program, signals};
use crate::device::{self, AnyDevice};
use crate::doctor;
use crate::error::{Error, Result};
use crate::launch::{self, Rank, Ranks};
use crate::plan;
use crate::report::{PAGE, Report, curve::When};
use crate::run::{Observed, Outcome, Run, check, fit_to_data, needs_one_rank, resolved, task_cost};
use crate::settings::{Settings, Source, keys};
use crate::{on_device, quickstart};
use argh::{ArgsInfo, FromArgs};
use fathom_core::comm::Comm;
use fathom_core::device::Kernels;
use fathom_mpi::Launched;

/// The command.
pub const COMMAND: Command =
    Command::new::<Arguments>("train", "train a model").with_keys(keys).with_commands(&[super::compare::COMMAND]);

/// Train a DeepSeek-V3-style model. Without arguments: train a small model on tiny Shakespeare, which the program
/// carries, in at most three minutes on two cores with AVX2; measure it, and let it generate text.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name}",
    example = "{command_name} data/notes --set train.steps=2000 --output runs/notes",
    example = "{command_name} data/shakespeare --config configs/shakespeare.toml --output runs/shakespeare",
    example = "{command_name} data/notes --ranks 4 --output runs/notes",
    example = "{command_name} --plan --set model.preset=v3-671b",
    example = "{command_name} --plan --ranks 8 --set model.preset=small --set parallel.zero=3",
    example = "{command_name} --check data/notes --output runs/notes",
    note = "The progress line's max violation is the load of the busiest expert over the mean load, minus 1, in the \
            worst layer: 0 is perfect balance.",
    note = "FATHOM_QUICKSTART_STEPS=20 shortens a run without arguments.",
    error_code(0, "done, or stopped by a signal or --max-hours and saved"),
    error_code(1, "training failed; with --check: the run does not fit"),
    error_code(2, "wrong arguments or settings"),
    error_code(3, "a loss spike ended the run (train.spike); the state before it is saved"),
    error_code(75, "another rank of the run was lost; the last checkpoint stands"),
    error_code(130, "ended at once by a second signal; the last checkpoint stands")
)]
struct Arguments {
    /// folder that `prep` wrote; the same as --set data.path=FOLDER
    #[argh(positional)]
    data: Option<PathBuf>,
    /// TOML file of settings
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
    /// set a configuration key over the file: --set train.steps=200 (may be repeated)
    #[argh(option, arg_name = "key=value")]
    set: Vec<String>,
    /// folder for checkpoints, metrics.jsonl and config.resolved.toml (default: runs/train; without data and settings:
    /// runs/quickstart)
    #[argh(option, arg_name = "folder")]
    output: Option<PathBuf>,
    /// resume from the newest checkpoint in --output, with its configuration unless --config is given
    #[argh(switch)]
    resume: bool,
    /// print the size, memory and cost of the run, and exit
    #[argh(switch)]
    plan: bool,
    /// check whether the run fits this machine (device, memory, disk, data, checkpoint to resume), and exit
    #[argh(switch)]
    check: bool,
    /// print the plan, or the findings of --check, as JSON
    #[argh(switch)]
    json: bool,
    /// auto (the first GPU, else the CPU), cpu, cuda, cuda:N, or cuda:emulated (the GPU kernels on the CPU, slow and
    /// checked, for tests) (default: auto)
    #[argh(option, default = "String::from(\"auto\")", arg_name = "device")]
    device: String,
    /// draw the loss curve at the end: auto is on a terminal only (default: auto)
    #[argh(option, default = "When::Auto", arg_name = "auto|always|never")]
    curve: When,
    /// start N processes (ranks) of this command on this machine by mpirun, which share the work; with --plan, plan for
    /// them (docs/distributed.md: several machines)
    #[argh(option, arg_name = "n")]
    ranks: Option<usize>,
    /// stop with a checkpoint within H hours of the start, such as a job's time limit; the same as
    /// --set train.max_hours=H; 0 for no limit (default: 0)
    #[argh(option, arg_name = "h")]
    max_hours: Option<f64>,
    /// threads of the CPU device; the same as --set train.threads=N; 0 for all cores (default: 0)
    #[argh(option, arg_name = "n")]
    threads: Option<usize>,
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        run(&self)
    }
}

/// The table that `--keys` prints.
fn keys() -> String {
    keys::table(&["model", "data", "train", "precision", "schedule", "checkpoint", "parallel", "eval"])
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.json && !arguments.plan && !arguments.check {
        let problem = "--json goes with --plan or --check; a run's numbers are in OUTPUT/metrics.jsonl";
        return Err(Error::Usage(problem.into()));
    }
    if arguments.plan && arguments.check {
        return Err(Error::Usage("--plan and --check are two questions: leave one out".into()));
    }
    if arguments.output.as_ref().is_some_and(|output| output.as_os_str().is_empty()) {
        return Err(Error::Usage("--output is empty: name a folder, or `.` for this one".into()));
    }
    let launched = launch::launched()?;
    match (arguments.ranks, &launched) {
        (Some(0), _) => return Err(Error::Usage("--ranks 0: a run has at least 1".into())),
        (Some(ranks), Some(launched)) if ranks != launched.world => {
            let (launcher, world) = (launched.launcher, launched.world);
            return Err(Error::Usage(format!("--ranks {ranks}, but {launcher} started {world}; leave it out")));
        }
        _ => {}
    }
    let several = launched.is_some() || arguments.ranks.is_some_and(|ranks| ranks > 1);
    let bare = arguments.config.is_none() && arguments.set.is_empty() && arguments.data.is_none();
    if bare && !arguments.plan && !arguments.check && !arguments.resume {
        if several || arguments.max_hours.is_some() {
            let what = if several { "several ranks need" } else { "--max-hours needs" };
            return Err(Error::Usage(format!("{what} data: name a folder that `prep` wrote")));
        }
        let device = AnyDevice::open(&arguments.device, arguments.threads.unwrap_or(0))?;
        let stop = signals::interrupts()?;
        return on_device!(&device, device => {
            quickstart::run(device, arguments.output.as_deref(), arguments.curve, &stop)
        });
    }
    let output = arguments.output.clone().unwrap_or_else(|| PathBuf::from("runs/train"));
    let mut config = arguments.config.clone();
    if arguments.resume && config.is_none() {
        config = Some(resolved::path(&output)).filter(|path| path.is_file());
    }
    if arguments.resume && config.is_none() && no_data(arguments) && checkpoint::survey(&output)?.is_empty() {
        return Err(CheckpointError::NoCheckpoint { path: output }.into());
    }
    let settings = settings(arguments, config.as_deref())?;
    if arguments.plan {
        // Of several ranks one is enough to say it.
        return match launched.as_ref().is_some_and(|launched| launched.rank > 0) {
            true => Ok(()),
            false => print_plan(settings, arguments, launched.map_or(1, |launched| launched.world)),
        };
    }
    if arguments.check {
        return match launched.as_ref().is_some_and(|launched| launched.rank > 0) {
            true => Ok(()),
            false => look(&settings, arguments, &output, launched.map(|launched| launched.world)),
        };
    }
    if let (Some(ranks), None) = (arguments.ranks.filter(|ranks| *ranks > 1), &launched) {
        // What is wrong for every rank is said once, before any is started.
        launch::limit(ranks)?;
        check(&settings, ranks)?;
        return launch::start(ranks, &output);
    }
    match launched {
        None => {
            let device = AnyDevice::open(&arguments.device, settings.train.threads)?;
            on_device!(&device, device => train(device, launch::alone(), settings, &output, arguments, 1, || ()))
        }
        Some(launched) => together(launched, settings, &output, arguments),
    }
}

/// Trains as one rank of several. An error ends the other ranks too.
fn together(launched: Launched, mut settings: Settings, output: &Path, arguments: &Arguments) -> Result<()> {
    let (rank, mpi) = Rank::join(launched, &settings, output)?;
    settings.train.threads = rank.threads(settings.train.threads);
    let work = || match AnyDevice::open(&rank.device(&arguments.device), settings.train.threads)? {
        AnyDevice::Cpu(device) => {
            rank.same_kind(&mpi, "cpu")?;
            train(&device, rank.watched(Box::new(mpi)), settings, output, arguments, rank.neighbors(), Rank::may_end)
        }
        AnyDevice::Cuda(device) => {
            rank.same_kind(&mpi, "cuda")?;
            let ranks = rank.between_gpus(&device, mpi)?;
            train(&device, rank.watched(ranks), settings, output, arguments, rank.neighbors(), Rank::may_end)
        }
    };
    work().map_err(|error| rank.fail(&error, output))
}

/// Whether the arguments name no data to begin with.
fn no_data(arguments: &Arguments) -> bool {
    arguments.data.is_none() && !arguments.set.iter().any(|set| set.trim_start().starts_with("data."))
}

/// The settings of `config` with what the arguments say over them.
fn settings(arguments: &Arguments, config: Option<&Path>) -> Result<Settings> {
    let mut source = Source::read(config, &arguments.set)?;
    if let Some(data) = &arguments.data {
        let data = data.to_str().ok_or_else(|| Error::Usage(format!("{}: is not UTF-8", data.display())))?;
        if arguments.set.iter().any(|set| set.starts_with("data.path=")) {
            return Err(Error::Usage(format!("{data} and --set data.path are both given; leave one out")));
        }
        source.set("data.path", data)?;
    }
    if let Some(threads) = arguments.threads {
        source.set("train.threads", i64::try_from(threads).unwrap_or(i64::MAX))?;
    }
    if let Some(hours) = arguments.max_hours {
        if !hours.is_finite() || hours < 0.0 {
            return Err(Error::Usage(format!("--max-hours {hours}: must be a number, 0 or more")));
        }
        source.set("train.max_hours", hours)?;
    }
    Ok(Settings::new(source)?)
}

/// Trains, alone or as one of several ranks, of which `here` are on this machine; `ended` is called when all is done,
/// while the ranks are still together.
fn train<D: Kernels>(
    device: &D,
    (comm, observed): (Ranks<D>, Observed),
    settings: Settings,
    output: &Path,
    arguments: &Arguments,
    here: usize,
    ended: impl FnOnce(),
) -> Result<()> {
    let stop = signals::interrupts_of(comm.rank(), comm.world())?;
    if comm.rank() == 0
        && let Some(warning) = doctor::short_of_memory(&settings, (comm.world(), here), device.capabilities())
    {
        eprintln!("{warning}");
    }
    let mut run = Run::open_with(device, comm, observed, settings, output, arguments.resume)?;
    if !run.leads() {
        run.train(&stop, &mut ())?;
        ended();
        return Ok(());
    }
    let (done, steps, folder) = (run.step(), run.steps(), output.display());
    if done > 0 && done >= steps {
        eprintln!("{folder}: {done} steps are done and the settings ask for {steps}: nothing to train");
    } else {
        eprintln!("{done} of {steps} steps done; writing to {folder}");
    }
    let mut report = Report::of(&run);
    let outcome = run.train(&stop, &mut report)?;
    eprint!("{}", arguments.curve.draw(report.history(), std::io::stderr().is_terminal()));
    summary(&outcome, output, run.world());
    ended();
    Ok(())
}

fn summary(outcome: &Outcome, output: &Path, world: usize) {
    eprintln!("step {}, {} tokens; checkpoint {}", outcome.step, outcome.tokens, outcome.checkpoint.display());
    if let Some(v) = &outcome.validation {
        let bits = v.bits_per_byte.map_or(String::new(), |b| format!(", {b:.4} bits per byte"));
        eprintln!("validation: loss {:.4}, perplexity {:.3}{bits} over {} tokens", v.loss, v.perplexity, v.tokens);
    }
    eprint!("{}", outcome.best_lines(output));
    eprintln!("curves: {}", output.join(PAGE).display());
    if outcome.interrupted {
        let (train, output) = (cli::program("train"), cli::quoted(output));
        let ranks = if world > 1 { ", on any number of ranks" } else { "" };
        eprintln!("stopped early; go on with{ranks}: {train} --resume --output {output}");
    }
}

/// Prints whether the run fits this machine, for the ranks that a launcher has started or `--ranks` would start here.
fn look(settings: &Settings, arguments: &Arguments, output: &Path, launched: Option<usize>) -> Result<()> {
    device::check_name(&arguments.device)?;
    let ranks = launched.map_or((arguments.ranks.unwrap_or(1), true), |world| (world, false));
    let request = doctor::Request { settings, device: &arguments.device, ranks, output, resume: arguments.resume };
    super::doctor::show(&doctor::training(&request), arguments.json)
}

fn print_plan(mut settings: Settings, arguments: &Arguments, world: usize) -> Result<()> {
    let ranks = arguments.ranks.unwrap_or(world);
    needs_one_rank(&settings, ranks)?;
    let data = fit_to_data(&mut settings)?;
    let tasks = match data {
        Some(_) => task_cost(&mut settings)?,
        None => None,
    };
    if data.is_none() && !settings.eval.tasks.is_empty() {
        eprintln!("eval.tasks: what they cost is counted where data.path names the data, whose tokenizer they need");
    }
    let schedule = settings.schedule()?;
    let (tokens, steps) = settings.budget()?;
    let request = plan::Request {
        model: &settings.model,
        schedule: &schedule,
        tokens,
        steps,
        micro_batch: settings.train.micro_batch_size,
        length: settings.train.sequence_length,
        ranks,
        parallel: settings.parallel.how,
        precision: settings.train.precision,
        average: settings.train.ema(),
        snapshot: settings.checkpoint.asynchronous,
        device: device::capabilities(&arguments.device)?,
        data: data.as_deref(),
        tasks,
    };
    cli::print(&plan::report(&request, arguments.json)?)
}
