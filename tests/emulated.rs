//! Whole models on the CUDA emulator: parity with transformers, also when decoding with a cache, first training steps
//! equal to the reference device, and memory as planned.

use fathom_core::cache::CacheFormat;
use fathom_core::comm::Solo;
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::train::plan::{Plan, Share};
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Ema, EmaMemory, Hyperparameters, Trainer};
use fathom_cpu::Cpu;
use fathom_cuda::{Cuda, Emulation};
use fathom_tests::decode::{Engine, PLAIN, Way, check_continuations, worst};
use fathom_tests::golden::{Golden, check_case};
use fathom_tests::steps::Reference;

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

/// Tokens of a continuation: as many as time allows.
const NEW: usize = 6;

/// Decoding with each format of the cache: the continuations of transformers in f32, and in the others the logits of
/// the CPU driver, which reads the same numbers. The emulator rounds queries and probabilities to BF16, by 2⁻⁹ each;
/// the CPU driver does so only where its instructions multiply pairs.
#[test]
fn continuations_with_each_format_of_the_cache() {
    let Some(device) = emulated() else { return };
    let cpu = Cpu::with_threads(1);
    let golden = Golden::load("decode/v2_lite");
    let (model, other) = (golden.model(&device, Precision::F32), golden.model(&cpu, Precision::F32));
    let way = Way { new: NEW, page_tokens: 3, ..PLAIN };
    check_continuations(&device, "decode/v2_lite", &model, (&golden.floats, &golden.tokens), way);
    let prompts = ["1.prompt", "2.prompt"].map(|name| golden.tokens[name].1.as_slice());
    for format in [CacheFormat::Bf16, CacheFormat::Fp8] {
        let way = Way { format, chunk: 7, new: 3, ..way };
        let got = Engine::new(&device, &model, way, &prompts).finish();
        let want = Engine::new(&cpu, &other, way, &prompts).finish();
        for (got, want) in got.iter().zip(&want) {
            let (got, want) = (got.logits.concat(), want.logits.concat());
            let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let error = worst(&got, &want) / largest;
            println!("{format}: logits within {error:.1e} of the largest");
            assert!(error < 1.0 / 256.0, "{format}: logits differ by {error} of the largest");
        }
    }
}

fn check_steps(precision: Precision) {
    let Some(device) = emulated() else { return };
    Reference::new(precision).check("emulated", device);
}

#[test]
fn three_steps_in_f32() {
    check_steps(Precision::F32);
}

#[test]
fn three_steps_in_bf16() {
    check_steps(Precision::BF16);
}

#[test]
fn three_steps_in_fp8() {
    check_steps(Precision::FP8);
}

/// Bytes that a step with an average of the weights takes on a device, and as planned with its capabilities.
fn taken_and_planned<D: Kernels>(device: &D, config: &ModelConfig, length: usize) -> (u64, u64) {
    let precision = Precision::F32;
    let share = Share { average: true, ..Share::alone(1, length) };
    let plan = Plan::on(device.capabilities(), config, precision, share).unwrap();
    let model = Model::new(device, config, precision).unwrap();
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default()).unwrap();
    let layout = trainer.model.architecture().layout().clone();
    let mut average = Ema::new(device, 0.9, &layout, EmaMemory::Device).unwrap();
    let tokens: Vec<u32> = (0..=length as u32).collect();
    let batch = Batch::new(&tokens, length, None, config.vocab_size).unwrap();
    let rates = Rates { lr: 1e-4, batch_size: 1, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
    for _ in 0..2 {
        trainer.step(&batch, 1, &rates).unwrap();
        average.update(device, trainer.model.weights()).unwrap();
    }
    (device.memory().reserved, plan.memory.total())
}

/// The logits are the largest thing here: a CPU computes those of 64 tokens at once, a GPU all.
#[test]
fn a_device_takes_what_is_planned_with_its_own_capabilities() {
    const LENGTH: usize = 128;
    /// What a driver lays out factors of products in, and sums in parts in, which no plan knows.
    const SCRATCH: u64 = 3_000_000;
    let config = ModelConfig {
        vocab_size: 32768,
        hidden_size: 16,
        num_hidden_layers: 2,
        n_routed_experts: 8,
        num_nextn_predict_layers: 0,
        ..ModelConfig::tiny()
    };
    let as_planned = |(taken, planned): (u64, u64), device: &str| {
        println!("{device}: {taken} bytes taken, {planned} planned");
        assert!(taken.abs_diff(planned) < planned / 50 + SCRATCH, "{device}: {taken} bytes taken, {planned} planned");
        planned
    };
    let on_cpu = as_planned(taken_and_planned(&Cpu::with_threads(1), &config, LENGTH), "cpu");
    let Some(emulated) = emulated() else { return };
    let on_gpu = as_planned(taken_and_planned(&emulated, &config, LENGTH), "cuda:emulated");
    // A plan for a GPU that is not here.
    let unopened = Cuda::unopened("cuda:0");
    let share = Share { average: true, ..Share::alone(1, LENGTH) };
    let plan = Plan::on(unopened, &config, Precision::F32, share).unwrap();
    assert_eq!(plan.memory.total(), on_gpu);
    let half_of_the_logits = (4 * config.vocab_size * LENGTH / 2) as u64;
    assert!(on_gpu >= on_cpu + half_of_the_logits, "{on_gpu} {on_cpu}");
}
