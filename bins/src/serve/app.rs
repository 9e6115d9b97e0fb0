//! State that all requests share: the model's texts and bounds, the way to the engine, and the limits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};

use super::constrain::Languages;
use super::error::ApiError;
use super::flight::{CHANNEL, Flight, Log};
use super::job::{Command, Job};
use super::limits::{Bodies, Connections, deadline};
use super::metrics::Metrics;
use super::openai::answer::{Head, Kind};
use super::openai::choices::{Choices, Prompted, Vocabulary};
use super::openai::params::{Bounds, Params};
use super::openai::think::Place;
use super::options::{MAX_SECONDS, Options};
use crate::codec::{Codec, Prompts};
use crate::infer::{ChatTemplate, Constraint, Request, ScoreRequest};
use fathom_dataprep::Tokenizer;

/// What all requests share.
pub(super) struct App {
    pub options: Options,
    pub metrics: Metrics,
    pub connections: Arc<Connections>,
    pub bodies: Bodies,
    /// Whether the server stops.
    pub stopping: AtomicBool,
    /// The model, when it is loaded.
    pub model: OnceLock<Served>,
    commands: Sender<Command>,
    next: AtomicU64,
}

/// A model that is served.
pub(super) struct Served {
    pub bounds: Bounds,
    pub tokenizer: Option<Tokenizer>,
    pub prompts: Prompts,
    pub template: Option<ChatTemplate>,
    pub vocabulary: Arc<Vocabulary>,
    pub languages: Languages,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Whether the engine drafts.
    pub drafts: bool,
    /// Sequences that are computed at a time.
    pub sequences: usize,
    /// Sequences that are taken, in the queue and out of it.
    pub most: usize,
    pub places: Arc<Semaphore>,
}

/// A request whose prompts are tokens.
pub(super) struct Prepared {
    pub kind: Kind,
    pub params: Params,
    pub prompts: Vec<Prompted>,
    /// Where the text of a chat begins.
    pub place: Option<Place>,
    /// What the answer must be, once that is read.
    pub constraint: Option<Arc<dyn Constraint>>,
    /// The field with the prompt, for errors.
    pub field: &'static str,
    /// The prompt's text, if prompts are logged.
    pub logged: Option<String>,
}

impl Served {
    /// How text becomes tokens.
    ///
    /// # Errors
    /// A model without a tokenizer; `field` is the one that needs it.
    pub fn codec(&self, field: &str) -> Result<Codec<'_>, ApiError> {
        let missing = || ApiError::field(field, "the model has no tokenizer: send token ids to /v1/completions");
        let tokenizer = self.tokenizer.as_ref().ok_or_else(missing)?;
        Ok(Codec::new(tokenizer, &self.prompts, self.bounds.context))
    }
}

impl App {
    pub fn new(options: Options, commands: Sender<Command>) -> Self {
        Self {
            metrics: Metrics::default(),
            connections: Arc::new(Connections::new(options.connections)),
            bodies: Bodies::new(options.max_body),
            stopping: AtomicBool::new(false),
            model: OnceLock::new(),
            commands,
            next: AtomicU64::new(0),
            options,
        }
    }

    /// The model.
    ///
    /// # Errors
    /// A server that still loads it, or that stops.
    pub fn served(&self) -> Result<&Served, ApiError> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(ApiError::unavailable("stopping", "the server stops", None));
        }
        let loading = || ApiError::unavailable("loading", "the model is being loaded: try again", Some(1));
        self.model.get().ok_or_else(loading)
    }

    /// Asks the engine's thread to finish what runs, and takes no further requests.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // The engine's thread may have ended.
        let _ = self.commands.send(Command::Stop);
    }

    /// Starts the work of a request.
    ///
    /// # Errors
    /// A prompt that is too long, more sequences than the server takes, or a full queue.
    pub fn start(&self, prepared: Prepared, what: String, arrived: Instant) -> Result<Flight, ApiError> {
        let served = self.served()?;
        let Prepared { kind, params, prompts, place, constraint, field, logged } = prepared;
        let nothing_new = params.sampling.max_new_tokens == 0;
        // Where nothing comes after it, a prompt may fill the context.
        let longest = served.bounds.context.saturating_sub(usize::from(!nothing_new));
        if let Some(long) = prompts.iter().find(|prompt| prompt.tokens.len() > longest) {
            let (n, context) = (long.tokens.len(), served.bounds.context);
            // LiteLLM knows the error by these words.
            let problem = format!(
                "the prompt of {n} tokens is longer than the model's context length, {context} (or its cache's): \
                 shorten it"
            );
            return Err(ApiError::context(field, problem));
        }
        let count = prompts.len().saturating_mul(params.n);
        if count > served.most {
            let problem = format!("{count} choices are more than this server takes at a time, {}", served.most);
            return Err(ApiError::field(field, problem));
        }
        let units = u32::try_from(count).unwrap_or(u32::MAX);
        let places = Arc::clone(&served.places).try_acquire_many_owned(units);
        let places = places.map_err(|_| self.busy(served))?;

        let logprobs = params.sampling.logprobs;
        let choices = Choices::new(prompts, params.n, place, logprobs.is_some(), nothing_new);
        let scores: Vec<(usize, ScoreRequest)> = choices.to_score().collect();
        if served.drafts && !scores.is_empty() {
            let problem = "with echo needs a server without --speculate";
            return Err(ApiError::field("logprobs", problem));
        }
        let mut requests = Vec::new();
        for (prompt, tokens) in choices.prompts().enumerate().filter(|_| !nothing_new) {
            for choice in 0..params.n {
                let constraint = constraint.clone();
                let request = Request { tokens: tokens.to_vec(), sampling: params.of_choice(choice), constraint };
                requests.push((prompt, prompt * params.n + choice, request));
            }
        }
        // The news of several steps, so that a receiver that keeps up is not behind.
        let (sender, news) = mpsc::channel(CHANNEL.max(count.saturating_mul(8)));
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let flight = Flight {
            id,
            news,
            commands: self.commands.clone(),
            choices,
            head: Head::new(kind, &served.bounds.model),
            vocabulary: Arc::clone(&served.vocabulary),
            logprobs: logprobs.is_some(),
            usage: params.include_usage,
            log: Log { what, arrived, texts: logged.map(|prompt| (prompt, String::new())) },
            over: false,
            failure: None,
        };
        let deadline = deadline(arrived, Duration::from_secs(self.options.request_seconds.min(MAX_SECONDS)));
        let top = logprobs.unwrap_or(0);
        let job = Job { id, scores, top, choices: requests, news: sender, arrived, deadline, places: Some(places) };
        if self.commands.send(Command::Start(Box::new(job))).is_err() {
            return Err(ApiError::unavailable("stopping", "the server stops", None));
        }
        Ok(flight)
    }

    fn busy(&self, served: &Served) -> ApiError {
        let load = self.metrics.engine().load;
        ApiError::busy(1 + (load.waiting / served.sequences.max(1)) as u64)
    }
}
