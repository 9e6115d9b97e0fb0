//! How fast a training step is on this machine, and where its time goes.
//!
//! ```text
//! cargo run --release --example train_step -- \
//!   CONFIG.json [BATCH] [LENGTH] [STEPS] [f32|bf16|fp8] [THREADS]
//! ```
//!
//! Prints tokens a second (median of the steps after two for warming up), the share of the machine's matrix rate that
//! it comes to (both measured here, in one process, since machines are shared; BF16 products for bf16 and fp8), peak
//! memory beside what the plan says, the first step beside a steady one, what that asks of the system, and the time of
//! every kernel.

mod rate;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fathom_core::DType;
use fathom_core::comm::Solo;
use fathom_core::config::{ModelConfig, ParameterCount};
use fathom_core::device::{Clock, Device, Form, Gemm, Kernels, Primitives, Trace};
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_core::train::plan::Plan;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Trainer};
use fathom_cpu::{Cpu, MAX_ISA};

/// Counts what the program asks of the system's allocator.
struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone)]
struct Wall(Instant);

impl Clock for Wall {
    fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

type Failure = Box<dyn std::error::Error>;

/// The best GFLOP/s that the product of two square matrices of `n` rows reaches here: by this driver, or in f32 by the
/// `gemm` crate, which none of the driver's own rules bind.
fn gemm_rate(device: &Cpu, dtype: DType, n: usize) -> Result<f64, Failure> {
    let square = || Tensor::<Cpu>::zeros(device, &[n, n], dtype);
    let (a, b, mut c) = (square()?, square()?, square()?);
    let own = || Ok::<_, Failure>(device.gemm(Gemm::new(Form::Nt, a.view(), b.view(), c.view_mut())?)?);
    let own = fastest(own)?;
    let own = 2.0 * (n as f64).powi(3) / own;
    // That crate does not know the limit.
    let comparable = dtype == DType::F32 && std::env::var_os(MAX_ISA).is_none();
    let other = if comparable { rate::of_gemm_crate(device.threads(), n) } else { 0.0 };
    Ok(own.max(other) / 1e9)
}

/// The shortest of five runs, in seconds.
fn fastest(mut run: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Median seconds a step and the last loss; `ready` is called when the model is initialised.
fn steps<D: Kernels>(
    device: &D,
    config: &ModelConfig,
    precision: Precision,
    shape: [usize; 3],
    ready: impl Fn(),
) -> Result<(f64, f64), D::Error> {
    let [batch, length, steps] = shape;
    let mut model = Model::new(device, config, precision)?;
    model.initialize(1)?;
    ready();
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default())?;
    let rates = Rates { lr: 1e-3, batch_size: batch, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
    let mut seconds = Vec::new();
    let mut loss = 0.0;
    let mut before = (0, 0, 0);
    for step in 0..steps + 2 {
        let n = (batch * (length + 1)) as u64;
        let token = |i| (rng::bits(1, step as u64, i) % config.vocab_size as u64) as u32;
        let tokens: Vec<u32> = (0..n).map(token).collect();
        if step == 2 {
            before = (CALLS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed), device.memory().system_allocations);
        }
        let start = Instant::now();
        loss = trainer.step(&Batch::new(&tokens, length, None, config.vocab_size)?, batch, &rates)?.loss;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let calls = (CALLS.load(Ordering::Relaxed) - before.0) / steps as u64;
    let bytes = (BYTES.load(Ordering::Relaxed) - before.1) / steps as u64;
    let taken = device.memory().system_allocations - before.2;
    println!(
        "a steady step: {calls} small allocations of {bytes} bytes in all; the pool asked the system {taken} times"
    );
    let first = seconds[0];
    seconds.drain(..2);
    seconds.sort_by(f64::total_cmp);
    let steady = seconds[seconds.len() / 2];
    println!("the first step: {:.0} ms, {:.2} of a steady one", first * 1e3, first / steady);
    Ok((steady, loss))
}

fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: train_step CONFIG.json [BATCH] [LENGTH] [STEPS] [f32|bf16|fp8] [THREADS]";
    let path = arguments.first().ok_or(usage)?;
    let number = |i: usize, default: usize| arguments.get(i).map_or(Ok(default), |s| s.parse());
    let (batch, length, count) = (number(1, 8)?, number(2, 256)?, number(3, 6)?);
    let config: ModelConfig = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let precision = match arguments.get(4).map_or("f32", String::as_str) {
        "f32" => Precision::F32,
        "bf16" => Precision::BF16,
        "fp8" => Precision::FP8,
        _ => return Err(usage.into()),
    };
    let device = Cpu::with_threads(number(5, 0)?);

    let counted = ParameterCount::of(&config);
    let flops = config.flops_per_token(length) + config.mtp_flops_per_token(length);
    let (step, loss) = steps(&device, &config, precision, [batch, length, count], || ())?;
    let memory = device.memory();
    println!(
        "pool: {:.0} MiB at the peak, {:.0} MiB taken from the system",
        memory.peak as f64 / f64::from(1 << 20),
        memory.reserved as f64 / f64::from(1 << 20)
    );
    let planned = Plan::new(&config, precision, batch, length)?.memory.total() as f64 / f64::from(1 << 20);
    let peak = peak_memory_mib().unwrap_or(f64::NAN);
    println!("peak memory {peak:.0} MiB, {:.2} of the {planned:.0} MiB that were planned", peak / planned);
    let wide = if precision == Precision::F32 { DType::F32 } else { DType::BF16 };
    let rate = gemm_rate(&device, wide, 1024)?.max(gemm_rate(&device, wide, 2048)?);
    let tokens = (batch * length) as f64 / step;
    println!(
        "{}, {:.1} M parameters, {batch} x {length}: {tokens:.0} tokens/s, {:.0} ms a step, loss {loss:.3}",
        precision.name(),
        counted.parameters() as f64 / 1e6,
        1e3 * step
    );
    println!(
        "{:.1} MFLOP a token: {:.0} GFLOP/s, {:.0} % of the {wide} matrix rate of {rate:.0} GFLOP/s",
        flops as f64 / 1e6,
        tokens * flops as f64 / 1e9,
        tokens * flops as f64 / 1e7 / rate
    );

    let traced = Trace::new(device, Wall(Instant::now()));
    steps(&traced, &config, precision, [batch, length, 2], || traced.reset())?;
    let report = traced.report();
    let total: f64 = report.iter().map(|k| k.seconds).sum();
    println!("\n{:<20} {:>7} {:>9} {:>6} {:>9} {:>8}", "kernel", "calls", "ms/step", "%", "GFLOP/s", "GB/s");
    for k in report {
        println!(
            "{:<20} {:>7} {:>9.2} {:>6.1} {:>9.1} {:>8.1}",
            k.name,
            k.calls / 4,
            k.seconds * 250.0,
            100.0 * k.seconds / total,
            k.flops as f64 / k.seconds / 1e9,
            k.bytes as f64 / k.seconds / 1e9
        );
    }
    Ok(())
}
