//! Evaluation: loss and perplexity over token shards, and log probabilities line by line.

use std::fmt;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fathom_core::cache::CacheFormat;
use fathom_core::comm::Comm;
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::model::{Batch, Model, Scores};
use fathom_core::train::Trainer;
use fathom_dataprep::{Evaluation, ShardSet, Split, TokenBatch, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::checkpoint::State;
use crate::error::{Error, Result};
use crate::infer::check_finite;
use crate::infer::score::score;
use crate::prepare;
use crate::session::{Session, TokenScores};

/// Sequences scored at once: enough to keep every core busy.
const SEQUENCES: usize = 8;
/// Tokens scored at once, at most.
const TOKENS: usize = 8192;
/// The longest line that `--score` reads.
const MAX_LINE: u64 = 64 << 20;

/// The loss over a set of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Evaluated {
    /// Mean negative log likelihood of a token, nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Bits needed for a byte of text, where the tokens' text is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// Tokens scored.
    pub tokens: u64,
    /// Bytes of text that the tokens stand for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// The loss of `model` over the windows of `data`, from its start: every token but the first is predicted once, from
/// what precedes it in its window. Stops after `limit` tokens (rounded up to whole windows) if that is not 0.
///
/// With a tokenizer, bits per byte are given too. `document_mask` keeps attention inside documents, as training did.
/// With a format of the latent cache the model is measured as it generates, over such a cache.
/// `progress` is told how many of how many tokens are done; where it returns false, the result is of these alone.
///
/// # Errors
/// Where the data cannot be read, or the device fails.
pub fn evaluate<D: Kernels>(
    model: &Model<D>,
    data: &mut Evaluation,
    tokenizer: Option<&Tokenizer>,
    document_mask: bool,
    limit: u64,
    cache: Option<CacheFormat>,
    mut progress: impl FnMut(u64, u64) -> bool,
) -> Result<Evaluated> {
    let mut sums = Sums::default();
    windows(data, limit, |batch, total| {
        let scores = score(model, &batch_of(model.config(), batch, document_mask)?, cache)?;
        sums.add(Part::new(batch, &scores, tokenizer));
        Ok(progress(sums.0.tokens.min(total), total))
    })?;
    Ok(sums.result())
}

/// As [`evaluate`] of the model of a run, whose ranks score batches of windows in turn. All get the same result, which
/// does not depend on how many they are; `None` where `stop` was set on one of them before the end.
///
/// # Errors
/// As [`evaluate`], and another rank that is lost.
pub fn evaluate_together<D: Kernels, C: Comm<D>>(
    trainer: &Trainer<D, C>,
    data: &mut Evaluation,
    tokenizer: Option<&Tokenizer>,
    document_mask: bool,
    limit: u64,
    stop: &AtomicBool,
) -> Result<Option<Evaluated>> {
    let comm = trainer.comm();
    let (rank, world) = (comm.rank(), comm.world());
    let scored = |batch: &TokenBatch| -> Result<Part> {
        let batch_of = batch_of(trainer.model.config(), batch, document_mask)?;
        let scores = trainer.score(&batch_of).map_err(Error::device("scoring"))?;
        check_finite(&scores.nll, "the log probabilities")?;
        Ok(Part::new(batch, &scores, tokenizer))
    };
    // A turn is one batch for each rank. Where weights are divided all must score at once, so the last turn is filled
    // up with batches that do not count.
    let (mut sums, mut mine, mut turn) = (Sums::default(), TokenBatch::default(), 0);
    let mut share = |mine: &TokenBatch, turn: usize| -> Result<bool> {
        let mut words = scored(mine)?.words().to_vec();
        words.push(u64::from(stop.load(Ordering::Relaxed)));
        let told = comm.tell(&words).map_err(Error::device("validation"))?;
        let told = told.chunks_exact(Part::WORDS + 1);
        told.clone().take(turn).for_each(|words| sums.add(Part::from_words(&words[..Part::WORDS])));
        Ok(told.clone().all(|words| words[Part::WORDS] == 0))
    };
    let mut whole = true;
    windows(data, limit, |batch, _| {
        if turn == rank || mine.sequences == 0 {
            mine.clone_from(batch);
        }
        turn += 1;
        if turn == world {
            whole = share(&mine, turn)?;
            turn = 0;
        }
        Ok(whole)
    })?;
    if whole && turn > 0 {
        share(&mine, turn)?;
    }
    Ok(whole.then(|| sums.result()))
}

/// Goes through the windows of `data` from its start, a batch at a time, until there were `limit` tokens, or all of
/// them for 0, or `each` returned false: it is given every batch, and the number of tokens in all.
fn windows(data: &mut Evaluation, limit: u64, mut each: impl FnMut(&TokenBatch, u64) -> Result<bool>) -> Result<()> {
    let total = if limit == 0 { data.targets() } else { limit.min(data.targets()) };
    let (mut batch, mut sequences, mut tokens) = (TokenBatch::default(), SEQUENCES, 0);
    data.restart();
    while tokens < total && data.fill_batch(sequences, &mut batch)? > 0 {
        sequences = (TOKENS / batch.sequence_length).clamp(1, SEQUENCES);
        tokens += (batch.sequences * batch.sequence_length) as u64;
        if !each(&batch, total)? {
            break;
        }
    }
    Ok(())
}

/// Windows as a model takes them.
fn batch_of<'a>(config: &ModelConfig, windows: &'a TokenBatch, document_mask: bool) -> Result<Batch<'a>> {
    let starts = document_mask.then_some(windows.document_starts.as_slice());
    Batch::new(&windows.tokens, windows.sequence_length, starts, config.vocab_size)
        .map_err(|e| Error::Run(format!("validation data: {e}; was it tokenised for this model?")))
}

/// What a batch of windows adds to a measurement.
#[derive(Clone, Copy, Default)]
struct Part {
    nll: f64,
    tokens: u64,
    bytes: u64,
}

impl Part {
    /// Words of a part.
    const WORDS: usize = 3;

    fn new(batch: &TokenBatch, scores: &Scores, tokenizer: Option<&Tokenizer>) -> Self {
        let length = |tokenizer: &Tokenizer| (0..batch.sequences).map(|b| tokenizer.byte_len(&batch.row(b)[1..])).sum();
        let nll = scores.nll.iter().map(|&x| f64::from(x)).sum();
        Self { nll, tokens: scores.nll.len() as u64, bytes: tokenizer.map_or(0, length) }
    }

    fn words(self) -> [u64; Self::WORDS] {
        [self.nll.to_bits(), self.tokens, self.bytes]
    }

    fn from_words(words: &[u64]) -> Self {
        Self { nll: f64::from_bits(words[0]), tokens: words[1], bytes: words[2] }
    }
}

/// The sums of a measurement, batch after batch.
#[derive(Default)]
struct Sums(Part);

impl Sums {
    fn add(&mut self, part: Part) {
        self.0.nll += part.nll;
        self.0.tokens += part.tokens;
        self.0.bytes += part.bytes;
    }

    fn result(self) -> Evaluated {
        let Part { nll, tokens, bytes } = self.0;
        let loss = nll / tokens.max(1) as f64;
        let bytes = Some(bytes).filter(|&b| b > 0);
        let bits_per_byte = bytes.map(|b| nll / (b as f64 * std::f64::consts::LN_2));
        Evaluated { loss, perplexity: loss.exp(), bits_per_byte, tokens, bytes }
    }
}

/// Request of a measurement: data, split, limits.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Prepared data: a folder, or the prefix of one pair of Megatron files.
    pub data: &'a Path,
    /// The split; the validation split if there is one where this is `None`.
    pub split: Option<Split>,
    /// Tokens of a window; `None` takes the length that the model trained at, or else its context, at most 1024.
    pub window: Option<usize>,
    /// Whether attention stays inside documents; `None` does as training did, or else stays inside.
    pub document_mask: Option<bool>,
    /// About how many tokens to score; 0 for all.
    pub limit: u64,
}

/// A measurement and the data that it was made on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The model folder.
    pub checkpoint: PathBuf,
    /// One line for each newer checkpoint that was passed over, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
    /// The data.
    pub data: PathBuf,
    /// The split: `validation`, `train`, or `train (no validation split)` where nothing was held out.
    pub split: String,
    /// Tokens of a window.
    pub window: usize,
    /// Whether attention stayed inside documents.
    pub document_mask: bool,
    /// Format of the latent cache that it was measured over, if not without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'static str>,
    /// The numbers.
    #[serde(flatten)]
    pub result: Evaluated,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evaluated { loss, perplexity, bits_per_byte, tokens, .. } = self.result;
        writeln!(f, "checkpoint     {}", self.checkpoint.display())?;
        writeln!(f, "data           {}", self.data.display())?;
        writeln!(f, "split          {}", self.split)?;
        writeln!(f, "window         {} tokens", self.window)?;
        if let Some(cache) = self.cache {
            writeln!(f, "cache          {cache}, decoded token by token")?;
        }
        writeln!(f, "loss           {loss:.4} nats a token")?;
        writeln!(f, "perplexity     {perplexity:.3}")?;
        if let Some(bits) = bits_per_byte {
            writeln!(f, "bits per byte  {bits:.4}")?;
        }
        write!(f, "tokens         {tokens}")
    }
}

/// Measures a loaded model on prepared data. `progress` is told how many of how many tokens are done; where it returns
/// false, the numbers are of these alone.
///
/// # Errors
/// Data that cannot be read or was made with another tokenizer; a window longer than the model's context; those of
/// [`evaluate`].
pub fn measure<D: Kernels>(
    session: &Session<D>,
    request: &Request<'_>,
    progress: impl FnMut(u64, u64) -> bool,
) -> Result<Measured> {
    let (mut shards, found) = match request.split {
        Some(split) => (ShardSet::open(request.data, split)?, split),
        None => prepare::validation_or_train(request.data)?,
    };
    let unsplit = request.split.is_none() && found == Split::Train;
    let split = if unsplit { "train (no validation split)".into() } else { found.name().into() };
    shards.limit_vocabulary(session.model().config().vocab_size as u32);
    check_tokenizer(session, &shards, request.data)?;
    let (trained, context) = (Trained::read(session.checkpoint()), session.context());
    let window = request.window.unwrap_or_else(|| trained.length.unwrap_or(1024).min(context));
    if window > context {
        return Err(Error::Usage(format!("--sequence-length {window}: the model's context is {context}")));
    }
    let document_mask = request.document_mask.or(trained.document_mask).unwrap_or(true);
    let mut windows = Evaluation::new(shards, window)?;
    let (model, tokenizer) = session.model_and_tokenizer();
    let cache = session.scoring();
    let result = evaluate(model, &mut windows, tokenizer, document_mask, request.limit, cache, progress)?;
    let (checkpoint, passed_over) = (session.checkpoint().into(), session.passed_over().to_vec());
    let (data, cache) = (request.data.into(), cache.map(CacheFormat::name));
    Ok(Measured { checkpoint, passed_over, data, split, window, document_mask, cache, result })
}

fn check_tokenizer<D: Kernels>(session: &Session<D>, shards: &ShardSet, data: &Path) -> Result<()> {
    let Some(tokenizer) = session.tokenizer() else { return Ok(()) };
    match shards.manifest().filter(|m| m.tokenizer.fingerprint != tokenizer.fingerprint()) {
        None => Ok(()),
        Some(manifest) => Err(Error::Run(format!(
            "{} was tokenised with another tokenizer ({}) than the checkpoint's: prepare it again with --tokenizer {}",
            data.display(),
            manifest.tokenizer.kind,
            session.checkpoint().display()
        ))),
    }
}

/// How the model of a checkpoint was trained, as far as measuring it depends on it.
#[derive(Default)]
struct Trained {
    /// `train.sequence_length`
    length: Option<usize>,
    /// `data.document_mask`
    document_mask: Option<bool>,
}

impl Trained {
    /// What the state of training in a checkpoint says; nothing for other model folders.
    fn read(folder: &Path) -> Self {
        let Ok(state) = State::read(folder) else { return Self::default() };
        let length = state.settings.get("train.sequence_length").and_then(serde_json::Value::as_u64);
        let document_mask = state.settings.get("data.document_mask").and_then(serde_json::Value::as_bool);
        Self { length: length.and_then(|n| usize::try_from(n).ok()), document_mask }
    }
}

/// A line of `--score`'s input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoreLine {
    tokens: Option<Vec<u32>>,
    context: Option<String>,
    continuation: Option<String>,
}

/// A line of its output.
#[derive(Serialize)]
struct Response<'a> {
    logprobs: &'a [f32],
    greedy: &'a [bool],
    sum_logprob: f64,
    /// Tokens of the context that were left out.
    #[serde(skip_serializing_if = "is_zero")]
    cut: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Counts of [`score_lines`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scored {
    /// Lines that were scored.
    pub lines: u64,
    /// Lines whose context was cut to fit the model's.
    pub cut: u64,
}

/// Scores every line of `input`, a JSON object `{"tokens": [...]}` or `{"context": "...", "continuation": "..."}`, and
/// writes `{"logprobs": [...], "greedy": [...], "sum_logprob": x}` for each, in order. Empty lines are passed over.
/// Where a context was longer than the model's, `"cut"` is the number of its tokens that were left out at the left.
///
/// `path` is only named in errors. Ends before the next line where `go_on` is false. Returns what was done.
///
/// # Errors
/// [`Error::Line`] with the place of a line that cannot be scored.
pub fn score_lines<D: Kernels>(
    session: &Session<D>,
    path: &Path,
    mut input: impl BufRead,
    output: &mut impl Write,
    go_on: &dyn Fn() -> bool,
) -> Result<Scored> {
    let (mut line, mut number, mut scored) = (Vec::new(), 0, Scored::default());
    loop {
        if !go_on() {
            return Ok(scored);
        }
        line.clear();
        let read = std::io::Read::take(&mut input, MAX_LINE).read_until(b'\n', &mut line);
        if read.map_err(Error::io("read", path))? == 0 {
            return Ok(scored);
        }
        number += 1;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let scores = score_line(session, &line).map_err(|problem| Error::Line {
            path: path.to_path_buf(),
            line: number,
            problem,
        })?;
        let (logprobs, greedy, cut) = (&scores.logprobs, &scores.greedy, scores.cut);
        let response = Response { logprobs, greedy, sum_logprob: scores.sum(), cut };
        let mut text = serde_json::to_string(&response).map_err(|e| Error::Run(e.to_string()))?;
        text.push('\n');
        output.write_all(text.as_bytes()).map_err(Error::io("write the scores of", path))?;
        scored.lines += 1;
        scored.cut += u64::from(cut > 0);
    }
}

fn score_line<D: Kernels>(session: &Session<D>, line: &[u8]) -> Result<TokenScores, String> {
    const SHAPES: &str = r#"{"tokens": [...]} or {"context": "...", "continuation": "..."}"#;
    if line.len() as u64 >= MAX_LINE {
        return Err(format!("is longer than {MAX_LINE} bytes: split it"));
    }
    let request: ScoreLine = serde_json::from_slice(line).map_err(|e| format!("is not {SHAPES}: {e}"))?;
    let scores = match (request.tokens, request.context, request.continuation) {
        (Some(tokens), None, None) => session.score_tokens(&tokens),
        (None, Some(context), Some(continuation)) => session.score_continuation(&context, &continuation),
        _ => return Err(format!("must be {SHAPES}")),
    };
    scores.map_err(|e| e.to_string())
}
