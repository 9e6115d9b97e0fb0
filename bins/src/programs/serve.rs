//! `serve`: answers requests of OpenAI's clients with a trained model.

use std::env::VarError;
use std::path::{Path, PathBuf};

use super::{cache_format, weights};
use crate::cli::{Command, Program, signals};
use crate::device::AnyDevice;
use crate::error::{Error, INTERRUPTED, Result};
use crate::infer::EngineOptions;
use crate::on_device;
use crate::serve::{Options, Server};
use crate::session::{LoadOptions, Session};
use argh::{ArgsInfo, FromArgs};
use fathom_core::cache::CacheFormat;
use fathom_core::device::Kernels;

/// The command.
pub const COMMAND: Command = Command::new::<Arguments>("serve", "answer requests of OpenAI's clients with a model");

/// The variable that holds the key.
pub(super) const KEY: &str = "FATHOM_API_KEY";

/// Answer requests of OpenAI's clients with a model: POST /v1/completions and /v1/chat/completions, GET /v1/models,
/// /health, /metrics and more (docs/serve.md). Prints "listening on http://ADDRESS" to stderr when it can answer.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} --checkpoint runs/quickstart",
    example = "{command_name} --checkpoint DeepSeek-V2-Lite-Chat --host 0.0.0.0 --port 8000 --cache bf16",
    note = "The first Ctrl-C or SIGTERM finishes what runs, the second ends at once.",
    error_code(0, "stopped by a signal"),
    error_code(1, "the checkpoint, the device or the address failed"),
    error_code(2, "wrong arguments"),
    error_code(130, "ended at once by a second signal, or by one while it loads")
)]
struct Arguments {
    /// model folder in Hugging Face layout, or the output folder of a run (its newest checkpoint)
    #[argh(option, arg_name = "folder")]
    checkpoint: PathBuf,
    /// address to listen on; 0.0.0.0 is every address of this machine (default: 127.0.0.1)
    #[argh(option, default = "Options::default().host", arg_name = "address")]
    host: String,
    /// port to listen on; 0 = any free one (default: 8080)
    #[argh(option, default = "Options::default().port", arg_name = "n")]
    port: u16,
    /// key that clients must send on every route but /health and the page at / (default: the variable FATHOM_API_KEY,
    /// which other users of this machine cannot see)
    #[argh(option, arg_name = "key")]
    api_key: Option<String>,
    /// file with the key, as systemd, Docker and Kubernetes hand secrets to programs
    #[argh(option, arg_name = "file")]
    api_key_file: Option<PathBuf>,
    /// name of the model for clients (default: the name of the checkpoint's folder)
    #[argh(option, arg_name = "name")]
    model_name: Option<String>,
    /// pages of this origin may read answers (CORS), as in https://example.org; `*` = all; may be repeated
    #[argh(option, arg_name = "origin")]
    cors_origin: Vec<String>,
    /// log prompts and answers, not only their sizes
    #[argh(switch)]
    log_prompts: bool,
    /// how a request is sampled that does not say: auto (as the checkpoint's generation_config.json says) or none
    /// (temperature 1, nothing else) (default: auto)
    #[argh(option, default = "String::from(\"auto\")", arg_name = "auto|none")]
    generation_config: String,
    /// count in /metrics how many tokens the routers send to each expert: a line for each expert of each layer
    #[argh(switch)]
    expert_metrics: bool,
    /// sequences that are computed at the same time (default: 64)
    #[argh(option, default = "EngineOptions::default().sequences", arg_name = "n")]
    parallel: usize,
    /// sequences that wait for that; more are refused with status 429 (default: 256)
    #[argh(option, default = "Options::default().queue", arg_name = "n")]
    queue: usize,
    /// choices of a prompt (n), at most (default: 8)
    #[argh(option, default = "Options::default().max_choices", arg_name = "n")]
    max_choices: usize,
    /// new tokens of a choice, at most (default: up to the model's context)
    #[argh(option, arg_name = "n")]
    max_tokens: Option<usize>,
    /// bytes of a request's body, at most (default: 2097152)
    #[argh(option, default = "Options::default().max_body", arg_name = "bytes")]
    max_body: usize,
    /// open connections, at most; the oldest idle one is closed for a new one (default: 4096)
    #[argh(option, default = "Options::default().connections", arg_name = "n")]
    max_connections: usize,
    /// seconds after which a request is given up (default: 600)
    #[argh(option, default = "Options::default().request_seconds", arg_name = "n")]
    request_seconds: u64,
    /// seconds for which a signal lets requests finish (default: 30)
    #[argh(option, default = "Options::default().shutdown_seconds", arg_name = "n")]
    shutdown_seconds: u64,
    /// format of the latent cache: f32, bf16 or fp8 (default: f32)
    #[argh(option, default = "CacheFormat::F32", arg_name = "format", from_str_fn(cache_format))]
    cache: CacheFormat,
    /// tokens that the cache holds, over all requests (default: --parallel times the context, up to 1 GiB)
    #[argh(option, arg_name = "n")]
    cache_tokens: Option<usize>,
    /// tokens of a step, over all requests; longer prompts are cut into chunks, and a request that goes away is dropped
    /// between two steps (default: 512)
    #[argh(option, default = "512", arg_name = "n")]
    step_tokens: usize,
    /// draft this number of tokens a round with the model's MTP module, and keep those that the model agrees with
    /// (speculative decoding; default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    speculate: usize,
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

impl Program for Arguments {
    fn run(self) -> Result<()> {
        // What is wrong with the arguments is said before the model is loaded.
        weights(&self.weights)?;
        self.check()?;
        let options = self.options()?;
        let server = Server::start(options)?;
        let stopper = server.stopper();
        let mut told = 0;
        signals::handle(move |_| {
            told += 1;
            if told > 1 || !stopper.is_running() {
                std::process::exit(INTERRUPTED.into());
            }
            eprintln!("finishing what runs; another signal leaves at once");
            stopper.stop();
        })?;
        let device = AnyDevice::open(&self.device, self.threads)?;
        on_device!(&device, device => run(device, &self, server))
    }
}

fn run<D: Kernels>(device: &D, arguments: &Arguments, server: Server) -> Result<()> {
    let weights = weights(&arguments.weights)?;
    let mtp = arguments.speculate > 0;
    let options = LoadOptions { average: arguments.ema, weights, mtp, ..LoadOptions::default() };
    let session = Session::load_with(device, &arguments.checkpoint, &options)?;
    let engine = arguments.engine(&session);
    eprintln!("checkpoint: {}", session.checkpoint().display());
    eprintln!(
        "model {:?}: context {}, cache of {} tokens ({}), {} sequences at a time, {} in the queue",
        arguments.name(),
        session.context(),
        engine.cache_tokens,
        engine.format,
        engine.sequences,
        arguments.queue
    );
    let address = server.address();
    server.run(&session, engine, || eprintln!("listening on http://{address}"))
}

impl Arguments {
    fn name(&self) -> String {
        let named = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
        let folder = || named(&std::path::absolute(&self.checkpoint).ok()?);
        self.model_name.clone().or_else(folder).unwrap_or_else(|| Options::default().model)
    }

    /// Refuses numbers with which nothing could be answered, and origins that no browser sends.
    fn check(&self) -> Result<()> {
        for (name, value) in [
            ("parallel", Some(self.parallel)),
            ("max-choices", Some(self.max_choices)),
            ("max-tokens", self.max_tokens),
            ("max-body", Some(self.max_body)),
            ("max-connections", Some(self.max_connections)),
            ("cache-tokens", self.cache_tokens),
            ("step-tokens", Some(self.step_tokens)),
        ] {
            if value == Some(0) {
                return Err(Error::Usage(format!("--{name} 0: must be at least 1, or left out for the default")));
            }
        }
        match self.cors_origin.iter().find(|origin| !is_origin(origin)) {
            Some(origin) => Err(Error::Usage(format!(
                "--cors-origin {origin:?}: must be * or an origin as browsers send it, scheme://host or \
                 scheme://host:port in small letters without a path, as in https://example.org"
            ))),
            None => Ok(()),
        }
    }

    /// The key that clients must send: the option's, that of the file, or the variable's.
    fn key(&self) -> Result<Option<String>> {
        let (key, from) = match (&self.api_key, &self.api_key_file) {
            (Some(_), Some(_)) => {
                return Err(Error::Usage("--api-key and --api-key-file exclude each other: give one of them".into()));
            }
            (Some(key), None) => (key.clone(), "--api-key".to_owned()),
            (None, Some(file)) => {
                let key = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
                (key, format!("--api-key-file {}", file.display()))
            }
            (None, None) => match std::env::var(KEY) {
                Ok(key) => (key, KEY.to_owned()),
                Err(VarError::NotPresent) => return Ok(None),
                Err(VarError::NotUnicode(_)) => return Err(Error::Usage(format!("{KEY}: is not UTF-8"))),
            },
        };
        let key = key.trim();
        if key.is_empty() {
            return Err(Error::Usage(format!("{from} is empty: give a key, or leave it out")));
        }
        Ok(Some(key.to_owned()))
    }

    fn options(&self) -> Result<Options> {
        let api_key = self.key()?;
        let generation_config = match self.generation_config.as_str() {
            "auto" => true,
            "none" => false,
            other => return Err(Error::Usage(format!("--generation-config {other}: must be auto or none"))),
        };
        let local = ["127.0.0.1", "::1", "localhost"].contains(&self.host.as_str());
        if !local && api_key.is_none() {
            eprintln!("warning: {} can be reached from other machines, and no --api-key is set", self.host);
        }
        Ok(Options {
            host: self.host.clone(),
            port: self.port,
            api_key,
            model: self.name(),
            cors_origins: self.cors_origin.clone(),
            log_prompts: self.log_prompts,
            generation_config,
            expert_metrics: self.expert_metrics,
            queue: self.queue,
            max_choices: self.max_choices,
            max_tokens: self.max_tokens,
            max_body: self.max_body,
            connections: self.max_connections,
            request_seconds: self.request_seconds,
            shutdown_seconds: self.shutdown_seconds,
        })
    }

    fn engine<D: Kernels>(&self, session: &Session<D>) -> EngineOptions {
        let options = EngineOptions {
            format: self.cache,
            step_tokens: self.step_tokens,
            sequences: self.parallel,
            drafts: self.speculate,
            ..EngineOptions::default()
        };
        match self.cache_tokens {
            Some(cache_tokens) => EngineOptions { cache_tokens, ..options },
            None => {
                let all = std::iter::repeat_n((session.context(), 0), options.sequences);
                options.sized(session.model().config(), all)
            }
        }
    }
}

/// Whether this is `*`, `null`, or an origin as browsers write it.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return text == "*" || text == "null" };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let wrong = |c: char| c.is_whitespace() || c.is_control() || c.is_uppercase() || "/?#@\\*".contains(c);
    let scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c));
    scheme && !host.is_empty() && !host.contains(wrong) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::is_origin;

    #[test]
    fn origins_are_what_browsers_send() {
        for origin in
            ["*", "null", "https://a.b", "http://localhost:3000", "http://[::1]:80", "http://[::1]", "app://x"]
        {
            assert!(is_origin(origin), "{origin}");
        }
        for other in [
            "",
            "a.b",
            "https://",
            "https://a.b/",
            "https://a.b/c",
            "https://a:x",
            "HTTPS://a",
            "https://A.b",
            "://a",
            "https://a b",
            "https://*.b",
            "https://a:80/",
            "https://u@a",
        ] {
            assert!(!is_origin(other), "{other}");
        }
    }
}
