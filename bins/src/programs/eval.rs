//! `eval`: measures a trained model.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::cli::{self, Command, Program};
use crate::device::AnyDevice;
use crate::error::{Error, Result};
use crate::evaluate::{Evaluated, evaluate, score_lines};
use crate::session::Session;
use crate::{on_device, prepare};
use argh::{ArgsInfo, FromArgs};
use fathom_core::device::Kernels;
use fathom_dataprep::{Evaluation, ShardSet, Split};

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
    /// tokens of a window (default: the model's context length, at most 1024)
    #[argh(option, default = "0", arg_name = "n")]
    sequence_length: usize,
    /// stop after about this many tokens; 0 for all (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    limit: u64,
    /// let attention cross document boundaries
    #[argh(switch)]
    no_document_mask: bool,
    /// score each line of a JSON Lines file: {"tokens": [...]} or {"context": "...", "continuation": "..."}. Spaces at the
    /// end of a context count to the continuation, as in lm-evaluation-harness.
    #[argh(option, arg_name = "file")]
    score: Option<PathBuf>,
    /// file for the scores (default: stdout)
    #[argh(option, arg_name = "file")]
    output: Option<PathBuf>,
    /// print results as JSON
    #[argh(switch)]
    json: bool,
    /// use the exponential moving average (EMA) of the weights (train.ema_decay)
    #[argh(switch)]
    ema: bool,
    /// auto (the first GPU, else the CPU), cpu, cuda, cuda:N, or cuda:emulated (the GPU kernels on the CPU, slow and checked,
    /// for tests) (default: auto)
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
    let load = if arguments.ema { Session::load_average } else { Session::load };
    let mut session = load(device, &arguments.checkpoint)?;
    if let Some(file) = &arguments.score {
        score(&mut session, file, arguments.output.as_deref())?;
    }
    if let Some(data) = &arguments.data {
        let result = measure(&mut session, arguments, data)?;
        print(&result, arguments.json)?;
    }
    Ok(())
}

fn score<D: Kernels>(session: &Session<D>, file: &Path, output: Option<&Path>) -> Result<()> {
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    };
    let input = BufReader::new(File::open(file).map_err(failed("read", file))?);
    match output {
        None => score_lines(session, file, input, &mut std::io::stdout().lock())?,
        Some(path) => {
            let mut out = BufWriter::new(File::create(path).map_err(failed("create", path))?);
            let scored = score_lines(session, file, input, &mut out)?;
            out.flush().map_err(failed("write", path))?;
            eprintln!("{scored} lines scored, written to {}", path.display());
            scored
        }
    };
    Ok(())
}

fn measure<D: Kernels>(session: &Session<D>, arguments: &Arguments, data: &Path) -> Result<Evaluated> {
    let mut shards = match arguments.split.as_deref() {
        Some("validation") => ShardSet::open(data, Split::Validation)?,
        Some("train") => ShardSet::open(data, Split::Train)?,
        Some(other) => return Err(Error::Usage(format!("--split {other}: must be validation or train"))),
        None => prepare::validation_or_train(data)?,
    };
    shards.limit_vocabulary(session.model().config().vocab_size as u32);
    let tokenizer = session.tokenizer().clone();
    if let Some(manifest) = shards.manifest().filter(|m| m.tokenizer.fingerprint != tokenizer.fingerprint()) {
        return Err(Error::Run(format!(
            "{} was tokenised with another tokenizer ({}) than the checkpoint's: prepare it again with --tokenizer {}",
            data.display(),
            manifest.tokenizer.kind,
            arguments.checkpoint.display()
        )));
    }
    let context = session.context();
    let length = if arguments.sequence_length > 0 { arguments.sequence_length } else { context.min(1024) };
    if length > context {
        return Err(Error::Usage(format!("--sequence-length {length}: the model's context is {context}")));
    }
    let mut windows = Evaluation::new(shards, length)?;
    let bar = cli::progress_bar(windows.targets(), "tokens");
    let mask = !arguments.no_document_mask;
    let result = evaluate(session.model(), &mut windows, Some(&tokenizer), mask, arguments.limit, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(result)
}

fn print(result: &Evaluated, json: bool) -> Result<()> {
    let text = if json {
        serde_json::to_string(result).map_err(|e| Error::Run(e.to_string()))?
    } else {
        let bits = result.bits_per_byte.map_or(String::new(), |b| format!("bits per byte  {b:.4}\n"));
        format!(
            "loss           {:.4} nats a token\nperplexity     {:.3}\n{bits}tokens         {}",
            result.loss, result.perplexity, result.tokens
        )
    };
    cli::print(&text)
}
