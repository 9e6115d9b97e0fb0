//! `eval`: measures a trained model.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{cache_format, weights};
use crate::checkpoint::{self, Found};
use crate::cli::{self, Command, Program, signals};
use crate::counter::Counter;
use crate::device::AnyDevice;
use crate::error::{Error, Result};
use crate::evaluate::{self, Measured, Request, score_lines};
use crate::on_device;
use crate::report::tasks::Target;
use crate::session::{LoadOptions, Session};
use crate::settings;
use crate::tasks::{self, Wording, data::Places, results::Results};
use argh::{ArgsInfo, FromArgs};
use fathom_core::cache::CacheFormat;
use fathom_core::device::Kernels;
use fathom_dataprep::Split;

/// The command.
pub const COMMAND: Command =
    Command::new::<Arguments>("eval", "measure a model: loss, perplexity, bits per byte, scores, benchmark tasks");

/// Measure a model: loss, perplexity and bits per byte on prepared data, the log probability of given texts, or
/// benchmark tasks with the numbers of lm-evaluation-harness.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} --checkpoint runs/quickstart --data runs/quickstart/data",
    example = "{command_name} --checkpoint runs/quickstart --score requests.jsonl --output scores.jsonl",
    example = "{command_name} --checkpoint model --tasks hellaswag,mmlu --task-data data --output results",
    example = "{command_name} --checkpoint runs/a --all-checkpoints --tasks piqa --task-data data --report piqa.html",
    error_code(0, "done"),
    error_code(1, "a checkpoint is damaged, or the data or the device failed"),
    error_code(2, "wrong arguments"),
    error_code(130, "stopped by a signal; stderr says how far it had come")
)]
struct Arguments {
    /// model folder in Hugging Face layout, or the output folder of a run (its newest checkpoint)
    #[argh(option, arg_name = "folder")]
    checkpoint: PathBuf,
    /// folder that `prep` wrote, or the prefix of a Megatron .bin/.idx pair
    #[argh(option, arg_name = "folder")]
    data: Option<PathBuf>,
    /// split of the data (default: validation, if there is one)
    #[argh(option, arg_name = "validation|train")]
    split: Option<String>,
    /// tokens of a window (default: the length that the run trained at, else the model's context, at most 1024)
    #[argh(option, default = "0", arg_name = "n")]
    sequence_length: usize,
    /// benchmark tasks, separated by commas: arc_challenge, arc_easy, boolq, gsm8k, hellaswag, humaneval,
    /// lambada_openai, mmlu, openbookqa, piqa, wikitext, winogrande, parts of mmlu (mmlu_stem, mmlu_philosophy), or
    /// task files that end with .toml
    #[argh(option, arg_name = "names")]
    tasks: Option<String>,
    /// data of the tasks: a folder in which their files are looked for, or TASK=FILE (JSON Lines, CSV, Parquet, .gz
    /// too); may be repeated
    #[argh(option, arg_name = "folder|task=file")]
    task_data: Vec<String>,
    /// file of few-shot examples of a task; may be repeated
    #[argh(option, arg_name = "task=file")]
    fewshot_data: Vec<String>,
    /// examples before each item (default: what the task says)
    #[argh(option, arg_name = "n")]
    num_fewshot: Option<usize>,
    /// run the programs that the model writes for tasks such as humaneval: in a process without network, with limits on
    /// time, memory, processes and files; it can read files that you can read, but for those of your home folder
    #[argh(switch)]
    confirm_run_unsafe_code: bool,
    /// measure the tasks on every complete checkpoint of a run, the oldest first; with --output each in its own folder
    /// OUTPUT/step-XXXXXXXX
    #[argh(switch)]
    all_checkpoints: bool,
    /// write a page about the tasks: scores with error bars, over the tokens of the run with --all-checkpoints,
    /// calibration, the load of experts, examples
    #[argh(option, arg_name = "file.html")]
    report: Option<PathBuf>,
    /// stop after about this many tokens of --data, or items of each task; 0 for all (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    limit: u64,
    /// let attention cross document boundaries
    #[argh(switch)]
    no_document_mask: bool,
    /// score each line of a JSON Lines file: {"tokens": [...]} or {"context": "...", "continuation": "..."}. Spaces at
    /// the end of a context count to the continuation, as in lm-evaluation-harness.
    #[argh(option, arg_name = "file")]
    score: Option<PathBuf>,
    /// file for the scores (default: stdout); with --tasks a folder for results.json and the answers to all items, from
    /// which a run that was stopped goes on
    #[argh(option, arg_name = "file|folder")]
    output: Option<PathBuf>,
    /// print results as JSON
    #[argh(switch)]
    json: bool,
    /// what matrices are stored in: stored (as the checkpoint has them), bf16, fp8 (E4M3 with a scale for every 128x128
    /// block) or f32 (default: stored)
    #[argh(option, default = "String::from(\"stored\")", arg_name = "stored|bf16|fp8|f32")]
    weights: String,
    /// compute as generate does, token by token over a latent cache in this format: f32, bf16 or fp8 (default: one
    /// pass over each window, without a cache)
    #[argh(option, arg_name = "format", from_str_fn(cache_format))]
    cache: Option<CacheFormat>,
    /// use the exponential moving average (EMA) of the weights (train.ema_decay)
    #[argh(switch)]
    ema: bool,
    /// auto (the first GPU, else the CPU), cpu, cuda, cuda:N, or cuda:emulated (the GPU kernels on the CPU, slow and
    /// checked, for tests) (default: auto)
    #[argh(option, default = "String::from(\"auto\")", arg_name = "device")]
    device: String,
    /// threads of the CPU device; 0 for all cores (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    threads: usize,
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        run(&self)
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { data, score, tasks, output, .. } = arguments;
    if data.is_none() && score.is_none() && tasks.is_none() {
        return Err(Error::Usage("nothing to do: give --data DIR, --score FILE, --tasks NAMES, or several".into()));
    }
    if score.is_some() && tasks.is_some() && output.is_some() {
        return Err(Error::Usage("--output: is a file for --score and a folder for --tasks; call eval twice".into()));
    }
    if tasks.is_some() && arguments.cache.is_some() {
        return Err(Error::Usage("--cache: is for --data and --score; --tasks reads prompts in one pass".into()));
    }
    let task_options = !arguments.task_data.is_empty() || !arguments.fewshot_data.is_empty();
    if tasks.is_none() && (task_options || arguments.num_fewshot.is_some() || arguments.confirm_run_unsafe_code) {
        let names = "--task-data, --fewshot-data, --num-fewshot and --confirm-run-unsafe-code";
        return Err(Error::Usage(format!("{names} need --tasks NAMES")));
    }
    if tasks.is_none() && (arguments.report.is_some() || arguments.all_checkpoints) {
        return Err(Error::Usage("--report and --all-checkpoints need --tasks NAMES".into()));
    }
    if arguments.all_checkpoints && (data.is_some() || score.is_some()) {
        return Err(Error::Usage("--all-checkpoints: is for --tasks alone; call eval twice".into()));
    }
    let device = AnyDevice::open(&arguments.device, arguments.threads)?;
    on_device!(&device, device => run_on(device, arguments))
}

fn run_on<D: Kernels>(device: &D, arguments: &Arguments) -> Result<()> {
    let weights = weights(&arguments.weights)?;
    let scoring = arguments.cache;
    let options = LoadOptions { average: arguments.ema, weights, scoring, ..LoadOptions::default() };
    let report = arguments.report.as_deref().map(Target::new).transpose()?;
    if arguments.all_checkpoints {
        return run_all(device, arguments, &options, report.as_ref());
    }
    let session = open(device, &arguments.checkpoint, &options)?;
    // While the checkpoint is loaded, a signal ends the program as the system does.
    let stop = &*signals::breaks()?;
    if let Some(file) = &arguments.score {
        score(&session, file, arguments.output.as_deref(), stop)?;
    }
    if let Some(data) = &arguments.data {
        let result = measure(&session, arguments, data, stop)?;
        let json = || serde_json::to_string(&result).map_err(|e| Error::Run(e.to_string()));
        cli::print(&if arguments.json { json()? } else { result.to_string() })?;
    }
    let mut results = Vec::new();
    if let Some(names) = &arguments.tasks {
        results.push(run_tasks(&session, arguments, names, arguments.output.clone(), stop)?);
    }
    write_report(report.as_ref(), &results)
}

fn open<D: Kernels>(device: &D, checkpoint: &Path, options: &LoadOptions) -> Result<Session<D>> {
    let session = Session::load_with(device, checkpoint, options)?;
    eprintln!("checkpoint: {}", session.checkpoint().display());
    Ok(session)
}

fn write_report(report: Option<&Target>, results: &[Results]) -> Result<()> {
    if let Some(report) = report {
        report.write(results)?;
        eprintln!("report: {}", report.path().display());
    }
    Ok(())
}

/// Measures the tasks on every checkpoint of a run, the oldest first. One that is damaged is named among the results,
/// and does not keep the others from being measured.
///
/// # Errors
/// A run without checkpoints; damaged ones, once the others are measured.
fn run_all<D: Kernels>(
    device: &D,
    arguments: &Arguments,
    options: &LoadOptions,
    report: Option<&Target>,
) -> Result<()> {
    let (run, names) = (&arguments.checkpoint, arguments.tasks.as_deref().unwrap_or_default());
    let (mut results, mut damaged, mut handled) = (Vec::new(), Vec::new(), None);
    for Found { folder, damage, .. } in checkpoint::survey(run)?.into_iter().rev() {
        let opened = match damage {
            Some(damage) => Err(damage.into()),
            None => open(device, &folder, options),
        };
        let session = match opened {
            Ok(session) => session,
            Err(error @ (Error::Checkpoint(_) | Error::Model(_))) => {
                let problem = error.to_string();
                eprintln!("passing over {}: {problem}", folder.display());
                if arguments.json {
                    cli::print(&serde_json::json!({ "checkpoint": folder, "error": problem }).to_string())?;
                }
                damaged.push(folder);
                continue;
            }
            Err(error) => return Err(error),
        };
        let stop = match &handled {
            Some(stop) => Arc::clone(stop),
            None => Arc::clone(handled.insert(signals::breaks()?)),
        };
        let name = folder.file_name().unwrap_or_default();
        let output = arguments.output.as_ref().map(|output| output.join(name));
        results.push(run_tasks(&session, arguments, names, output, &stop)?);
    }
    let (run, all) = (run.display(), results.len() + damaged.len());
    if results.is_empty() {
        let found = if all == 0 { "no checkpoint" } else { "no complete checkpoint" };
        return Err(Error::Run(format!(
            "--all-checkpoints: {run} holds {found}; name the output folder of a training run"
        )));
    }
    write_report(report, &results)?;
    let Some(first) = damaged.first().map(|folder| folder.display()) else { return Ok(()) };
    Err(Error::Run(format!(
        "{} of {all} checkpoints of {run} are damaged and were not measured, the first of them {first}: repair or \
         remove them",
        damaged.len()
    )))
}

fn run_tasks<D: Kernels>(
    session: &Session<D>,
    arguments: &Arguments,
    names: &str,
    output: Option<PathBuf>,
    stop: &AtomicBool,
) -> Result<Results> {
    let options = tasks::Options {
        tasks: settings::names(&[names]),
        places: Places::new(&arguments.task_data, &arguments.fewshot_data, Wording::Options)?,
        shots: arguments.num_fewshot,
        limit: usize::try_from(arguments.limit).unwrap_or(usize::MAX),
        // Kept beside the answers too, for a report that is asked for later.
        count_load: arguments.report.is_some() || output.is_some(),
        output,
        unsafe_code: arguments.confirm_run_unsafe_code,
        weights: format!("{}{}", arguments.weights, if arguments.ema { ",ema" } else { "" }),
        average: arguments.ema,
        ..tasks::Options::default()
    };
    let mut counter = Counter::new("eval", "items");
    let (mut done, mut total) = (0, 0);
    let measured = tasks::run(session, &options, &|| !stop.load(Ordering::Relaxed), |now, all| {
        (done, total) = (now, all);
        counter.show(done, total);
    });
    counter.finish();
    let results = measured?.ok_or_else(|| {
        let kept = match &options.output {
            Some(folder) => format!("the same command goes on with the answers in {}", folder.display()),
            None => "nothing is kept without --output".into(),
        };
        Error::Interrupted(format!("interrupted after {done} of {total} items; {kept}"))
    })?;
    let json = || serde_json::to_string(&results.json()).map_err(|e| Error::Run(e.to_string()));
    cli::print(&if arguments.json { json()? } else { results.text() })?;
    Ok(results)
}

fn score<D: Kernels>(session: &Session<D>, file: &Path, output: Option<&Path>, stop: &AtomicBool) -> Result<()> {
    let input = BufReader::new(File::open(file).map_err(Error::io("read", file))?);
    let go_on = || !stop.load(Ordering::Relaxed);
    let scored = match output {
        None => score_lines(session, file, input, &mut std::io::stdout().lock(), &go_on)?,
        Some(path) => {
            let mut out = BufWriter::new(File::create(path).map_err(Error::io("create", path))?);
            let scored = score_lines(session, file, input, &mut out, &go_on)?;
            out.flush().map_err(Error::io("write", path))?;
            eprintln!("{} lines scored, written to {}", scored.lines, path.display());
            scored
        }
    };
    if scored.cut > 0 {
        let (lines, context) = (scored.cut, session.context());
        eprintln!(
            "{lines} lines are longer than the model's context of {context} tokens: cut at the left (\"cut\" says by \
             how much)"
        );
    }
    match go_on() {
        true => Ok(()),
        false => Err(Error::Interrupted(format!("interrupted after {} lines; their scores are written", scored.lines))),
    }
}

fn measure<D: Kernels>(
    session: &Session<D>,
    arguments: &Arguments,
    data: &Path,
    stop: &AtomicBool,
) -> Result<Measured> {
    let split = match arguments.split.as_deref() {
        None => None,
        Some("validation") => Some(Split::Validation),
        Some("train") => Some(Split::Train),
        Some(other) => return Err(Error::Usage(format!("--split {other}: must be validation or train"))),
    };
    let request = Request {
        data,
        split,
        window: Some(arguments.sequence_length).filter(|&length| length > 0),
        document_mask: arguments.no_document_mask.then_some(false),
        limit: arguments.limit,
    };
    let mut counter = Counter::new("eval", "tokens");
    let mut left = 0;
    let measured = evaluate::measure(session, &request, |done, total| {
        counter.show(done, total);
        left = total - done;
        !stop.load(Ordering::Relaxed)
    });
    counter.finish();
    let result = measured?;
    if left > 0 {
        eprintln!("{result}");
        let (done, total) = (result.result.tokens, result.result.tokens + left);
        let only = "the figures above are of these alone";
        return Err(Error::Interrupted(format!("interrupted after {done} of {total} tokens; {only}")));
    }
    Ok(result)
}
