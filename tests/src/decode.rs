//! Decoding with a cache: sequences run as a server runs them, and the greedy continuations of transformers.

use fathom_core::DType;
use fathom_core::cache::{Cache, CacheFormat, CacheOptions, PagePool};
use fathom_core::device::Kernels;
use fathom_core::layer::Phase;
use fathom_core::model::{Chunk, Model};
use fathom_core::tensor::Tensor;

use crate::{Floats, Tokens};

/// Tokens that a golden continuation has.
pub const NEW: usize = 64;

/// How sequences are run.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Format of the cache.
    pub format: CacheFormat,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Prompt tokens a call.
    pub chunk: usize,
    /// Tokens after the prompt.
    pub new: usize,
}

/// A cache of f32, prompts whole, and continuations as long as the golden ones.
pub const PLAIN: Way = Way { format: CacheFormat::F32, page_tokens: 64, chunk: usize::MAX, new: NEW };

/// A sequence in a cache.
pub struct Sequence {
    /// Its prompt, and what was generated so far.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens in the cache.
    pub done: usize,
    /// Its page table.
    pub pages: Vec<u32>,
    /// Logits of every position that was asked for, in order.
    pub logits: Vec<Vec<f32>>,
    /// Hidden states of every position.
    pub hidden: Vec<Vec<f32>>,
}

/// Sequences, their cache and its pages.
pub struct Engine<'a, D: Kernels> {
    /// The model's device.
    pub device: &'a D,
    /// The model.
    pub model: &'a Model<D>,
    /// The cache of all sequences.
    pub cache: Cache<D>,
    /// The sequences, each in its own place.
    pub sequences: Vec<Sequence>,
    pool: PagePool,
    way: Way,
}

impl<'a, D: Kernels> Engine<'a, D> {
    /// Sequences with these prompts; nothing is computed yet.
    ///
    /// # Panics
    /// The cache does not fit into the device's memory.
    pub fn new(device: &'a D, model: &'a Model<D>, way: Way, prompts: &[&[u32]]) -> Self {
        let Way { format, page_tokens, new, .. } = way;
        let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0) + new + 1;
        let pages = prompts.len() * longest.div_ceil(page_tokens);
        let options = CacheOptions { format, page_tokens, pages, mtp: model.config().num_nextn_predict_layers };
        let cache = Cache::new(device, model.config(), options).unwrap();
        let sequence = |p: &&[u32]| Sequence {
            tokens: p.to_vec(),
            prompt: p.len(),
            done: 0,
            pages: Vec::new(),
            logits: Vec::new(),
            hidden: Vec::new(),
        };
        let sequences = prompts.iter().map(sequence).collect();
        Self { device, model, cache, sequences, pool: PagePool::new(pages), way }
    }

    /// Computes what is left of every sequence's prompt, or one token after it, in one call.
    ///
    /// # Panics
    /// The device fails.
    pub fn step(&mut self) {
        let (n, way) = (self.cache.page_tokens(), self.way);
        for sequence in &mut self.sequences {
            let end = sequence.end(way);
            while sequence.pages.len() * n < end {
                sequence.pages.push(self.pool.take().expect("there are pages for all"));
            }
        }
        let chunk = |s: &Sequence| -> Vec<u32> { s.tokens[s.done..s.end(way)].to_vec() };
        let tokens: Vec<Vec<u32>> = self.sequences.iter().map(chunk).collect();
        let chunks: Vec<Chunk<'_>> = (self.sequences.iter().zip(&tokens).filter(|(_, t)| !t.is_empty()))
            .map(|(s, tokens)| Chunk {
                tokens,
                start: s.done,
                pages: &s.pages,
                phase: if s.done < s.prompt { Phase::Prefill } else { Phase::Decode },
                logits: tokens.len(),
            })
            .collect();
        let out = self.model.extend(&mut self.cache, &chunks).unwrap();
        let (logits, hidden) = (rows(self.device, &out.logits), rows(self.device, &out.hidden));
        let (mut logits, mut hidden) = (logits.into_iter(), hidden.into_iter());
        for (sequence, tokens) in self.sequences.iter_mut().zip(&tokens) {
            sequence.logits.extend(logits.by_ref().take(tokens.len()));
            sequence.hidden.extend(hidden.by_ref().take(tokens.len()));
            sequence.done += tokens.len();
            if sequence.done == sequence.tokens.len() && sequence.tokens.len() < sequence.prompt + way.new {
                sequence.tokens.push(argmax(sequence.logits.last().unwrap()));
            }
        }
    }

    /// Runs until every sequence has all its tokens.
    ///
    /// # Panics
    /// The device fails.
    pub fn finish(mut self) -> Vec<Sequence> {
        while self.sequences.iter().any(|s| s.tokens.len() < s.prompt + self.way.new) {
            self.step();
        }
        self.sequences
    }
}

impl Sequence {
    /// Where the next call ends: in the prompt after a chunk, else after one token.
    fn end(&self, way: Way) -> usize {
        match self.tokens.len() == self.prompt + way.new {
            true => self.done,
            false if self.done < self.prompt => self.prompt.min(self.done.saturating_add(way.chunk)),
            false => self.done + 1,
        }
    }

    /// The tokens after the prompt.
    pub fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// The logits that generated token `i` was chosen from.
    pub fn before(&self, i: usize) -> &[f32] {
        &self.logits[self.prompt - 1 + i]
    }
}

/// The rows of a matrix of f32 or BF16.
///
/// # Panics
/// The device fails.
pub fn rows<D: Kernels>(device: &D, x: &Tensor<D>) -> Vec<Vec<f32>> {
    let values: Vec<f32> = match x.dtype() {
        DType::BF16 => {
            let halves: Vec<u16> = x.download(device).unwrap();
            halves.into_iter().map(|half| f32::from_bits(u32::from(half) << 16)).collect()
        }
        _ => x.download(device).unwrap(),
    };
    values.chunks(x.shape().cols()).map(<[f32]>::to_vec).collect()
}

/// The first token of the largest logit.
pub fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// The largest difference.
///
/// # Panics
/// The lengths differ.
pub fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Log-probabilities.
pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - most).exp()).sum();
    logits.iter().map(|&x| (f64::from(x) - most - sum.ln()) as f32).collect()
}

/// Checks the first `way.new` tokens of the greedy continuations of a golden case's three prompts, run together, and
/// their logits in f32.
///
/// # Panics
/// A token or a logit differs.
pub fn check_continuations<D: Kernels>(
    device: &D,
    case: &str,
    model: &Model<D>,
    (floats, tokens): (&Floats, &Tokens),
    way: Way,
) {
    let prompts: Vec<&[u32]> = (0..3).map(|i| tokens[&format!("{i}.prompt")].1.as_slice()).collect();
    let together = Engine::new(device, model, way, &prompts).finish();
    let mut largest = 0.0f32;
    for (i, sequence) in together.iter().enumerate() {
        assert_eq!(sequence.generated(), &tokens[&format!("{i}.tokens")].1[..way.new], "{case}: prompt {i}");
        let (ids, want) = (&tokens[&format!("{i}.top5_ids")].1, &floats[&format!("{i}.top5_logprobs")]);
        for step in 0..way.new {
            let got = log_softmax(sequence.before(step));
            for (&id, &want) in ids[step * 5..][..5].iter().zip(&want[step * 5..]) {
                largest = largest.max((got[id as usize] - want).abs());
            }
        }
    }
    let first = &together[0];
    let prefill = worst(&first.logits[..first.prompt].concat(), &floats["0.prefill_logits"]);
    let decoded = first.logits[first.prompt - 1..].concat();
    let decode = worst(&decoded, &floats["0.logits"][..decoded.len()]);
    println!("{case}: log-probabilities within {largest:.1e}, logits within {prefill:.1e} and {decode:.1e}");
    assert!(largest < 2e-4 && prefill < 2e-4 && decode < 2e-4, "{case}: {largest}, {prefill}, {decode}");
}
