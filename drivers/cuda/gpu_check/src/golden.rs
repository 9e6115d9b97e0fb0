//! `gpu_check golden`: the golden cases, embedded in the program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use argh::{ArgsInfo, FromArgs};
use fathom::cli::{Command, Program};
use fathom::device::AnyDevice;
use fathom::error::{Error, Result};
use fathom::on_device;
use fathom_core::device::Kernels;
use fathom_core::precision::Precision;
use fathom_tests::decode::{PLAIN, check_continuations};
use fathom_tests::golden::{Golden, check_case, check_trajectory};
use fathom_tests::quantization::check_codes;

/// The command.
pub(crate) const COMMAND: Command = Command::new::<Arguments>("golden", "compare small models with transformers");

/// compare small models with transformers (logits, losses, gradients, 20 steps of training, greedy continuations with a
/// cache), and codes and scales with PyTorch
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
    /// only the cases whose names contain this text
    #[argh(option, default = "String::new()")]
    only: String,
    /// compare logits, losses and gradients, without training
    #[argh(switch)]
    no_training: bool,
}

/// A case: its name, `config.json`, `model.safetensors` and `golden.safetensors`.
type Case = (&'static str, &'static [u8], &'static [u8], &'static [u8]);

macro_rules! cases {
    ($($name:literal),*) => {
        &[$((
            $name,
            include_bytes!(concat!("../../../../tests/golden/", $name, "/config.json")),
            include_bytes!(concat!("../../../../tests/golden/", $name, "/model.safetensors")),
            include_bytes!(concat!("../../../../tests/golden/", $name, "/golden.safetensors")),
        ),)*]
    };
}

static CASES: &[Case] = cases!["v3_yarn", "v3_no_q_lora", "v3_tied_bias", "v2_lite", "v3_mtp"];
/// Greedy continuations of models that decode with a cache.
static CONTINUATIONS: &[Case] = cases!["decode/v3_yarn", "decode/v2_lite", "decode/v3_mtp"];
static CODES: &[u8] = include_bytes!("../../../../tests/golden/v3_fp8/quant.safetensors");

impl Program for Arguments {
    fn run(self) -> Result<()> {
        run(&self)
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let device = AnyDevice::open(&arguments.device, 0)?;
    on_device!(&device, device => golden(device, arguments))
}

fn golden<D: Kernels>(device: &D, arguments: &Arguments) -> Result<()> {
    say!("golden cases on {}", device.capabilities().name);
    let mut failed = Vec::new();
    let mut check = |name: String, body: &dyn Fn()| {
        if !name.contains(&arguments.only) {
            return;
        }
        let start = Instant::now();
        // What is wrong was written to stderr as it was found.
        let passed = catch_unwind(AssertUnwindSafe(body)).is_ok();
        let word = if passed { "pass" } else { "FAIL" };
        say!("{name:<32} {:>8.2} s  {word}", start.elapsed().as_secs_f64());
        if !passed {
            failed.push(name);
        }
    };
    check("codes and scales".into(), &|| check_codes(device, CODES));
    for (name, config, model, numbers) in CASES {
        let golden = Golden::new(config, model, numbers);
        check(format!("{name} gradients"), &|| check_case(device, name, &golden));
        if golden.tokens.contains_key("train.tokens") && !arguments.no_training {
            check(format!("{name} training"), &|| check_trajectory(device, name, &golden));
        }
    }
    for (name, config, model, numbers) in CONTINUATIONS {
        let golden = Golden::new(config, model, numbers);
        check(format!("{name} continuations"), &|| {
            let model = golden.model(device, Precision::F32);
            check_continuations(device, name, &model, (&golden.floats, &golden.tokens), PLAIN);
        });
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::Run(format!("these fail: {}", failed.join(", ")))),
    }
}
