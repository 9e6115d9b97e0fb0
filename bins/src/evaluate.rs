//! How well a model predicts text: over token shards, and line by line.

use std::io::{BufRead, Write};
use std::path::Path;

use fathom_core::device::Kernels;
use fathom_core::model::{Batch, Model};
use fathom_dataprep::{Evaluation, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
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
    /// Bytes of text they stand for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// The loss of `model` over the windows of `data`, from its start: every token but the first is predicted once, from
/// what precedes it in its window. Stops after `limit` tokens (rounded up to whole windows) if that is not 0.
///
/// With a tokenizer, bits per byte are given too. `document_mask` keeps attention inside documents, as training did.
/// `progress` is told how many of how many tokens are done.
///
/// # Errors
/// Where the data cannot be read, or the device fails.
pub fn evaluate<D: Kernels>(
    model: &Model<D>,
    data: &mut Evaluation,
    tokenizer: Option<&Tokenizer>,
    document_mask: bool,
    limit: u64,
    mut progress: impl FnMut(u64, u64),
) -> Result<Evaluated> {
    let vocabulary = model.config().vocab_size;
    let total = if limit == 0 { data.targets() } else { limit.min(data.targets()) };
    let (mut nll, mut tokens, mut bytes) = (0.0f64, 0u64, 0u64);
    let mut batch = fathom_dataprep::TokenBatch::default();
    let mut sequences = SEQUENCES;
    data.restart();
    while tokens < total && data.fill_batch(sequences, &mut batch)? > 0 {
        let length = batch.sequence_length;
        sequences = (TOKENS / length).clamp(1, SEQUENCES);
        let starts = document_mask.then_some(batch.document_starts.as_slice());
        let scored = Batch::new(&batch.tokens, length, starts, vocabulary)
            .map_err(|e| Error::Run(format!("validation data: {e}; was it tokenised for this model?")))?;
        let scores = model.score(&scored).map_err(Error::device("evaluating"))?;
        nll += scores.nll.iter().map(|&x| f64::from(x)).sum::<f64>();
        tokens += scores.nll.len() as u64;
        if let Some(tokenizer) = tokenizer {
            bytes += (0..batch.sequences).map(|b| tokenizer.byte_len(&batch.row(b)[1..])).sum::<u64>();
        }
        progress(tokens.min(total), total);
    }
    let loss = nll / tokens.max(1) as f64;
    let bytes = tokenizer.map(|_| bytes).filter(|&b| b > 0);
    let bits_per_byte = bytes.map(|b| nll / (b as f64 * std::f64::consts::LN_2));
    Ok(Evaluated { loss, perplexity: loss.exp(), bits_per_byte, tokens, bytes })
}

/// A line of `--score`'s input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
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
}

/// Scores every line of `input`, a JSON object `{"tokens": [...]}` or `{"context": "...", "continuation": "..."}`, and
/// writes `{"logprobs": [...], "greedy": [...], "sum_logprob": x}` for each, in order. Empty lines are passed over.
///
/// `path` is only named in errors. Returns the number of lines scored.
///
/// # Errors
/// [`Error::Line`] with the place of a line that cannot be scored.
pub fn score_lines<D: Kernels>(
    session: &Session<D>,
    path: &Path,
    mut input: impl BufRead,
    output: &mut impl Write,
) -> Result<u64> {
    let (mut line, mut number, mut scored) = (Vec::new(), 0, 0);
    loop {
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
        let response = Response { logprobs: &scores.logprobs, greedy: &scores.greedy, sum_logprob: scores.sum() };
        let mut text = serde_json::to_string(&response).map_err(|e| Error::Run(e.to_string()))?;
        text.push('\n');
        output.write_all(text.as_bytes()).map_err(Error::io("write the scores of", path))?;
        scored += 1;
    }
}

fn score_line<D: Kernels>(session: &Session<D>, line: &[u8]) -> Result<TokenScores, String> {
    const SHAPES: &str = r#"{"tokens": [...]} or {"context": "...", "continuation": "..."}"#;
    if line.len() as u64 >= MAX_LINE {
        return Err(format!("is longer than {MAX_LINE} bytes: split it"));
    }
    let request: Request = serde_json::from_slice(line).map_err(|e| format!("is not {SHAPES}: {e}"))?;
    let scores = match (request.tokens, request.context, request.continuation) {
        (Some(tokens), None, None) => session.score_tokens(&tokens),
        (None, Some(context), Some(continuation)) => session.score_continuation(&context, &continuation),
        _ => return Err(format!("must be {SHAPES}")),
    };
    scores.map_err(|e| e.to_string())
}
