//! Whole models on the CUDA driver's emulator: parity with transformers, and the first steps of training beside another
//! device in every precision.

use fathom_core::comm::Solo;
use fathom_core::device::{Host, Kernels};
use fathom_core::layer::Precision;
use fathom_core::model::Batch;
use fathom_core::rng;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, StepReport, Trainer};
use fathom_cpu::Cpu;
use fathom_cuda::{Cuda, Emulation};
use fathom_tests::golden::{Golden, check_case};

/// The emulator, or `None` (said on stderr) where this machine has no C++ compiler. Under `CI` that is a failure.
fn emulated() -> Option<Cuda> {
    match Cuda::emulated(Emulation::default()) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("not tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn v3_yarn() {
    let Some(device) = emulated() else { return };
    check_case(&device, "v3_yarn", &Golden::load("v3_yarn"));
}

#[test]
fn v3_mtp() {
    let Some(device) = emulated() else { return };
    check_case(&device, "v3_mtp", &Golden::load("v3_mtp"));
}

const STEPS: usize = 3;
const SEQUENCES: usize = 2;
const LENGTH: usize = 24;

/// Training from the weights of a golden case, gradients accumulated over two passes, in which everything takes part:
/// dense and expert layers, both losses, the balance of experts, the expert bias.
fn train<D: Kernels>(device: &D, golden: &Golden, precision: Precision) -> Vec<StepReport> {
    let vocabulary = golden.config.vocab_size;
    let mut trainer = Trainer::new(golden.model(device, precision), Solo, Hyperparameters::default()).unwrap();
    let step = |step: usize| {
        let rates = Rates { lr: 1e-3, batch_size: SEQUENCES, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
        let token = |i| (rng::bits(3, step as u64, i) % vocabulary as u64) as u32;
        let tokens: Vec<u32> = (0..(SEQUENCES * (LENGTH + 1)) as u64).map(token).collect();
        let batch = Batch::new(&tokens, LENGTH, None, vocabulary).unwrap();
        trainer.step(&batch, 1, &rates).unwrap_or_else(|e| panic!("step {step} in {}: {e}", precision.name()))
    };
    (0..STEPS).map(step).collect()
}

/// `first` bounds what the loss of the first step differs by, relative to that of `other`: products and sums that round
/// elsewhere, and nothing else. Later steps inherit each other's roundings, and gradients are nearer to them.
fn check_steps<D: Kernels>(other: &D, precision: Precision, first: f64, later: f64) {
    let Some(device) = emulated() else { return };
    let golden = Golden::load("v3_mtp");
    let (got, want) = (train(&device, &golden, precision), train(other, &golden, precision));
    for (step, (got, want)) in got.iter().zip(&want).enumerate() {
        let off = |a: f64, b: f64| ((a - b) / b).abs();
        let mtp = off(got.mtp_loss.unwrap(), want.mtp_loss.unwrap());
        let (loss, norm) = (off(got.loss, want.loss), off(got.grad_norm, want.grad_norm));
        println!("{} step {step}: loss off by {loss:.1e}, {mtp:.1e}; gradient norm by {norm:.1e}", precision.name());
        let bound = if step == 0 { first } else { later };
        assert!(loss <= bound && mtp <= bound, "step {step}: losses {} and {}", got.loss, want.loss);
        assert!(norm <= 10.0 * later, "step {step}: gradient norms {} and {}", got.grad_norm, want.grad_norm);
    }
    assert!(want[STEPS - 1].loss != want[0].loss);
}

#[test]
fn three_steps_in_f32() {
    check_steps(&Host::new(), Precision::F32, 1e-6, 1e-5);
}

// In fewer bits the other is the CPU driver, which sums in f32 as a GPU does. The reference device sums exactly: on a model
// of this size that sends a token to another expert in the first step, and moves the loss by a third of a percent.

#[test]
fn three_steps_in_bf16() {
    check_steps(&Cpu::with_threads(2), Precision::BF16, 1e-4, 5e-3);
}

#[test]
fn three_steps_in_fp8() {
    check_steps(&Cpu::with_threads(2), Precision::FP8, 1e-4, 5e-3);
}
