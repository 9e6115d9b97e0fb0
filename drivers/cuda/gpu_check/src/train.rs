//! `gpu_check train`: times training steps of a whole model.

use std::time::Instant;

use argh::{ArgsInfo, FromArgs};
use fathom::cli::{Command, Program};
use fathom::device::AnyDevice;
use fathom::error::{Error, Result};
use fathom::on_device;
use fathom_core::DType;
use fathom_core::comm::Solo;
use fathom_core::config::{ModelConfig, ParameterCount};
use fathom_core::device::{Capabilities, Cast, Dry, Form, Gemm, RandomNormal};
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_core::train::plan::Plan;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Trainer};

use crate::timer::{Timer, Watch};

/// A model of 1.0 B parameters, which `drivers/cuda/python/train_step.py` uses as well.
const ONE_BILLION: &str = include_str!("../../../../configs/train_1b.json");

/// The command.
pub(crate) const COMMAND: Command = Command::new::<Arguments>("train", "time training steps of a whole model");

/// time training steps of a whole model on random tokens
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
    /// model: 1b (configs/train_1b.json), a preset, or the path of a config.json (default: 1b)
    #[argh(option, default = "String::from(\"1b\")")]
    preset: String,
    /// f32, bf16 or fp8 (default: bf16)
    #[argh(option, default = "String::from(\"bf16\")")]
    precision: String,
    /// timed steps, after three steps of warm-up (default: 20)
    #[argh(option, default = "20")]
    steps: usize,
    /// sequences per step (default: 4)
    #[argh(option, default = "4")]
    batch: usize,
    /// sequences per micro-batch (default: 2)
    #[argh(option, default = "2")]
    micro_batch: usize,
    /// tokens per sequence (default: 4096)
    #[argh(option, default = "4096")]
    length: usize,
    /// print the model and the cost of a step, and run none
    #[argh(switch)]
    dry: bool,
}

pub(crate) fn precision(name: &str) -> Result<Precision> {
    match name {
        "f32" => Ok(Precision::F32),
        "bf16" => Ok(Precision::BF16),
        "fp8" => Ok(Precision::FP8),
        other => Err(Error::Usage(format!("--precision {other}: must be f32, bf16 or fp8"))),
    }
}

/// The model of `1b`.
pub(crate) fn one_billion() -> ModelConfig {
    serde_json::from_str(ONE_BILLION).unwrap_or_else(|e| panic!("configs/train_1b.json: {e}"))
}

fn model(preset: &str) -> Result<ModelConfig> {
    let parse = |text: &str| serde_json::from_str(text).map_err(|e| Error::Run(format!("{preset}: {e}")));
    match ModelConfig::preset(preset) {
        Some(config) => Ok(config),
        None if preset == "1b" => Ok(one_billion()),
        None => {
            let read = std::fs::read_to_string(preset);
            parse(&read.map_err(|e| Error::Usage(format!("--preset {preset}: neither a preset nor a file: {e}")))?)
        }
    }
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        run(&self)
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let config = model(&arguments.preset)?;
    if arguments.micro_batch == 0 || !arguments.batch.is_multiple_of(arguments.micro_batch) {
        return Err(Error::Usage("--batch must be a multiple of --micro-batch".into()));
    }
    describe(&config, arguments).map_err(|e| Error::Run(e.to_string()))?;
    if arguments.dry {
        return Ok(());
    }
    let device = AnyDevice::open(&arguments.device, 0)?;
    let precision = precision(&arguments.precision)?;
    on_device!(&device, device => {
        steps(device, &config, precision, arguments).map_err(|e| Error::Run(format!("training: {e}")))
    })
}

const RATES: Rates = Rates { lr: 1e-4, batch_size: 0, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 0.0 };

/// Prints the model and the cost of a step, from a dry run.
fn describe(config: &ModelConfig, arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let (length, precision) = (arguments.length, precision(&arguments.precision)?);
    let count = ParameterCount::of(config);
    let plan = Plan::new(config, precision, arguments.micro_batch, length)?;
    say!(
        "{}: {:.1} M parameters, {:.1} M active per token; {} layers of {}, {} heads, {} experts of {}, {} per token",
        arguments.preset,
        count.parameters() as f64 / 1e6,
        count.active_parameters() as f64 / 1e6,
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.n_routed_experts,
        config.moe_intermediate_size,
        config.num_experts_per_tok,
    );
    // Logits in chunks as large as the CUDA driver has them.
    let mut capabilities = Capabilities::new("dry");
    capabilities.chunk = 64 << 20;
    let device = Dry::with(capabilities);
    let mut trainer = Trainer::new(Model::new(&device, config, precision)?, Solo, Hyperparameters::default())?;
    let tokens = vec![0; arguments.batch * (length + 1)];
    let batch = Batch::new(&tokens, length, None, config.vocab_size)?;
    trainer.step(&batch, arguments.micro_batch, &RATES)?;
    device.reset();
    trainer.step(&batch, arguments.micro_batch, &RATES)?;
    let tally = device.tally();
    say!(
        "a step of {} x {length} tokens, micro-batch {}, in {}: {} kernel calls, {} bytes up, {} bytes down, {:.1} \
         TFLOP, {:.1} GiB planned",
        arguments.batch,
        arguments.micro_batch,
        precision.name(),
        tally.calls(),
        tally.uploaded,
        tally.downloaded,
        tally.cost().flops as f64 / 1e12,
        plan.memory.total() as f64 / f64::from(1 << 30),
    );
    if arguments.dry {
        let mut kernels = tally.kernels.clone();
        kernels.sort_by_key(|k| std::cmp::Reverse(k.calls));
        for k in kernels {
            let (flops, bytes) = (k.cost.flops as f64 / 1e9, k.cost.bytes as f64 / 1e6);
            say!("  {:<22} {:>6} calls {flops:>12.1} GFLOP {bytes:>12.1} MB", k.name, k.calls);
        }
    }
    Ok(())
}

/// Rate of a large BF16 product in FLOP/s, the peak of which MFU is a fraction.
pub(crate) fn product_peak<D: Watch>(device: &D, dtype: DType, n: usize) -> Result<f64, D::Error> {
    let mut numbers = Tensor::<D>::empty(device, &[n, n], DType::F32)?;
    let (mut a, mut c) = (Tensor::<D>::empty(device, &[n, n], dtype)?, Tensor::<D>::empty(device, &[n, n], dtype)?);
    device.random_normal(RandomNormal::new(1, 2, 1.0, numbers.view_mut())?)?;
    device.cast(Cast::new(numbers.view(), a.view_mut())?)?;
    let mut timer = Timer::new(device, false)?;
    let seconds = timer.time(0.2, || device.gemm(Gemm::new(Form::Nt, a.view(), a.view(), c.view_mut())?))?;
    Ok(2.0 * (n as f64).powi(3) / seconds)
}

fn steps<D: Watch>(
    device: &D,
    config: &ModelConfig,
    precision: Precision,
    arguments: &Arguments,
) -> Result<(), D::Error> {
    let (batch, length) = (arguments.batch, arguments.length);
    device.warm_up()?;
    let mut model = Model::new(device, config, precision)?;
    model.initialize(1)?;
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default())?;
    let (mut seconds, mut loss, mut before) = (Vec::new(), 0.0, 0);
    for step in 0..arguments.steps + 3 {
        let n = (batch * (length + 1)) as u64;
        let token = |i| (rng::bits(1, step as u64, i) % config.vocab_size as u64) as u32;
        let tokens: Vec<u32> = (0..n).map(token).collect();
        if step == 3 {
            before = device.memory().system_allocations;
        }
        let start = Instant::now();
        let tokens = Batch::new(&tokens, length, None, config.vocab_size)?;
        loss = trainer.step(&tokens, arguments.micro_batch, &RATES)?.loss;
        seconds.push(start.elapsed().as_secs_f64());
        if step < 3 {
            say!("step {}: {:.3} s, loss {loss:.4}", step + 1, seconds[step]);
        }
    }
    let memory = device.memory();
    if let Some(remark) = device.remark() {
        say!("{remark}");
    }
    drop(trainer);
    seconds.drain(..3);
    seconds.sort_by(f64::total_cmp);
    let Some(&median) = seconds.get(seconds.len() / 2) else { return Ok(()) };
    let tokens = (batch * length) as f64 / median;
    let flops = (config.flops_per_token(length) + config.mtp_flops_per_token(length)) as f64;
    let size = if arguments.device == "cpu" || device.capabilities().memory.is_none() { 512 } else { 8192 };
    let dtype = if precision == Precision::F32 { DType::F32 } else { DType::BF16 };
    let peak = product_peak(device, dtype, size)?;
    say!(
        "pool: {:.2} GiB at the peak, {:.2} GiB taken from the system; {} requests to the system while timed",
        memory.peak as f64 / f64::from(1 << 30),
        memory.reserved as f64 / f64::from(1 << 30),
        memory.system_allocations - before
    );
    say!(
        "{} on {}: {tokens:.0} tokens/s, {:.1} ms a step (median of {}, fastest {:.1}, slowest {:.1}), loss {loss:.4}",
        precision.name(),
        device.capabilities().name,
        1e3 * median,
        seconds.len(),
        1e3 * seconds[0],
        1e3 * seconds[seconds.len() - 1]
    );
    say!(
        "{:.1} TFLOP/s needed of {:.1} that a {dtype} product of {size}^3 reaches here: MFU {:.1} %",
        tokens * flops / 1e12,
        peak / 1e12,
        100.0 * tokens * flops / peak
    );
    Ok(())
}
