//! `gpu_check curve`: compares the losses of a training run, step by step, with the same run on the CPU.
//!
//! # Tolerance
//!
//! Two correct devices round differently, and training amplifies that: a token whose two best experts differ by a
//! rounding goes to another expert, and from then on the runs are different samples of one distribution. So the bound
//! of a curve comes from the CPU itself with initial weights moved by one unit in the last place (`--perturb`), a
//! change that no training run should mind. In BF16 and FP8 alike, over two seeds each, that changes the first loss by
//! at most 1.8e-4, a single loss of 200 steps by at most 1.3 %, and the mean of the last 50 by at most 0.55 %.
//! [`FIRST`], [`ONE`] and [`LAST`] are 5.5, 4 and 1.8 times as much.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Instant;

use argh::{ArgsInfo, FromArgs};
use fathom::cli::{Command, Program};
use fathom::device::AnyDevice;
use fathom::error::{Error, Result};
use fathom::on_device;
use fathom_core::comm::Solo;
use fathom_core::config::ModelConfig;
use fathom_core::device::{Host, Kernels};
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::rng;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Trainer};
use fathom_cpu::Cpu;
use serde::{Deserialize, Serialize};

use crate::train::precision;

/// The command.
pub(crate) const COMMAND: Command = Command::new::<Arguments>("curve", "compare a training run with the CPU");

/// compare the losses of a training run on a device with those of the same run on the CPU
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    error_code(0, "all is well"),
    error_code(1, "a check failed"),
    error_code(2, "wrong arguments")
)]
struct Arguments {
    /// auto, cpu, cuda, cuda:N, or cuda:emulated, as in `train` (default: auto)
    #[argh(option, default = "String::from(\"auto\")")]
    device: String,
    /// f32, bf16 or fp8 (default: bf16)
    #[argh(option, default = "String::from(\"bf16\")")]
    precision: String,
    /// training steps (default: 200)
    #[argh(option, default = "200")]
    steps: usize,
    /// text to train on, byte by byte (default: tiny Shakespeare)
    #[argh(option)]
    text: Option<PathBuf>,
    /// write the device's curve to this file instead of comparing it
    #[argh(option)]
    save: Option<PathBuf>,
    /// compare with the curve in this file instead of running the CPU
    #[argh(option)]
    against: Option<PathBuf>,
    /// learning rate after the warm-up (default: 1e-3)
    #[argh(option, default = "1e-3")]
    lr: f64,
    /// seed that moves each initial weight up or down by one unit in the last place; 0 = no change (default: 0)
    #[argh(option, default = "0")]
    perturb: u64,
}

/// A training run and its losses.
#[derive(Serialize, Deserialize)]
struct Curve {
    device: String,
    precision: String,
    /// Hash of the text, the model and its weights; only curves with the same hash can be compared.
    of: String,
    seconds: f64,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
}

const LENGTH: usize = 128;
const BATCH: usize = 8;
const WARMUP: usize = 50;
/// Number of steps at the end whose mean losses are compared.
const TAIL: usize = 50;

/// Largest relative difference of one step's loss.
const ONE: f64 = 0.05;
/// Largest relative difference of the mean loss of the last steps.
const LAST: f64 = 0.01;
/// Largest relative difference of the first step's loss: no update precedes it, so it shows only the rounding of GEMM
/// operands.
const FIRST: f64 = 1e-3;

/// Tiny Shakespeare.
const TEXT: &[u8] = include_bytes!("../../../../bins/assets/tinyshakespeare.txt.gz");

/// The preset `tiny` with bytes as tokens.
fn config() -> ModelConfig {
    ModelConfig { vocab_size: 256, ..ModelConfig::tiny() }
}

fn text(path: Option<&PathBuf>) -> Result<Vec<u8>> {
    let text = match path {
        None => {
            let mut text = Vec::new();
            let read = flate2::read::GzDecoder::new(TEXT).read_to_end(&mut text);
            read.map_err(|e| Error::Run(format!("the embedded text: {e}")))?;
            text
        }
        Some(path) => std::fs::read(path).map_err(|e| Error::Run(format!("cannot read {}: {e}", path.display())))?,
    };
    if text.len() < 2 * LENGTH {
        return Err(Error::Usage(format!("{} bytes of text are too few: at least {}", text.len(), 2 * LENGTH)));
    }
    Ok(text)
}

/// Extends a FNV-1a hash.
fn hash(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The initial weights by parameter, made on the reference device so that they have the same bits everywhere; and their
/// hash.
fn weights(perturb: u64) -> Result<(Vec<Vec<u8>>, u64)> {
    let failed = |e: <Host as fathom_core::device::Device>::Error| Error::Run(e.to_string());
    let host = Host::new();
    let mut model = Model::new(&host, &config(), Precision::F32).map_err(failed)?;
    model.initialize(1).map_err(failed)?;
    let (mut all, mut state) = (Vec::new(), hash(0xcbf2_9ce4_8422_2325, format!("{:?}", config()).as_bytes()));
    for (number, parameter) in model.architecture().layout().parameters().iter().enumerate() {
        let mut bytes = vec![0; 4 * parameter.elements()];
        model.weights().read(&host, parameter, &mut bytes).map_err(failed)?;
        state = hash(state, &bytes);
        let (quads, _) = bytes.as_chunks_mut::<4>();
        for (i, quad) in quads.iter_mut().enumerate().filter(|_| perturb > 0) {
            let bits = u32::from_le_bytes(*quad);
            let up = rng::bits(perturb, number as u64, i as u64) & 1 == 1;
            let moved = if up { bits + 1 } else { bits.saturating_sub(1) };
            *quad = moved.to_le_bytes();
        }
        all.push(bytes);
    }
    Ok((all, state))
}

fn rates(step: usize, lr: f64) -> Rates {
    let lr = lr * ((step + 1) as f64 / WARMUP as f64).min(1.0);
    Rates { lr, batch_size: BATCH, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 }
}

fn train<D: Kernels>(device: &D, text: &[u8], arguments: &Arguments) -> Result<Curve> {
    let (weights, state) = weights(arguments.perturb)?;
    let failed = |e: D::Error| Error::Run(format!("{}: {e}", device.capabilities().name));
    let mut model = Model::new(device, &config(), precision(&arguments.precision)?).map_err(failed)?;
    let layout = model.architecture().layout().clone();
    for (parameter, bytes) in layout.parameters().iter().zip(&weights) {
        model.weights_mut().write(device, parameter, bytes).map_err(failed)?;
    }
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default()).map_err(failed)?;
    let mut curve = Curve {
        device: device.capabilities().name.to_string(),
        precision: arguments.precision.clone(),
        of: format!("{:016x}", hash(hash(state, text), &arguments.lr.to_le_bytes())),
        seconds: 0.0,
        losses: Vec::new(),
        grad_norms: Vec::new(),
    };
    let start = Instant::now();
    for step in 0..arguments.steps {
        let first = |i| rng::bits(7, step as u64, i) as usize % (text.len() - LENGTH);
        let rows = (0..BATCH as u64).flat_map(|i| &text[first(i)..][..LENGTH + 1]);
        let tokens: Vec<u32> = rows.map(|&b| u32::from(b)).collect();
        let batch = Batch::new(&tokens, LENGTH, None, 256).map_err(|e| Error::Run(e.to_string()))?;
        let report = trainer.step(&batch, BATCH, &rates(step, arguments.lr));
        let report = report.map_err(|e| Error::Run(format!("{}, step {step}: {e}", device.capabilities().name)))?;
        curve.losses.push(report.loss);
        curve.grad_norms.push(report.grad_norm);
    }
    curve.seconds = start.elapsed().as_secs_f64();
    say!(
        "{} {}: {} steps in {:.1} s, loss {:.4} -> {:.4}",
        curve.device,
        curve.precision,
        arguments.steps,
        curve.seconds,
        curve.losses.first().unwrap_or(&f64::NAN),
        curve.losses.last().unwrap_or(&f64::NAN)
    );
    Ok(curve)
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        run(&self)
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    precision(&arguments.precision)?;
    let text = text(arguments.text.as_ref())?;
    let device = AnyDevice::open(&arguments.device, 0)?;
    let curve = on_device!(&device, device => train(device, &text, arguments))?;
    if let Some(path) = &arguments.save {
        let json = serde_json::to_string(&curve).map_err(|e| Error::Run(e.to_string()))?;
        return std::fs::write(path, json).map_err(|e| Error::Run(format!("cannot write {}: {e}", path.display())));
    }
    let other = match &arguments.against {
        None => train(&Cpu::new(), &text, &Arguments { perturb: 0, ..copy(arguments) })?,
        Some(path) => {
            let wrong = |e: String| Error::Run(format!("{}: {e}", path.display()));
            let read = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
            serde_json::from_str(&read).map_err(|e| wrong(e.to_string()))?
        }
    };
    compare(&curve, &other)
}

fn copy(a: &Arguments) -> Arguments {
    Arguments {
        device: a.device.clone(),
        precision: a.precision.clone(),
        text: a.text.clone(),
        save: None,
        against: None,
        ..*a
    }
}

fn compare(curve: &Curve, other: &Curve) -> Result<()> {
    if (&curve.of, &curve.precision) != (&other.of, &other.precision) {
        return Err(Error::Run(format!(
            "the curve to compare with is of {} in {}, this one of {} in {}: record it again with this program",
            other.of, other.precision, curve.of, curve.precision
        )));
    }
    let steps = curve.losses.len().min(other.losses.len());
    if steps == 0 {
        return Err(Error::Usage("no steps to compare".into()));
    }
    let relative: Vec<f64> = curve.losses.iter().zip(&other.losses).map(|(a, b)| (a - b).abs() / b).collect();
    let worst = (0..steps).max_by(|&a, &b| relative[a].total_cmp(&relative[b])).unwrap_or(0);
    let mean = relative.iter().sum::<f64>() / steps as f64;
    let last = |losses: &[f64]| losses[steps - steps.min(TAIL)..steps].iter().sum::<f64>();
    let end = last(&curve.losses) / last(&other.losses) - 1.0;
    let limit = |step| if step == 0 { FIRST } else { ONE };
    let beyond = relative.iter().enumerate().position(|(step, &x)| x.is_nan() || x > limit(step));
    say!(
        "{} against {} in {}, {steps} steps: relative difference of the loss {:.2e} in the first step, {:.2e} in the \
         mean, {:.2e} at most (step {worst}); of the mean of the last {} steps {end:+.2e}",
        curve.device,
        other.device,
        curve.precision,
        relative[0],
        mean,
        relative[worst],
        steps.min(TAIL),
    );
    say!("tolerance: {FIRST} in the first step, {ONE} in each, {LAST} of the mean of the last");
    match beyond {
        Some(step) => Err(Error::Run(format!(
            "step {step}: loss {:.5}, should be {:.5}: beyond the tolerance",
            curve.losses[step], other.losses[step]
        ))),
        None if end.is_nan() || end.abs() > LAST => {
            Err(Error::Run(format!("the last steps differ by {end:+.2e}: beyond the tolerance")))
        }
        None => {
            say!("curve: pass");
            Ok(())
        }
    }
}
