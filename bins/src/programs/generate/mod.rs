//! `generate`: continues a prompt with a trained model, answers in a chat, or runs a file of requests.

mod batch;
mod chat;
mod interrupt;
mod stats;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::{cache_format, weights};
use crate::cli::{Command, Program};
use crate::device::AnyDevice;
use crate::error::{Error, Result};
use crate::infer::{EngineOptions, Request, Sampling, Stop, single};
use crate::on_device;
use crate::session::{LoadOptions, Session};
use argh::{ArgsInfo, FromArgs};
use fathom_core::cache::CacheFormat;
use fathom_core::device::Kernels;
use interrupt::{AtPrompt, interrupts};

/// The command.
pub const COMMAND: Command = Command::new::<Arguments>("generate", "continue a prompt with a model");

/// Continue a prompt with a model. The generated text, without the prompt, goes to stdout as it comes. Order of the
/// samplers: logit bias, penalties, temperature, top-k, top-p, min-p.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} --checkpoint runs/quickstart --prompt ROMEO: --temperature 0.8 --top-p 0.95",
    example = "{command_name} --checkpoint DeepSeek-V2-Lite-Chat --chat --temperature 0.3",
    error_code(0, "done"),
    error_code(1, "the checkpoint, the device or a request failed"),
    error_code(2, "wrong arguments"),
    error_code(130, "stopped by a signal; what was generated until then is there")
)]
struct Arguments {
    /// model folder in Hugging Face layout, or the output folder of a run (its newest checkpoint)
    #[argh(option, arg_name = "folder")]
    checkpoint: PathBuf,
    /// text to continue, UTF-8; `-` reads it from stdin (default: empty, which starts a new document)
    #[argh(option, arg_name = "text")]
    prompt: Option<String>,
    /// converse: each line of stdin is a message, by the model's chat template; Ctrl-C stops an answer
    #[argh(switch)]
    chat: bool,
    /// system message of --chat
    #[argh(option, arg_name = "text")]
    system: Option<String>,
    /// run the requests of this file as one batch: a JSON object a line with tokens, prompt or messages, and any of
    /// max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty,
    /// logit_bias, stop, stop_tokens, seed, ignore_eos, logprobs; the options here are the defaults
    #[argh(option, arg_name = "file")]
    requests: Option<PathBuf>,
    /// file for the results of --requests, a JSON object a line in the same order (default: stdout)
    #[argh(option, arg_name = "file")]
    output: Option<PathBuf>,
    /// maximum number of generated tokens (default: 128)
    #[argh(option, default = "128", arg_name = "n")]
    max_new_tokens: usize,
    /// softmax temperature; 0 = greedy (default: 1)
    #[argh(option, default = "1.0", arg_name = "t")]
    temperature: f64,
    /// sample from the k most probable tokens, ties included; 0 = all (default: 0)
    #[argh(option, default = "0", arg_name = "k")]
    top_k: usize,
    /// nucleus sampling: sample from the most probable tokens whose probabilities add up to p; 1 = all (default: 1)
    #[argh(option, default = "1.0", arg_name = "p")]
    top_p: f64,
    /// sample from the tokens with at least this share of the largest probability; 0 = all (default: 0)
    #[argh(option, default = "0.0", arg_name = "share")]
    min_p: f64,
    /// divide the logits of tokens of the prompt and the output by this (multiply negative ones); 1 = off (default: 1)
    #[argh(option, default = "1.0", arg_name = "x")]
    repetition_penalty: f64,
    /// subtract this from the logits of tokens of the output; 0 = off (default: 0)
    #[argh(option, default = "0.0", arg_name = "x")]
    presence_penalty: f64,
    /// subtract this from the logits of tokens of the output for each time they occur; 0 = off (default: 0)
    #[argh(option, default = "0.0", arg_name = "x")]
    frequency_penalty: f64,
    /// add a number to the logit of a token id, as in 42=-1.5; may be repeated
    #[argh(option, arg_name = "id=x", from_str_fn(logit_bias))]
    logit_bias: Vec<(u32, f32)>,
    /// end the text before this string; may be repeated
    #[argh(option, arg_name = "text")]
    stop: Vec<String>,
    /// go on after tokens that end a text
    #[argh(switch)]
    ignore_eos: bool,
    /// seed of the sampler; the same seed gives the same text (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    seed: u64,
    /// format of the latent cache: f32, bf16 or fp8 (default: f32)
    #[argh(option, default = "CacheFormat::F32", arg_name = "format", from_str_fn(cache_format))]
    cache: CacheFormat,
    /// tokens that the cache holds, over all requests (default: all requests, up to 1 GiB)
    #[argh(option, arg_name = "n")]
    cache_tokens: Option<usize>,
    /// tokens of a step, over all requests; longer prompts are cut into chunks (default: 512)
    #[argh(option, default = "512", arg_name = "n")]
    step_tokens: usize,
    /// draft this number of tokens a round with the model's MTP module, and keep those that the model agrees with
    /// (speculative decoding; default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    speculate: usize,
    /// print bytes of the cache, tokens a second and accepted drafts to stderr; with --speculate everything but a chat
    /// is computed once more without drafts, to say what they gain
    #[argh(switch)]
    stats: bool,
    /// what matrices are stored in: stored (as the checkpoint has them), bf16, fp8 (E4M3 with a scale for every 128x128
    /// block) or f32 (default: stored)
    #[argh(option, default = "String::from(\"stored\")", arg_name = "stored|bf16|fp8|f32")]
    weights: String,
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

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| format!("{text}: must be a token id and a number, as in 42=-1.5"))
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        run(&self)
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let sampling = arguments.sampling();
    sampling.validate(usize::MAX)?;
    let ways = [arguments.prompt.is_some(), arguments.chat, arguments.requests.is_some()];
    if ways.into_iter().filter(|&way| way).count() > 1 {
        return Err(Error::Usage("--prompt, --chat and --requests exclude each other: give one of them".into()));
    }
    if arguments.output.is_some() && arguments.requests.is_none() {
        return Err(Error::Usage("--output belongs to --requests; a text goes to stdout".into()));
    }
    if arguments.system.is_some() && !arguments.chat {
        return Err(Error::Usage("--system belongs to --chat".into()));
    }
    let mut prompt = arguments.prompt.clone().unwrap_or_default();
    if prompt == "-" {
        prompt.clear();
        let read = std::io::stdin().read_to_string(&mut prompt);
        read.map_err(|e| Error::Run(format!("cannot read the prompt from stdin: {e}")))?;
    }
    let device = AnyDevice::open(&arguments.device, arguments.threads)?;
    on_device!(&device, device => with_model(device, arguments, &prompt, &sampling))
}

fn with_model<D: Kernels>(device: &D, arguments: &Arguments, prompt: &str, sampling: &Sampling) -> Result<()> {
    let weights = weights(&arguments.weights)?;
    let mtp = arguments.speculate > 0;
    let options = LoadOptions { average: arguments.ema, weights, mtp, ..LoadOptions::default() };
    let session = Session::load_with(device, &arguments.checkpoint, &options)?;
    eprintln!("checkpoint: {}", session.checkpoint().display());
    if let Some(file) = &arguments.requests {
        batch::run(&session, arguments, file, sampling)
    } else if arguments.chat {
        chat::run(&session, arguments, sampling)
    } else {
        write(&session, arguments, prompt, sampling)
    }
}

fn write<D: Kernels>(session: &Session<D>, arguments: &Arguments, prompt: &str, sampling: &Sampling) -> Result<()> {
    let tokens = session.encode(prompt)?;
    let options = arguments.engine(session, &[(tokens.len(), sampling.max_new_tokens)]);
    let mut engine = session.engine(options)?;
    let stop = interrupts(AtPrompt::End)?;
    let mut out = std::io::stdout().lock();
    // A closed pipe (`| head`) ends the generation quietly.
    let mut open = true;
    let request = Request::new(tokens, sampling.clone());
    let again = arguments.compares().then(|| request.clone());
    let mut write = |piece: &str| {
        open = out.write_all(piece.as_bytes()).and_then(|()| out.flush()).is_ok();
        open
    };
    let generated = single::run(&mut engine, request, &mut write, &|| stop.load(Ordering::SeqCst))?;
    if open {
        let _ = out.write_all(b"\n");
    }
    if generated.stop == Stop::Context {
        eprintln!("stopped: the model's context of {} tokens is full", session.context());
    }
    arguments.print_stats(&engine);
    if stop.load(Ordering::SeqCst) {
        return Err(Error::Interrupted(format!("interrupted after {} tokens", generated.tokens.len())));
    }
    if let Some(request) = again.filter(|_| open) {
        let speculated = engine.stats();
        drop(engine);
        let done = (speculated, vec![generated.tokens]);
        eprint!("{}", stats::beside_plain(session, options, vec![request], done, &stop)?);
    }
    Ok(())
}

impl Arguments {
    fn sampling(&self) -> Sampling {
        Sampling {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            seed: self.seed,
            ..Sampling::default()
        }
    }

    /// An engine for requests of the given numbers of prompt tokens and new tokens.
    fn engine<D: Kernels>(&self, session: &Session<D>, lengths: &[(usize, usize)]) -> EngineOptions {
        let options = EngineOptions {
            format: self.cache,
            step_tokens: self.step_tokens.max(1),
            drafts: self.speculate,
            ..EngineOptions::default()
        };
        match self.cache_tokens {
            Some(cache_tokens) => EngineOptions { cache_tokens: cache_tokens.max(1), ..options },
            None => options.sized(session.model().config(), lengths.iter().copied()),
        }
    }

    /// Whether everything is computed once more without drafts.
    fn compares(&self) -> bool {
        self.stats && self.speculate > 0
    }

    fn print_stats<D: Kernels>(&self, engine: &crate::infer::Engine<'_, D>) {
        if self.stats {
            eprint!("{}", stats::text(engine));
        }
    }
}
