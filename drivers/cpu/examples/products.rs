//! How fast matrix products are at the shapes of a small training step, in each type, against what the machine can do.
//!
//! ```text
//! cargo run --release --example products [FILTER [THREADS]]
//! ```
//!
//! For every shape whose line contains `FILTER`: GFLOP/s of a product of F32 factors, of BF16 factors and of E4M3 codes
//! with scales (the latter two with a BF16 result, or for a weight gradient `Tn` an F32 one that is added to), and the
//! latter two as a share of the processor's BF16 peak. The peak is that of multiply-adds in registers on as many
//! threads, with the instructions that the driver uses for BF16, measured here and now; a dash if it has none, and
//! computes in F32. Types are timed in turn, since machines are shared. The last lines sum the shapes up as a training
//! step of `configs/train_small.json` has them.

mod arguments;
mod rate;

use std::hint::black_box;
use std::time::{Duration, Instant};

use fathom_core::DType;
use fathom_core::device::*;
use fathom_core::tensor::Tensor;
use fathom_cpu::{Buffer, Cpu};

type T = Tensor<Cpu>;

const TOKENS: usize = 2048;
const EXPERTS: usize = 32;
const TOP_K: usize = 4;

/// A product's form, shape and how many of it a training step has.
struct Shape {
    form: Form,
    /// Rows of activations.
    rows: usize,
    /// Shape of the weight.
    n: usize,
    k: usize,
    /// Groups of rows, each with a separate weight; 0 for a plain product.
    groups: usize,
    times: usize,
}

impl Shape {
    fn flops(&self) -> f64 {
        2.0 * (self.rows * self.n * self.k) as f64
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { form, rows, n, k, groups, .. } = self;
        let weight = match form {
            Form::Nt => format!("[{rows} × {k}]·[{k} × {n}]"),
            Form::Nn => format!("[{rows} × {n}]·[{n} × {k}]"),
            Form::Tn => format!("[{n} × {rows}]·[{rows} × {k}]"),
        };
        if *groups > 0 { write!(f, "{form:?} {weight} in {groups}") } else { write!(f, "{form:?} {weight}") }
    }
}

/// The products of a step of `configs/train_small.json` of 8 × 256 tokens, and large ones.
fn shapes() -> Vec<Shape> {
    let forms = [Form::Nt, Form::Nn, Form::Tn];
    // (outputs, inputs, times a step): query down and up, key-value down and up, output of six layers; the dense
    // layer's pair; five shared experts; the head.
    let linears = [
        (128, 256, 6),
        (384, 128, 6),
        (80, 256, 6),
        (512, 64, 6),
        (256, 256, 6),
        (1408, 256, 1),
        (256, 704, 1),
        (256, 256, 5),
        (256, 128, 5),
        (4096, 256, 1),
    ];
    let mut all = Vec::new();
    for form in forms {
        all.extend(linears.map(|(n, k, times)| Shape { form, rows: TOKENS, n, k, groups: 0, times }));
        let experts = [(256, 256), (256, 128)];
        let rows = TOKENS * TOP_K;
        all.extend(experts.map(|(n, k)| Shape { form, rows, n, k, groups: EXPERTS, times: 5 }));
    }
    all.extend(forms.map(|form| Shape { form, rows: 1536, n: 1536, k: 1536, groups: 0, times: 0 }));
    all
}

/// What a product's factors are kept in.
const KINDS: [DType; 3] = [DType::F32, DType::BF16, DType::E4M3];

/// The tiles of a factor's scales.
#[derive(Clone, Copy)]
enum Kind {
    Row(usize),
    Column,
    Groups,
    Block(usize),
}

/// A factor, with scales if it is of codes.
struct Factor {
    x: T,
    scales: Option<(T, Kind)>,
}

impl Factor {
    fn new(cpu: &Cpu, dtype: DType, shape: [usize; 2], kind: Kind, offsets: &T, seed: u64) -> Self {
        if dtype != DType::E4M3 {
            return Self { x: matrix(cpu, dtype, shape, seed), scales: None };
        }
        let from = matrix(cpu, DType::F32, shape, seed);
        let mut x = T::empty(cpu, &shape, dtype).expect("memory");
        let tiles = kind.tiles(offsets);
        let mut scales = T::zeros(cpu, &tiles.scales(shape[0], shape[1]), DType::F32).expect("memory");
        let to = ScaledMut::new(x.view_mut(), scales.view_mut(), tiles).expect("scales of the tiles' shape");
        cpu.quantize(Quantize::new(from.view(), to, false).expect("one shape")).expect("finite numbers");
        Self { x, scales: Some((scales, kind)) }
    }

    fn scaled<'a>(&'a self, offsets: &'a T) -> Option<Scaled<'a, Buffer>> {
        let (scales, kind) = self.scales.as_ref()?;
        Some(Scaled::new(self.x.view(), scales.view(), kind.tiles(offsets)).expect("scales of the tiles' shape"))
    }
}

impl Kind {
    fn tiles(self, offsets: &T) -> Tiles<'_, Buffer> {
        match self {
            Self::Row(part) => Tiles::Row { part },
            Self::Column => Tiles::Column,
            Self::Groups => Tiles::Groups { offsets: offsets.view() },
            Self::Block(part) => Tiles::Block { part },
        }
    }
}

struct Operands {
    a: Factor,
    b: Factor,
    c: T,
    offsets: T,
}

fn matrix(cpu: &Cpu, dtype: DType, [rows, cols]: [usize; 2], seed: u64) -> T {
    let values: Vec<f32> = (0..rows * cols)
        .map(|i| (fathom_core::rng::bits(seed, 0, i as u64) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect();
    let wide = T::from_slice(cpu, &[rows, cols], DType::F32, &values).expect("memory");
    let mut x = T::empty(cpu, &[rows, cols], dtype).expect("memory");
    cpu.cast(Cast::new(wide.view(), x.view_mut()).expect("one shape")).expect("a cast");
    x
}

impl Operands {
    fn new(cpu: &Cpu, shape: &Shape, dtype: DType) -> Self {
        let Shape { form, rows, n, k, groups, .. } = *shape;
        let (input, output, weight) = ([rows, k], [rows, n], [groups.max(1) * n, k]);
        let (a, b, c) = match form {
            Form::Nt => (input, weight, output),
            Form::Nn => (output, weight, input),
            Form::Tn => (output, input, weight),
        };
        // Uneven groups: expert g gets about (g + 16)/32 of an even share.
        let mut ends = vec![0];
        for g in 0..groups {
            ends.push(ends[g] + (rows * (g + 16) / (groups * (groups + 31) / 2)) as u32);
        }
        ends[groups] = rows as u32;
        let offsets = T::from_slice(cpu, &[1, groups + 1], DType::U32, &ends).expect("memory");
        let (of_a, of_b) = match form {
            Form::Nt => (Kind::Row(k), Kind::Block(n)),
            Form::Nn => (Kind::Row(n), Kind::Block(n)),
            Form::Tn if groups > 0 => (Kind::Groups, Kind::Groups),
            Form::Tn => (Kind::Column, Kind::Column),
        };
        let of_c = if form == Form::Tn || dtype == DType::F32 { DType::F32 } else { DType::BF16 };
        Self {
            a: Factor::new(cpu, dtype, a, of_a, &offsets, 1),
            b: Factor::new(cpu, dtype, b, of_b, &offsets, 2),
            c: matrix(cpu, of_c, c, 3),
            offsets,
        }
    }

    fn run(&mut self, cpu: &Cpu, shape: &Shape) {
        let (form, groups, add) = (shape.form, shape.groups, shape.form == Form::Tn);
        let (offsets, c) = (self.offsets.view(), self.c.view_mut());
        let done = match (self.a.scaled(&self.offsets), self.b.scaled(&self.offsets)) {
            (Some(a), Some(b)) if groups == 0 => {
                cpu.gemm_fp8(GemmFp8::new(form, a, b, c, Out::add_if(add)).expect("a valid call"))
            }
            (Some(a), Some(b)) => {
                let call = GroupedGemmFp8::new(form, groups, a, b, offsets, c).expect("a valid call");
                cpu.grouped_gemm_fp8(call.out(Out::add_if(add)))
            }
            _ if groups == 0 => {
                let call = Gemm::new(form, self.a.x.view(), self.b.x.view(), c).expect("a valid call");
                cpu.gemm(call.out(Out::add_if(add)))
            }
            _ => {
                let (a, b) = (self.a.x.view(), self.b.x.view());
                let call = GroupedGemm::new(form, groups, a, b, offsets, c).expect("a valid call");
                cpu.grouped_gemm(call.out(Out::add_if(add)))
            }
        };
        done.expect("a product");
    }
}

/// Shortest seconds of each of several things, timed in turn.
fn fastest<const N: usize>(mut run: impl FnMut(usize)) -> [f64; N] {
    let mut best = [Duration::MAX; N];
    let (start, mut rounds) = (Instant::now(), 0);
    while rounds < 5 || (start.elapsed() < Duration::from_millis(500) && rounds < 300) {
        for (i, best) in best.iter_mut().enumerate() {
            let start = Instant::now();
            run(i);
            *best = start.elapsed().min(*best);
        }
        rounds += 1;
    }
    best.map(|d| d.as_secs_f64())
}

/// Multiply-adds of BF16 in registers, `n` times 24.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn spin(n: usize) {
    use std::arch::x86_64::*;
    let mut sums = [_mm512_setzero_ps(); 24];
    // SAFETY: both are 512 bits.
    let x: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(0x3f80_3f80)) };
    for _ in 0..n {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, x, x);
        }
    }
    black_box(sums);
}

/// Multiply-adds of BF16 in tile registers, `n` times four.
///
/// # Safety
/// The processor has them, and the system lets this process use them.
#[cfg(target_arch = "x86_64")]
unsafe fn spin_tiles(n: usize) {
    // Palette 1; at 16 the bytes of the rows of eight registers, 64 each, and at 48 the number of their rows.
    let mut shape = [0u8; 64];
    shape[0] = 1;
    (0..8).for_each(|i| (shape[16 + 2 * i], shape[48 + i]) = (64, 16));
    // SAFETY: the caller's premise. Registers are given back.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{shape}]",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {n}",
            "jnz 2b",
            "tilerelease",
            shape = in(reg) shape.as_ptr(),
            n = inout(reg) n => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack),
        );
    }
}

/// FLOP/s of as many threads as `cpu` has that do nothing but multiply BF16 in registers, with the instructions that it
/// uses for that; none where it has none.
fn bf16_peak(cpu: &Cpu) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        const N: usize = 200_000;
        let (spin, each): (fn(), usize) = match cpu.isa().to_string().as_str() {
            // SAFETY: a device has only instructions that the processor has and the system allows.
            "amx" => (|| unsafe { spin_tiles(N) }, 4 * 2 * 16 * 16 * 32),
            // SAFETY: as above.
            "avx512_bf16" => (|| unsafe { spin(N) }, 24 * 64),
            _ => return None,
        };
        let [seconds] = fastest(|_| {
            std::thread::scope(|s| (0..cpu.threads()).for_each(|_| drop(s.spawn(spin))));
        });
        Some((cpu.threads() * N * each) as f64 / seconds)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = cpu;
        None
    }
}

fn main() {
    let mut given = std::env::args().skip(1);
    let filter = arguments::filter(given.next());
    let mut shapes = shapes();
    shapes.retain(|shape| shape.to_string().contains(&filter));
    if shapes.is_empty() {
        arguments::refuse(&format!("no line has `{filter}` in it; without a filter all shapes are printed"));
    }
    let cpu = Cpu::with_threads(arguments::threads(given.next()));
    let peak = bf16_peak(&cpu);
    let other = [512, 1024, 1536].map(|n| rate::of_gemm_crate(cpu.threads(), n)).into_iter().fold(0.0, f64::max);
    println!(
        "{} threads, {}: BF16 peak {} GFLOP/s, F32 product of the gemm crate {:.0} GFLOP/s\n",
        cpu.threads(),
        cpu.isa(),
        peak.map_or("-".to_owned(), |peak| format!("{:.0}", peak / 1e9)),
        other / 1e9
    );
    println!("{:<40} {:>8} {:>8} {:>8} {:>15} {:>15}", "GFLOP/s", "F32", "BF16", "E4M3", "of peak", "to F32");
    let (mut flops, mut total) = (0.0, [0.0; 3]);
    for shape in shapes {
        let mut operands = KINDS.map(|dtype| Operands::new(&cpu, &shape, dtype));
        let seconds: [f64; 3] = fastest(|i| operands[i].run(&cpu, &shape));
        flops += shape.flops() * shape.times as f64;
        for (total, seconds) in total.iter_mut().zip(seconds) {
            *total += seconds * shape.times as f64;
        }
        print_line(&shape.to_string(), shape.flops(), seconds, peak);
    }
    // Some shapes are of no step.
    if flops > 0.0 {
        print_line("a step", flops, total, peak);
    }
}

fn print_line(name: &str, flops: f64, seconds: [f64; 3], peak: Option<f64>) {
    let [wide, bf16, codes] = seconds.map(|s| flops / s);
    let share = |rate: f64| peak.map_or("-".to_owned(), |peak| format!("{:.0} %", 100.0 * rate / peak));
    println!(
        "{name:<40} {:>8.1} {:>8.1} {:>8.1} {:>7} {:>7} {:>6.2}x {:>6.2}x",
        wide / 1e9,
        bf16 / 1e9,
        codes / 1e9,
        share(bf16),
        share(codes),
        bf16 / wide,
        codes / wide
    );
}
