//! A server with OpenAI's protocol: completions and chats of one model, for any client that speaks it.
//!
//! [`Server::start`] listens, and answers 503 until [`Server::run`] has a model. The thread that calls it owns the
//! engine; requests reach it through a channel, and news come back through one channel each.
//!
//! | module | content |
//! |---|---|
//! | [`options`] | how a server is set up |
//! | [`openai`] | requests and answers |
//! | [`error`] | errors in OpenAI's form |
//! | [`metrics`] | counts and times for Prometheus |
//! | `routes`, `prepare`, `stream` | from a request to tokens, and from news to an answer |
//! | `defaults` | how to sample where a request does not say |
//! | `constrain` | answers that must be JSON, of a schema, or matched by an expression |
//! | `app`, `flight`, `job`, `worker` | from a request to the engine, and back |
//! | `limits`, `listen` | connections |
//! | `tokens` | texts as token ids, and back |
//! | `openapi` | the description of the routes |
//! | `page` | the page for people |

mod app;
mod constrain;
mod defaults;
pub mod error;
mod flight;
mod job;
mod limits;
mod listen;
pub mod metrics;
pub mod openai;
mod openapi;
pub mod options;
mod page;
mod prepare;
mod routes;
mod stream;
mod tokens;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fathom_core::device::Kernels;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};

use crate::error::{Error, Result};
use crate::infer::{ChatTemplate, EngineOptions};
use crate::session::Session;
use app::{App, Served};
use constrain::Languages;
use defaults::Defaults;
use job::{Command, Ended};
use openai::answer::now;
use openai::choices::Vocabulary;
use openai::params::Bounds;
use options::MAX_SECONDS;
pub use options::Options;

/// Threads that read requests and write answers.
const THREADS: usize = 2;
/// Threads that read and encode prompts.
const ENCODERS: usize = 4;
/// How long answers that are complete may take to reach their clients at the end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Writes a line of the log. One that nobody reads any more (`serve 2>&1 | head`) ends no request.
fn log(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A server that listens.
pub struct Server {
    app: Arc<App>,
    runtime: Runtime,
    address: SocketAddr,
    commands: Receiver<Command>,
    stop: Arc<watch::Sender<bool>>,
}

/// Stops a server from another thread.
#[derive(Clone)]
pub struct Stopper {
    app: Arc<App>,
    stop: Arc<watch::Sender<bool>>,
}

impl Stopper {
    /// Takes no further requests; what runs is finished, within the time that the options give it.
    pub fn stop(&self) {
        self.app.stop();
        self.stop.send_replace(true);
    }

    /// Whether the model is loaded.
    pub fn is_running(&self) -> bool {
        self.app.model.get().is_some()
    }
}

impl Server {
    /// Listens, and answers 503 until there is a model.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub fn start(options: Options) -> Result<Self> {
        let place = format!("{}:{}", options.host, options.port);
        let failed = |what: &str, e: std::io::Error| Error::Run(format!("cannot {what}: {e}"));
        let listening = |e| failed(&format!("listen on {place} (is the port taken? give another --port)"), e);
        let listener = std::net::TcpListener::bind((options.host.as_str(), options.port)).map_err(listening)?;
        listener.set_nonblocking(true).map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(THREADS).max_blocking_threads(ENCODERS).thread_name("fathom-http").enable_all();
        let runtime = builder.build().map_err(|e| failed("start threads", e))?;
        let (sender, commands) = channel();
        let app = Arc::new(App::new(options, sender));
        let (stop, stopped) = watch::channel(false);
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(listening)?
        };
        runtime.spawn(listen::accept(listener, Arc::clone(&app), stopped));
        Ok(Self { app, runtime, address, commands, stop: Arc::new(stop) })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle that stops it.
    pub fn stopper(&self) -> Stopper {
        Stopper { app: Arc::clone(&self.app), stop: Arc::clone(&self.stop) }
    }

    /// Serves a model on this thread until the server is stopped. `ready` is called when requests are answered.
    ///
    /// # Errors
    /// An engine that cannot be made, a damaged `generation_config.json`, or a failure of the device.
    pub fn run<D: Kernels>(self, session: &Session<D>, engine: EngineOptions, ready: impl FnOnce()) -> Result<()> {
        let options = &self.app.options;
        let drafts = engine.drafts > 0;
        let sequences = engine.sequences.max(1);
        let mut engine = session.engine(engine)?;
        if options.expert_metrics && session.model().config().has_moe_layers() {
            engine.count_load()?;
        }
        let (tokenizer, context) = (session.tokenizer().cloned(), engine.longest());
        let defaults = Defaults::read(session.checkpoint(), options.generation_config)?;
        log(format_args!("sampling where a request does not say: {}", defaults.words));
        let bounds = Bounds {
            model: options.model.clone(),
            vocabulary: session.model().config().vocab_size,
            context,
            choices: options.max_choices,
            max_tokens: options.max_tokens.unwrap_or(context).min(context),
            text: tokenizer.is_some(),
            defaults: defaults.sampling,
        };
        let most = sequences.saturating_add(options.queue).min(Semaphore::MAX_PERMITS);
        let mut ends = session.prompts().ends.clone();
        ends.extend(tokenizer.as_ref().map(|tokenizer| tokenizer.eos_id()).filter(|eos| !ends.contains(eos)));
        // A model may have fewer tokens than its tokenizer.
        ends.retain(|&end| (end as usize) < bounds.vocabulary);
        let vocabulary = Arc::new(Vocabulary::new(tokenizer.as_ref()));
        let served = Served {
            languages: Languages::new(Arc::clone(&vocabulary), bounds.vocabulary, ends),
            bounds,
            template: ChatTemplate::load(session.checkpoint(), None)?,
            vocabulary,
            tokenizer,
            prompts: session.prompts().clone(),
            created: now(),
            drafts,
            sequences,
            most,
            places: Arc::new(Semaphore::new(most)),
        };
        let _ = self.app.model.set(served);
        ready();
        let patience = Duration::from_secs(options.shutdown_seconds.min(MAX_SECONDS));
        let done = worker::run(&mut engine, &self.commands, &self.app.metrics, patience);
        // Answers that are complete still have to be written.
        self.stopper().stop();
        let reason = done.as_ref().err().map_or(Ended::Stopping, |error| Ended::Failed(error.to_string()));
        worker::refuse(&self.commands, &reason);
        let connections = Arc::clone(&self.app.connections);
        self.runtime.block_on(async {
            let _ = tokio::time::timeout(LAST_WORDS, connections.wait_for_none()).await;
        });
        self.runtime.shutdown_timeout(Duration::from_millis(100));
        done
    }
}
