//! Whole steps of decoding: every layer, the head, the choice of tokens, and the ids on the host.
//!
//! The model is that of `gpu_check train` (1.0 B parameters, 16 heads, 32 experts) with weights in BF16. The floor of a
//! step is the weights that it reads, those of all experts where there are many sequences, and the cached tokens.

use std::time::Instant;

use fathom_core::DType;
use fathom_core::cache::{Cache, CacheFormat, CacheOptions, bytes_per_token};
use fathom_core::config::{ModelConfig, ParameterCount};
use fathom_core::device::*;
use fathom_core::layer::Phase;
use fathom_core::model::{Chunk, Model};
use fathom_core::precision::Precision;
use fathom_core::sampling::Rule;
use fathom_core::tensor::Tensor;

use super::{Bench, Fails};
use crate::timer::Watch;
use crate::train::one_billion;

/// Tokens of a page.
const PAGE: usize = 64;
/// Steps that are timed, after some that are not.
const STEPS: usize = 32;
const BEFORE: usize = 8;

/// Steps of one sequence and of 64, over a cache of each narrow format.
pub(super) fn all<D: Watch>(b: &mut Bench<'_, D>) -> Fails<D> {
    if !b.wanted(&["decode_step"]) {
        return Ok(());
    }
    let shrink = b.arguments.shrink;
    let context = (4096 / shrink).max(2 * PAGE);
    let base = if shrink == 1 { one_billion() } else { ModelConfig::tiny() };
    let config = ModelConfig { max_position_embeddings: 2 * context, ..base };
    let mut model = Model::new(&b.device, &config, Precision::BF16)?;
    model.initialize(1)?;
    for (name, format) in [("bf16", CacheFormat::Bf16), ("fp8", CacheFormat::Fp8)] {
        for sequences in [1, (64 / shrink).max(2)] {
            // The steps end within the last page of the context.
            let (start, pages) = (context - STEPS - BEFORE, context / PAGE);
            let options = CacheOptions { format, page_tokens: PAGE, pages: sequences * pages, mtp: 0 };
            let mut cache = Cache::new(&b.device, &config, options)?;
            let tables: Vec<Vec<u32>> =
                (0..sequences).map(|s| (0..pages).map(|p| (p * sequences + s) as u32).collect()).collect();
            // What attention reads before the first step must be there: new memory may hold NaN.
            let prompt = vec![7; start];
            for pages in &tables {
                let chunk = Chunk { tokens: &prompt, start: 0, pages, phase: Phase::Prefill, logits: 0 };
                model.extend(&mut cache, &[chunk])?;
            }
            b.device.flush()?;
            let mut began = Instant::now();
            for step in 0..BEFORE + STEPS {
                if step == BEFORE {
                    began = Instant::now();
                }
                one(b, &model, &mut cache, &tables, start + step)?;
            }
            let seconds = began.elapsed().as_secs_f64() / STEPS as f64;
            let count = ParameterCount::of(&config);
            let weights = if sequences == 1 { count.active_parameters() } else { count.parameters() - count.embedding };
            let tokens = (sequences * context * bytes_per_token(&config, format, 0)) as u64;
            b.say(&format!("decode_step {name} cache, {sequences} x {context}"), seconds, 2 * weights + tokens);
        }
    }
    Ok(())
}

/// A step of every sequence at position `at`, greedy.
fn one<D: Watch>(b: &Bench<'_, D>, model: &Model<D>, cache: &mut Cache<D>, tables: &[Vec<u32>], at: usize) -> Fails<D> {
    let chunk = |pages| Chunk { tokens: &[7], start: at, pages, phase: Phase::Decode, logits: 1 };
    let chunks: Vec<Chunk<'_>> = tables.iter().map(|pages| chunk(&pages[..])).collect();
    let logits = model.extend(cache, &chunks)?.logits;
    let (rows, words) = (chunks.len(), Rule::GREEDY.words().repeat(chunks.len()));
    let rules = Tensor::<D>::from_slice(&b.device, &[rows, Rule::WORDS], DType::U32, &words)?;
    let mut chosen = Tensor::<D>::empty(&b.device, &[rows, 1], DType::U32)?;
    b.device.sample(Sample::new(logits.view(), rules.view(), chosen.view_mut())?)?;
    chosen.download::<D, u32>(&b.device).map(drop)
}
