//! How fast a model folder runs on the CPU: tokens a second of a prompt, of one sequence, and of 16 at once.
//!
//! ```text
//! cargo run --release --example inference_speed -- FOLDER [stored|bf16|fp8|f32 [CONTEXT [THREADS]]]
//! ```
//!
//! Weights are stored as `--weights` of `generate` stores them. Tokens are arbitrary: speed does not hang on them.
//! `CONTEXT` (default: 100) tokens lie before the first that one sequence decodes; of 16 sequences, 100 each. The share
//! is that of the memory's bandwidth, measured here and now, by the bytes of weights that one token reads.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use fathom::hf::{Inference, Weights, load_for_inference};
use fathom_core::cache::{Cache, CacheFormat, CacheOptions};
use fathom_core::layer::Phase;
use fathom_core::model::{Chunk, Model};
use fathom_core::weights::Storage;
use fathom_cpu::Cpu;

type Failure = Box<dyn std::error::Error>;

const PROMPT: usize = 512;
const PAGE: usize = 64;
/// Tokens before the first that is decoded, if nothing else is said.
const CONTEXT: usize = 100;
/// Tokens that are decoded in a row.
const STEPS: usize = 32;
const SEQUENCES: usize = 16;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("usage: inference_speed FOLDER [stored|bf16|fp8|f32 [CONTEXT [THREADS]]]")?;
    let name = arguments.get(1).map_or("stored", String::as_str);
    let weights = Weights::parse(name).ok_or("weights must be stored, bf16, fp8 or f32")?;
    let number = |i: usize, default: usize| arguments.get(i).map_or(Ok(default), |s| s.parse());
    let (context, cpu) = (number(2, CONTEXT)?, Cpu::with_threads(number(3, 0)?));

    let start = Instant::now();
    let options = Inference { weights, ..Inference::default() };
    let (model, warnings) = load_for_inference(&cpu, Path::new(folder), &options, &mut |_, _| ())?;
    warnings.iter().for_each(|warning| eprintln!("{warning}"));
    let held = model.copied_bytes() + model.weights().bytes();
    println!(
        "{folder}: {:.0} MB of weights ({name}), loaded in {:.1} s; {} threads, {}",
        held as f64 / 1e6,
        start.elapsed().as_secs_f64(),
        cpu.threads(),
        cpu.isa()
    );
    println!("peak memory after loading: {:.0} MB", peak_memory().unwrap_or(f64::NAN));

    let prompt = prefill(&model)?;
    println!("prompt of {PROMPT}: {prompt:.1} tokens/s");
    let (one, many) = (decode(&model, 1, context)?, decode(&model, SEQUENCES, CONTEXT)?);
    // Before the buffer that the bandwidth is measured with.
    let peak = peak_memory().unwrap_or(f64::NAN);
    let (rate, bytes) = (bandwidth(cpu.threads()), active_bytes(&model));
    println!(
        "1 sequence after {context} tokens: {one:.1} tokens/s; {:.0} MB of weights a token, {:.0} % of {:.1} GB/s",
        bytes / 1e6,
        100.0 * bytes * one / rate,
        rate / 1e9
    );
    println!("{SEQUENCES} sequences: {many:.1} tokens/s, {:.1} times as many", many / one);
    println!("peak memory: {peak:.0} MB");
    Ok(())
}

fn cache(model: &Model<Cpu>, pages: usize) -> Result<Cache<Cpu>, Failure> {
    let options = CacheOptions { format: CacheFormat::Bf16, page_tokens: PAGE, pages, mtp: 0 };
    Ok(Cache::new(model.device(), model.config(), options)?)
}

/// Tokens that follow no text.
fn tokens(model: &Model<Cpu>, count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729 + 1) % model.config().vocab_size) as u32).collect()
}

/// Tokens a second of a prompt: the best of three.
fn prefill(model: &Model<Cpu>) -> Result<f64, Failure> {
    let pages: Vec<u32> = (0..PROMPT.div_ceil(PAGE) as u32).collect();
    let (mut cache, prompt) = (cache(model, pages.len())?, tokens(model, PROMPT, 0));
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        let chunk = Chunk { tokens: &prompt, start: 0, pages: &pages, phase: Phase::Prefill, logits: 1 };
        black_box(model.extend(&mut cache, &[chunk])?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(PROMPT as f64 / best)
}

/// Tokens a second of `sequences` sequences that decode together, each after `context` tokens.
fn decode(model: &Model<Cpu>, sequences: usize, context: usize) -> Result<f64, Failure> {
    let each = (context + STEPS).div_ceil(PAGE);
    let mut cache = cache(model, sequences * each)?;
    let pages: Vec<Vec<u32>> =
        (0..sequences).map(|i| (i * each..(i + 1) * each).map(|page| page as u32).collect()).collect();
    let text: Vec<Vec<u32>> = (0..sequences).map(|i| tokens(model, context + STEPS, i)).collect();
    for (pages, text) in pages.iter().zip(&text).filter(|_| context > 0) {
        let chunk = Chunk { tokens: &text[..context], start: 0, pages, phase: Phase::Prefill, logits: 0 };
        model.extend(&mut cache, &[chunk])?;
    }
    let mut times = Vec::new();
    for step in context..context + STEPS {
        let chunks: Vec<Chunk<'_>> = pages
            .iter()
            .zip(&text)
            .map(|(pages, text)| Chunk {
                tokens: &text[step..step + 1],
                start: step,
                pages,
                phase: Phase::Decode,
                logits: 1,
            })
            .collect();
        let start = Instant::now();
        black_box(model.extend(&mut cache, &chunks)?.logits.download::<_, f32>(model.device())?);
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(sequences as f64 / times[times.len() / 2])
}

/// Bytes of the weights that a token is multiplied with.
fn active_bytes(model: &Model<Cpu>) -> f64 {
    let (config, layout) = (model.config(), model.architecture().layout());
    let bytes = |parameter: &fathom_core::weights::Parameter| {
        let each = match model.storage(&parameter.slot) {
            Some(Storage::Fp8) => 1.0 + 4.0 / 16384.0,
            Some(Storage::Bf16) => 2.0,
            Some(Storage::F32) | None => 4.0,
        };
        let share = if parameter.name.contains(".mlp.experts.") {
            config.num_experts_per_tok as f64 / config.n_routed_experts as f64
        } else if parameter.name.contains("embed_tokens") && !config.tie_word_embeddings {
            0.0
        } else {
            1.0
        };
        each * share * parameter.elements() as f64
    };
    layout.parameters().iter().map(bytes).sum()
}

/// Bytes a second that all threads together read from memory.
fn bandwidth(threads: usize) -> f64 {
    let memory: Vec<u64> = (0..1u64 << 25).collect();
    let mut best = 0.0f64;
    for _ in 0..5 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in memory.chunks(memory.len().div_ceil(threads)) {
                scope.spawn(move || {
                    let mut sums = [0u64; 32];
                    for line in part.as_chunks::<32>().0 {
                        for (sum, x) in sums.iter_mut().zip(line) {
                            *sum = sum.wrapping_add(*x);
                        }
                    }
                    black_box(sums)
                });
            }
        });
        best = best.max(size_of_val(&*memory) as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// The most memory that this process had, in MB, where the system says.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0 / 1e6)
}
