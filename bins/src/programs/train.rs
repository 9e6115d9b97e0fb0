//! Trains a model, from a configuration or, without arguments, on text that the program carries.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli;
use crate::device::AnyDevice;
use crate::error::{Error, Result};
use crate::plan;
use crate::run::{Outcome, Run, resolved};
use crate::settings::{Settings, keys};
use crate::{on_device, quickstart};
use argh::FromArgs;
use fathom_core::device::Kernels;

/// Train a DeepSeek-V3-style model. Without --config and --set: train a small model on tiny Shakespeare, which the program
/// carries, in at most three minutes on two cores with AVX2; measure it, and let it write.
#[derive(FromArgs)]
#[argh(
    example = "train",
    example = "train --config configs/shakespeare.toml --set data.path=data/shakespeare --output runs/shakespeare",
    example = "train --plan --set model.preset=v3-671b",
    note = "`train --keys` lists every key of the configuration file and of --set.",
    note = "FATHOM_QUICKSTART_STEPS=20 shortens a run without --config and --set.",
    error_code(0, "done, or stopped by Ctrl-C and saved"),
    error_code(1, "training failed"),
    error_code(2, "wrong arguments or settings")
)]
struct Arguments {
    /// TOML file of settings
    #[argh(option)]
    config: Option<PathBuf>,
    /// set a key over the file: --set train.steps=200 (may be repeated)
    #[argh(option)]
    set: Vec<String>,
    /// folder for checkpoints, metrics.jsonl and the resolved configuration (default: runs/train; without --config and --set:
    /// runs/quickstart)
    #[argh(option)]
    output: Option<PathBuf>,
    /// go on from the newest checkpoint in --output; its own configuration is used if no --config is given
    #[argh(switch)]
    resume: bool,
    /// print what the run would be and cost, and exit
    #[argh(switch)]
    plan: bool,
    /// print the plan as JSON
    #[argh(switch)]
    json: bool,
    /// auto (a GPU if there is one), cpu, cuda, cuda:N, or cuda:emulated (the GPU's kernels on the CPU, checked and slow, for
    /// tests; default: auto)
    #[argh(option, default = "String::from(\"auto\")")]
    device: String,
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    if std::env::args().any(|a| a == "--keys") {
        print!("{}", keys::table(&["model", "data", "train", "schedule", "checkpoint"]));
        println!("  model.FIELD                  any field of DeepSeek's config.json");
        return ExitCode::SUCCESS;
    }
    cli::run(|arguments: Arguments| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.json && !arguments.plan {
        return Err(Error::Usage("--json goes with --plan; a run's numbers are in OUTPUT/metrics.jsonl".into()));
    }
    if arguments.output.as_ref().is_some_and(|output| output.as_os_str().is_empty()) {
        return Err(Error::Usage("--output is empty: name a folder, or `.` for this one".into()));
    }
    let bare = arguments.config.is_none() && arguments.set.is_empty();
    if bare && !arguments.plan && !arguments.resume {
        let device = AnyDevice::open(&arguments.device, 0)?;
        let stop = cli::interrupts()?;
        return on_device!(&device, device => quickstart::run(device, arguments.output.as_deref(), &stop));
    }
    let output = arguments.output.clone().unwrap_or_else(|| PathBuf::from("runs/train"));
    let mut config = arguments.config.clone();
    if arguments.resume && config.is_none() {
        config = Some(resolved::path(&output)).filter(|path| path.is_file());
    }
    let settings = Settings::load(config.as_deref(), &arguments.set)?;
    if arguments.plan {
        return print_plan(&settings, arguments.json);
    }
    let device = AnyDevice::open(&arguments.device, settings.train.threads)?;
    let outcome = on_device!(&device, device => train(device, settings, &output, arguments.resume))?;
    report(&outcome, &output);
    Ok(())
}

fn train<D: Kernels>(device: &D, settings: Settings, output: &Path, resume: bool) -> Result<Outcome> {
    let stop = cli::interrupts()?;
    let mut run = Run::open(device, settings, output, resume)?;
    eprintln!("{} of {} steps done; writing to {}", run.step(), run.steps(), output.display());
    run.train(&stop)
}

fn report(outcome: &Outcome, output: &Path) {
    eprintln!("step {}, {} tokens; checkpoint {}", outcome.step, outcome.tokens, outcome.checkpoint.display());
    if let Some(v) = &outcome.validation {
        let bits = v.bits_per_byte.map_or(String::new(), |b| format!(", {b:.4} bits per byte"));
        eprintln!("validation: loss {:.4}, perplexity {:.3}{bits} over {} tokens", v.loss, v.perplexity, v.tokens);
    }
    if outcome.interrupted {
        let (train, output) = (cli::program("train"), cli::quoted(output));
        eprintln!("stopped early; go on with: {train} --resume --output {output}");
    }
}

fn print_plan(settings: &Settings, json: bool) -> Result<()> {
    let schedule = settings.schedule()?;
    let (tokens, steps) = settings.budget()?;
    let request = plan::Request {
        model: &settings.model,
        schedule: &schedule,
        tokens,
        steps,
        micro_batch: settings.train.micro_batch_size,
        length: settings.train.sequence_length,
        precision: settings.train.precision,
        average: settings.train.ema_decay > 0.0,
    };
    cli::print(&plan::report(&request, json)?)
}
