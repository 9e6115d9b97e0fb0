//! How the cost of a training step grows with experts, vocabulary, sequence, batch and threads, beside what operations
//! and bytes predict.
//!
//! ```text
//! cargo run --release --example growth -- CONFIG.json [f32|bf16|fp8] [PLOT.svg [STEPS]]
//! ```
//!
//! One thing changes at a time; the rest is `CONFIG.json` and the shape that the row names. Every kernel counts its
//! operations and the bytes that it must read and write: a step is predicted to take, for each kernel, the longer of
//! its operations at the rate of large matrix products and its bytes at the rate of a copy of main memory, both the
//! best that were measured between the rows on as many threads. The last column is the share of that prediction that is
//! reached: where it falls inside a group, there is a cost that is neither operations nor bytes. Memory is the peak of
//! the driver's pool, beside what `train --plan` says.

use std::time::Instant;

use fathom_core::DType;
use fathom_core::comm::Solo;
use fathom_core::config::{ModelConfig, ParameterCount};
use fathom_core::device::{Clock, Device, Form, Gemm, Primitives, Trace};
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_core::train::plan::Plan;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Trainer};
use fathom_cpu::Cpu;
use plotters::prelude::*;

type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "usage: growth CONFIG.json [f32|bf16|fp8] [PLOT.svg [STEPS]]";
const MIB: f64 = 1024.0 * 1024.0;

#[derive(Clone)]
struct Wall(Instant);

impl Clock for Wall {
    fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// What is measured.
struct Case {
    group: &'static str,
    /// What changes, as a number.
    value: usize,
    config: ModelConfig,
    batch: usize,
    length: usize,
    /// All that there are, if 0.
    threads: usize,
}

struct Measured {
    /// Median seconds a step.
    step: f64,
    machine: Machine,
    /// Operations and bytes of a step's kernels.
    kernels: Vec<(f64, f64)>,
    peak: f64,
    planned: f64,
}

/// Rates of the machine on some threads: floating-point operations and bytes a second.
#[derive(Clone, Copy)]
struct Machine {
    flops: f64,
    bytes: f64,
}

fn cases(base: &ModelConfig, threads: usize) -> Vec<Case> {
    let case = |group, value, batch, length, change: &dyn Fn(&mut ModelConfig)| {
        let mut config = *base;
        change(&mut config);
        Case { group, value, config, batch, length, threads: 0 }
    };
    let mut all = Vec::new();
    for experts in [16, 64, 256] {
        all.push(case("experts", experts, 32, 256, &|c| c.n_routed_experts = experts));
    }
    for vocabulary in [4, 16, 64, 128] {
        all.push(case("vocabulary", vocabulary * 1024, 8, 256, &|c| c.vocab_size = vocabulary * 1024));
    }
    for length in [256, 1024, 4096, 8192] {
        all.push(case("sequence", length, 8192 / length, length, &|c| c.max_position_embeddings = length));
    }
    for batch in [1, 4, 16, 64] {
        all.push(case("batch", batch, batch, 256, &|_| ()));
    }
    for threads in (0..).map(|i| 1 << i).take_while(|&n| n <= threads) {
        all.push(Case { threads, ..case("threads", threads, 8, 256, &|_| ()) });
    }
    all
}

/// The shortest of some runs, in seconds.
fn fastest(runs: usize, mut run: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

impl Machine {
    /// The longer of the operations and the bytes of every kernel, in seconds.
    fn predict(&self, kernels: &[(f64, f64)]) -> f64 {
        kernels.iter().map(|(flops, bytes)| (flops / self.flops).max(bytes / self.bytes)).sum()
    }

    fn measure(cpu: &Cpu, dtype: DType) -> Result<Self, Failure> {
        const N: usize = 1536;
        let square = || Tensor::<Cpu>::zeros(cpu, &[N, N], dtype);
        let (a, b, mut c) = (square()?, square()?, square()?);
        let product = fastest(5, || Ok(cpu.gemm(Gemm::new(Form::Nt, a.view(), b.view(), c.view_mut())?)?))?;

        let numbers = 1 << 25;
        let (from, mut to) = (vec![1.0f32; numbers], vec![0.0f32; numbers]);
        let copy = fastest(5, || {
            let part = numbers.div_ceil(cpu.threads());
            std::thread::scope(|scope| {
                for (from, to) in from.chunks(part).zip(to.chunks_mut(part)) {
                    scope.spawn(move || to.copy_from_slice(from));
                }
            });
            Ok(())
        })?;
        Ok(Self { flops: 2.0 * (N as f64).powi(3) / product, bytes: 8.0 * numbers as f64 / copy })
    }
}

fn measure(case: &Case, precision: Precision, steps: usize) -> Result<Measured, Failure> {
    let cpu = Cpu::with_threads(case.threads);
    let wide = if precision == Precision::F32 { DType::F32 } else { DType::BF16 };
    let machine = Machine::measure(&cpu, wide)?;
    let device = Trace::new(cpu, Wall(Instant::now()));
    let mut model = Model::new(&device, &case.config, precision)?;
    model.initialize(1)?;
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default())?;
    let rates = Rates { lr: 1e-3, batch_size: case.batch, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
    let mut seconds = Vec::new();
    for step in 0..=steps {
        let n = (case.batch * (case.length + 1)) as u64;
        let vocabulary = case.config.vocab_size;
        let token = |i| (rng::bits(1, step as u64, i) % vocabulary as u64) as u32;
        let tokens: Vec<u32> = (0..n).map(token).collect();
        let batch = Batch::new(&tokens, case.length, None, vocabulary)?;
        // The first step takes memory from the system.
        if step == 1 {
            device.reset();
        }
        let start = Instant::now();
        trainer.step(&batch, case.batch, &rates)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let each = |total: u64| total as f64 / steps as f64;
    let kernels = device.report().iter().map(|k| (each(k.flops), each(k.bytes))).collect();
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    let planned = Plan::new(&case.config, precision, case.batch, case.length)?.memory.total() as f64 / MIB;
    let peak = device.memory().peak as f64 / MIB;
    Ok(Measured { step: seconds[seconds.len() / 2], machine, kernels, peak, planned })
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().ok_or(USAGE)?;
    let base: ModelConfig = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let precision = match arguments.get(1).map_or("f32", String::as_str) {
        "f32" => Precision::F32,
        "bf16" => Precision::BF16,
        "fp8" => Precision::FP8,
        _ => return Err(USAGE.into()),
    };
    let steps = arguments.get(3).map_or(Ok(4), |s| s.parse())?.max(1);
    let cpu = Cpu::with_threads(0);
    println!("{path}, {}, {} threads, {}", precision.name(), cpu.threads(), cpu.isa());
    let mut all = Vec::new();
    for case in cases(&base, cpu.threads()) {
        let measured = measure(&case, precision, steps)?;
        eprintln!("{} {}: {:.3} s a step", case.group, case.value, measured.step);
        all.push((case, measured));
    }
    let mut rows: Vec<(Case, f64, f64)> = Vec::new();
    let best = |threads: usize, rate: fn(&Machine) -> f64| {
        let of = all.iter().filter(|(case, _)| case.threads == threads).map(|(_, measured)| rate(&measured.machine));
        of.fold(0.0, f64::max)
    };
    let machines: Vec<Machine> = all
        .iter()
        .map(|(case, _)| Machine { flops: best(case.threads, |m| m.flops), bytes: best(case.threads, |m| m.bytes) })
        .collect();
    let first = machines[0];
    println!("products {:.0} GFLOP/s, copies {:.1} GB/s\n", first.flops / 1e9, first.bytes / 1e9);
    let columns = ["", "shape", "parameters, M", "active, M", "tokens/s", "to the first", "predicted"];
    println!("| {} | memory, MiB | planned | share |", columns.join(" | "));
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for ((case, measured), machine) in all.into_iter().zip(machines) {
        let tokens = (case.batch * case.length) as f64;
        let seconds = machine.predict(&measured.kernels);
        let (rate, predicted) = (tokens / measured.step, tokens / seconds);
        let first = rows.iter().find(|row| row.0.group == case.group).map_or((rate, predicted), |row| (row.1, row.2));
        let count = ParameterCount::of(&case.config);
        println!(
            "| {} {} | {} × {} | {:.1} | {:.1} | {rate:.0} | {:.2}× | {:.2}× | {:.0} | {:.0} | {:.0} % |",
            case.group,
            case.value,
            case.batch,
            case.length,
            count.parameters() as f64 / 1e6,
            count.active_parameters() as f64 / 1e6,
            rate / first.0,
            predicted / first.1,
            measured.peak,
            measured.planned,
            100.0 * seconds / measured.step
        );
        rows.push((case, rate, predicted));
    }
    if let Some(to) = arguments.get(2) {
        plot(&rows, to)?;
    }
    Ok(())
}

/// Tokens a second of every group over its first row, as measured and as predicted.
fn plot(rows: &[(Case, f64, f64)], to: &str) -> Result<(), Failure> {
    let area = SVGBackend::new(to, (1000, 240)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut groups: Vec<&str> = rows.iter().map(|row| row.0.group).collect();
    groups.dedup();
    for (part, group) in area.split_evenly((1, groups.len())).iter().zip(groups) {
        let of = rows.iter().filter(|row| row.0.group == group);
        let points: Vec<(f64, f64, f64)> = of.map(|(case, rate, best)| (case.value as f64, *rate, *best)).collect();
        let (first, last) = (points[0], points[points.len() - 1]);
        let measured: Vec<(f64, f64)> = points.iter().map(|p| (p.0, p.1 / first.1)).collect();
        let predicted: Vec<(f64, f64)> = points.iter().map(|p| (p.0, p.2 / first.2)).collect();
        let top = measured.iter().chain(&predicted).map(|p| p.1).fold(1.0, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(part)
            .caption(group, ("sans-serif", 14))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(32)
            .build_cartesian_2d((first.0..last.0.max(first.0 * 2.0)).log_scale(), 0.0..top)?;
        chart.configure_mesh().disable_mesh().x_labels(4).x_label_formatter(&|x| format!("{x:.0}")).draw()?;
        chart.draw_series([PathElement::new(predicted, BLACK.mix(0.4))])?;
        chart.draw_series([PathElement::new(measured.clone(), BLUE.stroke_width(2))])?;
        chart.draw_series(measured.into_iter().map(|p| Circle::new(p, 3, BLUE.filled())))?;
    }
    area.present()?;
    Ok(())
}
