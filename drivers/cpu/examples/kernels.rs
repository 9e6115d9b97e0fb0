//! Times every kernel but matrix products (those are the example `products`) at the shapes of a small training step,
//! against what the machine can do.
//!
//! `cargo run --release --example kernels [FILTER [THREADS [ISA]]]` prints, for each kernel whose line
//! contains `FILTER`, its best time, its rate, and that rate as a fraction of the peak measured in the same process:
//! for attention the best f32 product of 512³ to 1536³ by the `gemm` crate, for all others copying memory that fits no
//! cache.

mod arguments;
mod rate;

use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use fathom_core::DType;
use fathom_core::device::*;
use fathom_core::routing::{GroupScore, RouteConfig, Score};
use fathom_core::tensor::Tensor;
use fathom_cpu::{Cpu, Isa};

type T = Tensor<Cpu>;

const TOKENS: usize = 2048;
const HIDDEN: usize = 256;
const EXPERTS: usize = 32;
const TOP_K: usize = 4;
const INNER: usize = 128;
const VOCAB: usize = 4096;
const HEADS: Heads = Heads { heads: 8, nope: 32, rope: 16, value: 32, scale: 0.144, sequence: 256 };

/// The kernels of each section below.
const PRODUCT_KERNELS: &[&str] = &["gemm", "grouped_gemm"];
const ATTENTION_KERNELS: &[&str] = &["attention", "attention_grad"];
const LAYER_KERNELS: &[&str] = &["rmsnorm", "rmsnorm_grad", "rope", "swiglu", "swiglu_grad", "binary"];
const EXPERT_KERNELS: &[&str] = &["gather_rows", "combine"];
const ROUTER_KERNELS: &[&str] = &["route", "route_grad", "balance", "sort_by_key"];
const CODE_KERNELS: &[&str] = &["quantize", "dequantize", "requantize", "quantize_both"];
const DECODE_KERNELS: &[&str] =
    &["latent_attention", "chunk_attention", "absorb_query", "absorb_output", "store_latent", "load_latent"];
const TRAINING_KERNELS: &[&str] =
    &["cross_entropy", "adamw", "lerp", "reduce_rows", "fill", "cast", "random_normal", "scatter_add_rows"];

struct Bench {
    cpu: Cpu,
    filter: String,
    flops: f64,
    bandwidth: f64,
    seed: u64,
    /// Lines that were printed.
    lines: Cell<usize>,
}

/// The shortest of many runs: what the kernel takes when nothing else wants the machine.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let (mut shortest, start) = (Duration::MAX, Instant::now());
    let mut runs = 0;
    while runs < 5 || (start.elapsed() < Duration::from_millis(300) && runs < 400) {
        let start = Instant::now();
        f();
        shortest = shortest.min(start.elapsed());
        runs += 1;
    }
    shortest.as_secs_f64()
}

impl Bench {
    fn new(filter: String, threads: usize, isa: Isa) -> Self {
        let cpu = Cpu::with(threads, isa);
        let flops =
            [512, 768, 1024, 1536].map(|n| rate::of_gemm_crate(cpu.threads(), n)).into_iter().fold(0.0, f64::max);
        let bandwidth = peak_bandwidth(&cpu);
        println!(
            "{} threads, {}: f32 product {:.0} GFLOP/s, memory copy {:.1} GB/s\n",
            cpu.threads(),
            cpu.isa(),
            flops / 1e9,
            bandwidth / 1e9
        );
        println!("{:<44} {:>9} {:>9}         {:>5}", "kernel", "µs", "rate", "peak");
        Self { cpu, filter, flops, bandwidth, seed: 0, lines: Cell::new(0) }
    }

    fn floats(&mut self, rows: usize, cols: usize) -> T {
        self.reals(DType::F32, rows, cols)
    }

    fn reals(&mut self, dtype: DType, rows: usize, cols: usize) -> T {
        let values: Vec<f32> = (0..rows * cols)
            .map(|_| {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (self.seed >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        let wide = T::from_slice(&self.cpu, &[rows, cols], DType::F32, &values).expect("memory");
        let mut x = T::empty(&self.cpu, &[rows, cols], dtype).expect("memory");
        self.cpu.cast(Cast::new(wide.view(), x.view_mut()).expect("one shape")).expect("a cast");
        x
    }

    fn indices(&self, rows: usize, cols: usize, f: impl Fn(usize) -> usize) -> T {
        let values: Vec<u32> = (0..rows * cols).map(|i| f(i) as u32).collect();
        T::from_slice(&self.cpu, &[rows, cols], DType::U32, &values).expect("memory")
    }

    /// Whether the filter begins with the name of a kernel that is none of `kernels`: their operands need not be made.
    fn skips(&self, kernels: &[&str]) -> bool {
        let first = self.filter.split(' ').next().unwrap_or_default();
        let known = |all: &[&str]| all.contains(&first);
        !known(kernels)
            && [
                PRODUCT_KERNELS,
                ATTENTION_KERNELS,
                LAYER_KERNELS,
                EXPERT_KERNELS,
                ROUTER_KERNELS,
                CODE_KERNELS,
                DECODE_KERNELS,
                TRAINING_KERNELS,
            ]
            .into_iter()
            .any(known)
    }

    /// Times `f`, which makes and runs a call of `cost`.
    fn time(&self, name: &str, cost: Cost, f: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        self.lines.set(self.lines.get() + 1);
        let seconds = best(f);
        let products = name.contains("attention");
        let (rate, unit, peak) = if products {
            (cost.flops as f64 / seconds, "GFLOP/s", self.flops)
        } else {
            (cost.bytes as f64 / seconds, "GB/s   ", self.bandwidth)
        };
        println!("{name:<44} {:>9.1} {:>9.1} {unit} {:>4.0} %", seconds * 1e6, rate / 1e9, 100.0 * rate / peak);
    }
}

/// Times a kernel of the device: `time!(bench, "what", kernel: Call::new(...))`.
macro_rules! time {
    ($bench:expr, $what:expr, $kernel:ident: $call:expr) => {{
        let cpu = $bench.cpu.clone();
        let cost = Call::cost(&$call.expect("a valid call"));
        let name = format!("{} {}", stringify!($kernel), $what);
        $bench.time(name.trim_end(), cost, || cpu.$kernel($call.expect("a valid call")).expect("a kernel that runs"));
    }};
}

fn peak_bandwidth(cpu: &Cpu) -> f64 {
    let n = 32 << 20;
    let (from, mut to) = (vec![1u8; n], vec![0u8; n]);
    let each = n / cpu.threads();
    let seconds = best(|| {
        std::thread::scope(|s| {
            for (to, from) in to.chunks_mut(each).zip(from.chunks(each)) {
                s.spawn(|| to.copy_from_slice(from));
            }
        });
    });
    black_box(&to);
    2.0 * n as f64 / seconds
}

fn attention(b: &mut Bench, of: DType) {
    if b.skips(ATTENTION_KERNELS) {
        return;
    }
    let wide = Heads { heads: 4, nope: 128, rope: 64, value: 128, scale: 0.07, sequence: 1024 };
    for (h, t) in [(HEADS, TOKENS), (HEADS, HEADS.sequence), (wide, TOKENS)] {
        let what =
            format!("{of} {} of {}+{}/{}, {} × {}", h.heads, h.nope, h.rope, h.value, t / h.sequence, h.sequence);
        let (q_cols, kv_cols, o_cols) = (h.heads * (h.nope + h.rope), h.heads * (h.nope + h.value), h.heads * h.value);
        let (q, kv, k_pe) = (b.reals(of, t, q_cols), b.reals(of, t, kv_cols), b.reals(of, t, h.rope));
        let starts = b.indices(t, 1, |r| r / h.sequence * h.sequence);
        let (mut o, mut lse, d_o) = (b.reals(of, t, o_cols), b.floats(t, h.heads), b.reals(of, t, o_cols));
        let (mut dq, mut dkv, mut dk) = (b.reals(of, t, q_cols), b.reals(of, t, kv_cols), b.reals(of, t, h.rope));
        time!(b, what, attention: Attention::new(h, q.view(), kv.view(), k_pe.view(), starts.view(), o.view_mut(),
            lse.view_mut()));
        time!(b, what, attention_grad: AttentionGrad::new(h, q.view(), kv.view(), k_pe.view(), starts.view(), o.view(),
            lse.view(), d_o.view(), dq.view_mut(), dkv.view_mut(), dk.view_mut()));
    }
}

/// Decoding with 16 heads over a latent of 512 and a key of 64: a token of one sequence, and of 16.
fn decoding(b: &mut Bench, format: DType) {
    if b.skips(DECODE_KERNELS) {
        return;
    }
    let h = Heads { heads: 16, nope: 128, rope: 64, value: 128, scale: 0.07, sequence: 1 };
    let (latent, page) = (512, 64);
    let row = LatentRow::new(format, latent, h.rope).expect("a format");
    for (sequences, keys) in [(1, 100), (1, 1000), (1, 4000), (16, 1000)] {
        let each = keys / page + 1;
        let slots = b.indices(sequences * each * page, 1, |i| i);
        let (c, k_pe) = (b.floats(slots.shape().rows(), latent), b.floats(slots.shape().rows(), h.rope));
        let mut cache = T::empty(&b.cpu, &[slots.shape().rows(), row.cols()], format).expect("memory");
        let call = StoreLatent::new(row, c.view(), k_pe.view(), slots.view(), cache.view_mut());
        b.cpu.store_latent(call.expect("a valid call")).expect("a kernel that runs");
        let tables = b.indices(sequences, each, |i| i * 7919 % (sequences * each));
        let (sequence, seen) = (b.indices(sequences, 1, |i| i), b.indices(sequences, 1, |_| keys));
        let q = b.floats(sequences, h.heads * (latent + h.rope));
        let mut o = b.floats(sequences, h.heads * latent);
        let paged = || Paged::new(row, cache.view(), page, tables.view());
        let what = format!("{format}, {sequences} × {keys}");
        time!(b, what, latent_attention: LatentAttention::new(h.heads, h.scale, q.view(), paged().expect("pages"),
            sequence.view(), seen.view(), o.view_mut()));
        let (mut c, mut k_pe) = (b.floats(keys, latent), b.floats(keys, h.rope));
        let slots = b.indices(keys, 1, |i| i);
        time!(b, what, load_latent: LoadLatent::new(row, cache.view(), slots.view(), c.view_mut(), k_pe.view_mut()));
    }
    let of = if format == DType::F32 { DType::F32 } else { DType::BF16 };
    for t in [1, 16] {
        let w = b.reals(of, h.heads * (h.nope + h.value), latent);
        let (q, mut y) = (b.floats(t, h.heads * (h.nope + h.rope)), b.floats(t, h.heads * (latent + h.rope)));
        let (x, mut o) = (b.floats(t, h.heads * latent), b.floats(t, h.heads * h.value));
        let weight = Factor::Float(w.view());
        let what = format!("{of}, {t}");
        time!(b, what, absorb_query: AbsorbQuery::new(h, q.view(), weight, y.view_mut()));
        time!(b, what, absorb_output: AbsorbOutput::new(h, x.view(), weight, o.view_mut()));
    }
}

fn layers(b: &mut Bench, of: DType) {
    if b.skips(LAYER_KERNELS) {
        return;
    }
    let (x, w, dy) = (b.reals(of, TOKENS, HIDDEN), b.floats(1, HIDDEN), b.reals(of, TOKENS, HIDDEN));
    let (mut y, mut rstd) = (b.reals(of, TOKENS, HIDDEN), b.floats(TOKENS, 1));
    let (mut dx, mut dw) = (b.reals(of, TOKENS, HIDDEN), b.floats(1, HIDDEN));
    let what = format!("{of} 2048 × 256");
    time!(b, what, rmsnorm: RmsNorm::new(x.view(), w.view(), 1e-6, y.view_mut(), rstd.view_mut()));
    time!(b, what, rmsnorm_grad: RmsNormGrad::new(x.view(), w.view(), rstd.view(), dy.view(), dx.view_mut(), Out::Add,
        dw.view_mut()));
    let (head, table) = (HEADS.nope + HEADS.rope, b.floats(256, HEADS.rope));
    let positions = b.indices(TOKENS, 1, |r| r % 256);
    let mut q = b.reals(of, TOKENS, 8 * head);
    let what = format!("{of} 2048 × 8 heads");
    time!(b, what, rope: Rope::new(q.view_mut(), head, HEADS.nope, table.view(), positions.view(), false));
    let rows = TOKENS * TOP_K;
    let (x, scale, mut y) = (b.reals(of, rows, 2 * INNER), b.floats(rows, 1), b.reals(of, rows, INNER));
    let (dy, mut dx, mut ds) = (b.reals(of, rows, INNER), b.reals(of, rows, 2 * INNER), b.floats(rows, 1));
    let what = format!("{of} 8192 × 128");
    time!(b, what, swiglu: Swiglu::new(x.view(), Some(scale.view()), y.view_mut()));
    time!(b, what, swiglu_grad: SwigluGrad::new(x.view(), Some(scale.view()), dy.view(), dx.view_mut(),
        Some(ds.view_mut()), y.view_mut()));
    time!(b, format!("Add {of} 8192 × 256"), binary: Binary::new(BinaryOp::Add, x.view(), dx.view_mut()));
}

fn experts(b: &mut Bench, of: DType) {
    if b.skips(EXPERT_KERNELS) {
        return;
    }
    let (rows, k) = (TOKENS * TOP_K, TOP_K);
    // As a router that spreads tokens evenly would send them.
    let order = b.indices(rows, 1, |p| (p * 2053) % rows);
    let inverse = b.indices(TOKENS, k, |i| (i * 2053) % rows);
    let (x, mut y, mut sum) = (b.reals(of, TOKENS, HIDDEN), b.reals(of, rows, HIDDEN), b.reals(of, TOKENS, HIDDEN));
    time!(b, format!("{of} 8192 × 256"), gather_rows: GatherRows::new(x.view(), order.view(), k, y.view_mut()));
    time!(b, format!("{of} 2048 × 4 × 256"), combine: Combine::new(y.view(), inverse.view(), sum.view_mut(), Out::Add));
}

fn codes(b: &mut Bench, of: DType) {
    if b.skips(CODE_KERNELS) {
        return;
    }
    let (m, n) = (4096, 1024);
    let offsets = b.indices(1, EXPERTS + 1, |g| m * g * (g + 31) / (EXPERTS * (EXPERTS + 31)));
    let (x, mut y) = (b.reals(of, m, n), b.reals(of, m, n));
    let (row, block) = (Tiles::Row { part: n }, Tiles::Block { part: m });
    let groups = Tiles::Groups { offsets: offsets.view() };
    let cases = [
        ("1×128", DType::E4M3, row, false),
        ("1×128 2ⁿ", DType::E4M3, row, true),
        ("1×128 2ⁿ", DType::E5M6Pair, row, true),
        ("128×1", DType::E4M3, Tiles::Column, false),
        ("128×1 by group", DType::E4M3, groups, false),
        ("128×128", DType::E4M3, block, false),
    ];
    for (name, format, tiles, power_of_two) in cases {
        let what = format!("{format} {of} {m} × {n}, {name}");
        let mut codes = T::empty(&b.cpu, &[m, n / format.numbers()], format).expect("memory");
        let mut scales = T::empty(&b.cpu, &tiles.scales(m, n), DType::F32).expect("memory");
        time!(b, what, quantize: ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles)
            .and_then(|y| Quantize::new(x.view(), y, power_of_two)));
        if format == DType::E4M3 && matches!(tiles, Tiles::Column | Tiles::Groups { .. }) {
            let mut along = T::empty(&b.cpu, &[m, n], format).expect("memory");
            let mut along_scales = T::empty(&b.cpu, &row.scales(m, n), DType::F32).expect("memory");
            time!(b, format!("{what} and 1×128"), quantize_both: {
                let rows = ScaledMut::new(along.view_mut(), along_scales.view_mut(), row);
                let columns = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles);
                rows.and_then(|rows| Encoded::new(Some(rows), Some(columns?), power_of_two))
                    .and_then(|y| QuantizeBoth::new(x.view(), y))
            });
        }
        time!(b, what, dequantize: Scaled::new(codes.view(), scales.view(), tiles)
            .and_then(|x| Dequantize::new(x, y.view_mut())));
        if of == DType::F32 && matches!(tiles, Tiles::Row { .. }) {
            let mut columns = T::empty(&b.cpu, &[m, n], DType::E4M3).expect("memory");
            let mut again = T::empty(&b.cpu, &Tiles::<()>::Column.scales(m, n), DType::F32).expect("memory");
            let from = || Scaled::new(codes.view(), scales.view(), tiles);
            time!(b, format!("{format} {m} × {n}, {name} to 128×1"), requantize:
                ScaledMut::new(columns.view_mut(), again.view_mut(), Tiles::Column)
                    .and_then(|y| Requantize::new(from()?, y, power_of_two)));
        }
    }
}

fn router(b: &mut Bench) {
    if b.skips(ROUTER_KERNELS) {
        return;
    }
    let config = RouteConfig {
        experts: EXPERTS,
        top_k: TOP_K,
        groups: 4,
        top_groups: 2,
        score: Score::Sigmoid,
        group_score: GroupScore::TopTwo,
        normalize: true,
        scale: 1.0,
    };
    let (t, e, k, rows) = (TOKENS, EXPERTS, TOP_K, TOKENS * TOP_K);
    let (logits, mut scores, mut weights) = (b.floats(t, e), b.floats(t, e), b.floats(t, k));
    let mut chosen = b.indices(t, k, |_| 0);
    let (dw, mut ds, mut dx, mut loss) = (b.floats(t, k), b.floats(t, e), b.floats(t, e), b.floats(1, 1));
    time!(b, "2048, 4 of 32", route: Route::new(config, logits.view(), None, scores.view_mut(), chosen.view_mut(),
        weights.view_mut()));
    time!(b, "2048, 4 of 32", route_grad: RouteGrad::new(config, scores.view(), chosen.view(), dw.view(),
        Some(ds.view()), dx.view_mut()));
    time!(b, "8 × 256, 4 of 32", balance: Balance::new(scores.view(), 256, k, 1e-4, loss.view_mut(), ds.view_mut()));
    let (mut order, mut inverse) = (b.indices(rows, 1, |_| 0), b.indices(t, k, |_| 0));
    let mut offsets = b.indices(1, e + 1, |_| 0);
    time!(b, "8192 keys", sort_by_key: SortByKey::new(chosen.view(), e, order.view_mut(), inverse.view_mut(),
        offsets.view_mut()));
}

fn training(b: &mut Bench, of: DType) {
    if b.skips(TRAINING_KERNELS) {
        return;
    }
    let (mut x, mut nll) = (b.reals(of, TOKENS, VOCAB), b.floats(TOKENS, 1));
    let targets = b.indices(TOKENS, 1, |i| i * 7 % VOCAB);
    time!(b, format!("{of} 2048 × 4096"), cross_entropy: CrossEntropy::new(x.view_mut(), targets.view(), Some(5e-4),
        nll.view_mut()));
    let n = 20_000_000;
    let (mut w, g, mut m, mut v) = (b.floats(1, n), b.floats(1, n), b.reals(of, 1, n), b.reals(of, 1, n));
    let (clip, mut norm) = (b.floats(1, 1), b.floats(1, 1));
    let rates = AdamRates { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, step: 10 };
    let what = format!("{of} 20 M");
    time!(b, what, adamw: AdamW::new(w.view_mut(), g.view(), m.view_mut(), v.view_mut(), clip.view(), rates));
    time!(b, "F32 20 M", lerp: Lerp::new(w.view_mut(), g.view(), 1e-3));
    time!(b, format!("SumSquares {what}"), reduce_rows: ReduceRows::new(Reduction::SumSquares, m.view(),
        norm.view_mut(), Out::Replace));
    time!(b, what, fill: Some(Fill::new(m.view_mut(), 0.0)));
    time!(b, format!("F32 to {what}"), cast: Cast::new(w.view(), m.view_mut()));
    time!(b, format!("to F32 from {what}"), cast: Cast::new(m.view(), w.view_mut()));
    time!(b, what, random_normal: RandomNormal::new(1, 2, 0.02, m.view_mut()));
    let (rows, index) = (b.reals(of, TOKENS, HIDDEN), b.indices(TOKENS, 1, |i| i * 31 % VOCAB));
    let mut table = b.floats(VOCAB, HIDDEN);
    time!(b, format!("{of} 2048 × 256"), scatter_add_rows: ScatterAddRows::new(rows.view(), index.view(),
        table.view_mut()));
}

fn main() {
    let mut given = std::env::args().skip(1);
    let filter = arguments::filter(given.next());
    let threads = arguments::threads(given.next());
    let isa = given.next().map(|name| {
        let names: Vec<String> = Isa::all().map(|isa| isa.to_string()).collect();
        let found = Isa::all().find(|isa| isa.to_string() == name);
        found.unwrap_or_else(|| {
            arguments::refuse(&format!("ISA must be one of what this machine has: {}", names.join(", ")))
        })
    });
    let mut bench = Bench::new(filter, threads, isa.unwrap_or_else(Isa::best));
    router(&mut bench);
    for of in [DType::F32, DType::BF16] {
        layers(&mut bench, of);
        experts(&mut bench, of);
        codes(&mut bench, of);
        training(&mut bench, of);
        attention(&mut bench, of);
    }
    for format in [DType::F32, DType::BF16, DType::E4M3] {
        decoding(&mut bench, format);
    }
    if bench.lines.get() == 0 {
        let filter = &bench.filter;
        arguments::refuse(&format!(
            "no line has `{filter}` in it; matrix products are those of the example `products`"
        ));
    }
}
