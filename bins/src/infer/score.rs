//! Log-probabilities of given tokens: in one pass, or as generation computes them, token by token over the latent
//! cache.

use std::ops::Range;

use fathom_core::cache::{Cache, CacheFormat, CacheOptions};
use fathom_core::device::Kernels;
use fathom_core::layer::Phase;
use fathom_core::model::{Batch, Chunk, Model, Scores};

use super::check_finite;
use super::distribution::Logprobs;
use crate::error::{Error, Result};

/// Tokens of a pass: as many rows of logits are held at once.
const ROWS: usize = 256;

/// Scores every target of a batch: without a format by [`Model::score`], one pass without a cache; with one by
/// [decoding](Phase::Decode) over a latent cache of that format.
///
/// # Errors
/// A sequence longer than the model's context, a cache that the device cannot hold, results that are not finite.
pub fn score<D: Kernels>(model: &Model<D>, batch: &Batch<'_>, format: Option<CacheFormat>) -> Result<Scores> {
    let scores = match format {
        None => model.score(batch).map_err(Error::device("scoring"))?,
        Some(format) => decoded(model, batch, format)?,
    };
    check_finite(&scores.nll, "the log probabilities")?;
    Ok(scores)
}

/// Documents of a sequence are separate sequences here: positions count from a document's start, which changes
/// nothing but the last bits, since attention knows only distances.
fn decoded<D: Kernels>(model: &Model<D>, batch: &Batch<'_>, format: CacheFormat) -> Result<Scores> {
    let texts = texts(batch);
    let page_tokens = CacheOptions::PAGE_TOKENS;
    let mut pages = 0u32;
    let mut take = |tokens: usize| {
        let first = pages;
        pages += tokens.div_ceil(page_tokens) as u32;
        (first..pages).collect::<Vec<u32>>()
    };
    let tables: Vec<Vec<u32>> = texts.iter().map(|text| take(text.len())).collect();
    let options = CacheOptions { format, page_tokens, pages: pages.max(1) as usize, mtp: 0 };
    let device = model.device();
    let cache = Cache::new(device, model.config(), options);
    let mut cache = cache.map_err(Error::device("allocating a cache (shorter sequences need less)"))?;

    let mut scores = Scores::default();
    let vocabulary = model.config().vocab_size;
    for pass in passes(&texts) {
        let chunk = |(text, part): &(usize, Range<usize>)| {
            let tokens = &batch.tokens[texts[*text].clone()][part.clone()];
            let (pages, logits) = (&tables[*text][..], tokens.len());
            Chunk { tokens, start: part.start, pages, phase: Phase::Decode, logits }
        };
        let chunks: Vec<Chunk<'_>> = pass.iter().map(chunk).collect();
        let extended = model.extend(&mut cache, &chunks).map_err(Error::device("scoring"))?;
        let logits: Vec<f32> = extended.logits.download(device).map_err(Error::device("reading the logits"))?;
        let targets = pass.iter().flat_map(|(text, part)| {
            let first = texts[*text].start + 1;
            &batch.tokens[first + part.start..first + part.end]
        });
        for (row, &target) in logits.chunks_exact(vocabulary).zip(targets) {
            let logprobs = Logprobs::new(row, target, 1);
            scores.nll.push(-logprobs.chosen);
            scores.greedy.extend(logprobs.top.first().map(|top| top.0));
        }
    }
    Ok(scores)
}

/// The inputs of each document of each sequence, as places in the batch's tokens; a target is one place on.
fn texts(batch: &Batch<'_>) -> Vec<Range<usize>> {
    let (length, row) = (batch.length, batch.length + 1);
    let mut texts = Vec::new();
    for sequence in 0..batch.sequences() {
        let starts = batch.starts.map(|starts| &starts[sequence * length..][..length]);
        let first = |at: usize| starts.map_or(at == 0, |starts| at == 0 || starts[at] != starts[at - 1]);
        let begins: Vec<usize> = (0..length).filter(|&at| first(at)).collect();
        let ends = begins.iter().skip(1).copied().chain([length]);
        texts.extend(begins.iter().zip(ends).map(|(begin, end)| sequence * row + begin..sequence * row + end));
    }
    texts
}

/// Texts cut into passes of at most [`ROWS`] tokens: the number of a text, and the tokens of it.
fn passes(texts: &[Range<usize>]) -> Vec<Vec<(usize, Range<usize>)>> {
    let (mut passes, mut pass, mut room) = (Vec::new(), Vec::new(), ROWS);
    for (text, tokens) in texts.iter().enumerate() {
        let mut at = 0;
        while at < tokens.len() {
            let end = tokens.len().min(at + room);
            pass.push((text, at..end));
            room -= end - at;
            at = end;
            if room == 0 {
                passes.push(std::mem::take(&mut pass));
                room = ROWS;
            }
        }
    }
    passes.push(pass);
    passes.retain(|pass| !pass.is_empty());
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_documents_and_passes_are_full() {
        let tokens: Vec<u32> = (0..12).collect();
        let starts = [0, 0, 2, 2, 2, 0, 1, 1, 1, 4];
        let batch = Batch::new(&tokens, 5, Some(&starts), 12).unwrap();
        assert_eq!(texts(&batch), [0..2, 2..5, 6..7, 7..10, 10..11]);
        let batch = Batch::new(&tokens, 5, None, 12).unwrap();
        assert_eq!(texts(&batch), [0..5, 6..11]);
        let cut = passes(&[0..ROWS + 1, 0..3]);
        assert_eq!(cut, [vec![(0, 0..ROWS)], vec![(0, ROWS..ROWS + 1), (1, 0..3)]]);
    }
}
