//! How fast the products of inference are: those of one token, of 16 sequences at once, and of a prompt, with weights
//! in f32, BF16 and FP8, against the memory's bandwidth.
//!
//! ```text
//! cargo run --release --example decode -- CONFIG.json [TOKENS [THREADS]]
//! ```
//!
//! For every type of weights: tokens a second of all products of a token (`gemv`, `grouped_gemv`; attention and norms
//! are left out), the bytes of weights that they read, and the rate as a share of the memory's, which is measured here
//! and now by reading a large buffer on as many threads. Then tokens a second for 16 sequences at once, whose rows go
//! to other experts, and for a prompt of `TOKENS` (default: 512) tokens by `gemm`, `gemm_mixed` and their grouped
//! forms. Types are measured in turn, since machines are shared, and the best of several rounds counts.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use fathom_core::DType;
use fathom_core::config::ModelConfig;
use fathom_core::device::*;
use fathom_core::model::Architecture;
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_cpu::{Buffer, Cpu, CpuError};

type T = Tensor<Cpu>;

/// Rounds of each measurement.
const ROUNDS: usize = 5;
/// Bytes that are read to measure the memory.
const MEMORY: usize = 1 << 29;

/// A matrix of the model: one weight, or those of a layer's experts.
struct Matrix {
    rows: usize,
    cols: usize,
    part: usize,
    /// Experts, if it is theirs.
    groups: usize,
    x: T,
    scales: Option<T>,
}

impl Matrix {
    fn factor(&self) -> Factor<'_, Buffer> {
        match &self.scales {
            None => Factor::Float(self.x.view()),
            Some(scales) => Factor::Fp8(scaled(&self.x, scales, self.part)),
        }
    }

    /// Bytes of a weight, scales among them.
    fn bytes(&self) -> usize {
        (self.x.bytes() + self.scales.as_ref().map_or(0, T::bytes)) / self.groups.max(1)
    }
}

fn scaled<'a>(codes: &'a T, scales: &'a T, part: usize) -> Scaled<'a, Buffer> {
    Scaled::new(codes.view(), scales.view(), Tiles::Block { part }).expect("scales of the blocks' shape")
}

/// The matrices that every token is multiplied with, random, linear layers and experts in `dtype`.
fn matrices(cpu: &Cpu, config: &ModelConfig, dtype: DType) -> Result<Vec<Matrix>, CpuError> {
    let architecture = Architecture::new(config);
    let layout = architecture.layout();
    let mut experts = BTreeMap::new();
    for parameter in layout.parameters().iter().filter(|p| p.is_matrix()) {
        experts.entry(parameter.slot.index()).or_insert(parameter.name.contains(".mlp.experts."));
    }
    let mut all = Vec::new();
    for slot in layout.weights() {
        use fathom_core::weights::Lowest;
        let dtype = match slot.lowest() {
            Lowest::Lookup => continue,
            Lowest::Master => DType::F32,
            Lowest::Bf16 if dtype == DType::E4M3 => DType::BF16,
            _ => dtype,
        };
        let (rows, cols, part) = (slot.rows(), slot.cols(), slot.part());
        let mut numbers = T::empty(cpu, &[rows, cols], DType::F32)?;
        cpu.random_normal(RandomNormal::new(1, slot.index() as u64, 0.02, numbers.view_mut())?)?;
        let groups = if experts.get(&slot.index()) == Some(&true) { config.n_routed_experts } else { 0 };
        let mut x = T::empty(cpu, &[rows, cols], dtype)?;
        let scales = if dtype == DType::E4M3 {
            let tiles: Tiles<'_, Buffer> = Tiles::Block { part };
            let mut scales = T::zeros(cpu, &tiles.scales(rows, cols), DType::F32)?;
            let to = ScaledMut::new(x.view_mut(), scales.view_mut(), tiles)?;
            cpu.quantize(Quantize::new(numbers.view(), to, false)?)?;
            Some(scales)
        } else {
            cpu.cast(Cast::new(numbers.view(), x.view_mut())?)?;
            None
        };
        all.push(Matrix { rows, cols, part, groups, x, scales });
    }
    Ok(all)
}

/// Where the rows of `tokens` tokens lie that go to `top_k` of `groups` experts each, by chance.
fn offsets(cpu: &Cpu, groups: usize, tokens: usize, top_k: usize) -> Result<(T, usize), CpuError> {
    let mut counts = vec![0u32; groups];
    for token in 0..tokens {
        let mut chosen: Vec<usize> = (0..groups).collect();
        for choice in 0..top_k {
            let left = (groups - choice) as f64;
            let at = choice + (rng::uniform(7, token as u64, choice as u64) * left) as usize;
            chosen.swap(choice, at);
            counts[chosen[choice]] += 1;
        }
    }
    let touched = counts.iter().filter(|&&count| count > 0).count();
    let ends = counts.iter().scan(0, |end, count| {
        *end += count;
        Some(*end)
    });
    let offsets: Vec<u32> = std::iter::once(0).chain(ends).collect();
    Ok((T::from_slice(cpu, &[1, groups + 1], DType::U32, &offsets)?, touched))
}

/// The products of `tokens` tokens; gives seconds and bytes of the weights that were read.
fn products(
    cpu: &Cpu,
    config: &ModelConfig,
    all: &[Matrix],
    tokens: usize,
    prefill: bool,
) -> Result<(f64, usize), CpuError> {
    let top_k = config.num_experts_per_tok;
    let (routed, touched) = offsets(cpu, config.n_routed_experts, tokens, top_k)?;
    let mut operands = Vec::new();
    for matrix in all {
        let of_expert = matrix.rows.checked_div(matrix.groups).map(|n| (tokens * top_k, n));
        let (rows, n) = of_expert.unwrap_or((tokens, matrix.rows));
        let mut x = T::empty(cpu, &[rows, matrix.cols], DType::F32)?;
        cpu.random_normal(RandomNormal::new(2, 3, 1.0, x.view_mut())?)?;
        operands.push((x, T::zeros(cpu, &[rows, n], DType::F32)?));
    }
    let bytes = all.iter().map(|m| m.bytes() * if m.groups > 0 { touched } else { 1 }).sum();
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for (matrix, (x, y)) in all.iter().zip(&mut operands) {
            let (w, x, y) = (matrix.factor(), x.view(), y.view_mut());
            match (prefill, matrix.groups) {
                (false, 0) => cpu.gemv(Gemv::new(x, w, y, Out::Replace)?)?,
                (false, groups) => cpu.grouped_gemv(GroupedGemv::new(groups, x, w, routed.view(), y)?)?,
                (true, groups) => {
                    let mut rounded = None;
                    if matches!(w, Factor::Float(w) if w.dtype() == DType::BF16) {
                        let mut to = T::empty(cpu, &[x.rows(), x.cols()], DType::BF16)?;
                        cpu.cast(Cast::new(x, to.view_mut())?)?;
                        rounded = Some(to);
                    }
                    let x = rounded.as_ref().map_or(x, T::view);
                    match (w, groups) {
                        (Factor::Float(w), 0) => cpu.gemm(Gemm::new(Form::Nt, x, w, y)?)?,
                        (Factor::Fp8(w), 0) => cpu.gemm_mixed(GemmMixed::new(x, w, y, Out::Replace)?)?,
                        (Factor::Float(w), groups) => {
                            cpu.grouped_gemm(GroupedGemm::new(Form::Nt, groups, x, w, routed.view(), y)?)?;
                        }
                        (Factor::Fp8(w), groups) => {
                            cpu.grouped_gemm_mixed(GroupedGemmMixed::new(groups, x, w, routed.view(), y)?)?;
                        }
                    }
                }
            }
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    black_box(&operands);
    Ok((best, bytes))
}

/// Bytes a second that all threads together read from memory.
fn bandwidth(threads: usize, memory: &[u64]) -> f64 {
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
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
        best = best.max(size_of_val(memory) as f64 / start.elapsed().as_secs_f64());
    }
    best
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().ok_or("usage: decode CONFIG.json [TOKENS [THREADS]]")?;
    let number = |i: usize, default: usize| arguments.get(i).map_or(Ok(default), |s| s.parse());
    let (tokens, cpu) = (number(1, 512)?, Cpu::with_threads(number(2, 0)?));
    let config: ModelConfig = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    println!("{} threads, {}", cpu.threads(), cpu.isa());
    let memory: Vec<u64> = (0..MEMORY as u64 / 8).collect();
    for dtype in [DType::F32, DType::BF16, DType::E4M3] {
        let all = matrices(&cpu, &config, dtype)?;
        let rate = bandwidth(cpu.threads(), &memory);
        let (one, bytes) = products(&cpu, &config, &all, 1, false)?;
        let (sixteen, more) = products(&cpu, &config, &all, 16, false)?;
        let (prompt, _) = products(&cpu, &config, &all, tokens, true)?;
        let rate = rate.max(bandwidth(cpu.threads(), &memory));
        let share = |bytes: usize, seconds: f64| 100.0 * bytes as f64 / seconds / rate;
        println!(
            "{:8} 1 sequence: {:6.1} tokens/s, {:5.0} MB a token, {:3.0} % of {:.1} GB/s | 16: {:6.1} tokens/s, \
             {:4.1}x, {:5.0} MB a step, {:3.0} % | prompt of {tokens}: {:6.1} tokens/s",
            dtype.name(),
            1.0 / one,
            bytes as f64 / 1e6,
            share(bytes, one),
            rate / 1e9,
            16.0 / sixteen,
            16.0 * one / sixteen,
            more as f64 / 1e6,
            share(more, sixteen),
            tokens as f64 / prompt,
        );
    }
    Ok(())
}
