//! `eval`: measures a trained model.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{cache_format, weights};
use crate::cli::{self, Command, Program};
use crate::counter::Counter;
use crate::device::AnyDevice;
use crate::error::{Error, Result};
use crate::evaluate::{self, Measured, Request, score_lines};
use crate::on_device;
use crate::session::{LoadOptions, Session};
use argh::{ArgsInfo, FromArgs};
use fathom_core::cache::CacheFormat;
use fathom_core::device::Kernels;
use fathom_dataprep::Split;

/// The command.
pub const COMMAND: Command =
    Command::new::<Arguments>("eval", "measure a model: loss, perplexity, bits per byte, scores");

/// Measure a model: loss, perplexity and bits per byte on prepared data, or the log probability of given texts.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} --checkpoint runs/quickstart --data runs/quickstart/data",
    example = "{command_name} --checkpoint runs/quickstart --score requests.jsonl --output scores.jsonl",
    error_code(0, "done"),
    error_code(1, "the checkpoint, the data or the device failed"),
    error_code(2, "wrong arguments")
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
    /// stop after about this many tokens; 0 for all (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    limit: u64,
    /// let attention cross document boundaries
    #[argh(switch)]
    no_document_mask: bool,
    /// score each line of a JSON Lines file: {"tokens": [...]} or {"context": "...", "continuation": "..."}. Spaces at
    /// the end of a context count to the continuation, as in lm-evaluation-harness.
    #[argh(option, arg_name = "file")]
    score: Option<PathBuf>,
    /// file for the scores (default: stdout)
    #[argh(option, arg_name = "file")]
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
    if arguments.data.is_none() && arguments.score.is_none() {
        return Err(Error::Usage("nothing to do: give --data DIR, --score FILE, or both".into()));
    }
    let device = AnyDevice::open(&arguments.device, arguments.threads)?;
    on_device!(&device, device => run_on(device, arguments))
}

fn run_on<D: Kernels>(device: &D, arguments: &Arguments) -> Result<()> {
    let weights = weights(&arguments.weights)?;
    let scoring = arguments.cache;
    let options = LoadOptions { average: arguments.ema, weights, scoring, ..LoadOptions::default() };
    let session = Session::load_with(device, &arguments.checkpoint, &options)?;
    eprintln!("checkpoint: {}", session.checkpoint().display());
    if let Some(file) = &arguments.score {
        score(&session, file, arguments.output.as_deref())?;
    }
    if let Some(data) = &arguments.data {
        let result = measure(&session, arguments, data)?;
        let json = || serde_json::to_string(&result).map_err(|e| Error::Run(e.to_string()));
        cli::print(&if arguments.json { json()? } else { result.to_string() })?;
    }
    Ok(())
}

fn score<D: Kernels>(session: &Session<D>, file: &Path, output: Option<&Path>) -> Result<()> {
    let input = BufReader::new(File::open(file).map_err(Error::io("read", file))?);
    let scored = match output {
        None => score_lines(session, file, input, &mut std::io::stdout().lock())?,
        Some(path) => {
            let mut out = BufWriter::new(File::create(path).map_err(Error::io("create", path))?);
            let scored = score_lines(session, file, input, &mut out)?;
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
    Ok(())
}

fn measure<D: Kernels>(session: &Session<D>, arguments: &Arguments, data: &Path) -> Result<Measured> {
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
    let result = evaluate::measure(session, &request, |done, total| counter.show(done, total))?;
    counter.finish();
    Ok(result)
}
