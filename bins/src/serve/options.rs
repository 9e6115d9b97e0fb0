//! How a server is set up.

/// Limits of time are at most ten years: more is none, and clocks can add it.
pub(super) const MAX_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// How a server listens, and what it takes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 for any free one.
    pub port: u16,
    /// Key that every route but `/health` and the page at `/` asks for.
    pub api_key: Option<String>,
    /// Name of the model.
    pub model: String,
    /// Origins whose pages may read answers; `*` for all.
    pub cors_origins: Vec<String>,
    /// Whether prompts and answers are logged.
    pub log_prompts: bool,
    /// Whether requests that do not say are sampled as the model's `generation_config.json` says.
    pub generation_config: bool,
    /// Whether `/metrics` says how many tokens went to each expert.
    pub expert_metrics: bool,
    /// Requests that wait while all sequences are taken, at most.
    pub queue: usize,
    /// Choices of a prompt, at most.
    pub max_choices: usize,
    /// New tokens of a choice, at most; up to the context without.
    pub max_tokens: Option<usize>,
    /// Bytes of a body, at most.
    pub max_body: usize,
    /// Open connections, at most.
    pub connections: usize,
    /// Seconds after which a request is given up.
    pub request_seconds: u64,
    /// Seconds for which what runs is finished when the server stops.
    pub shutdown_seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8080,
            api_key: None,
            model: "model".into(),
            cors_origins: Vec::new(),
            log_prompts: false,
            generation_config: true,
            expert_metrics: false,
            queue: 256,
            max_choices: 8,
            max_tokens: None,
            max_body: 2 << 20,
            connections: 4096,
            request_seconds: 600,
            shutdown_seconds: 30,
        }
    }
}
