//! Gradients under the precision policies equal those of a PyTorch script, and every switch of the FP8 recipe has its
//! known cost.

use fathom::hf;
use fathom_core::comm::Solo;
use fathom_core::config::ModelConfig;
use fathom_core::device::{Host, Kernels};
use fathom_core::model::{Batch, LossScales};
use fathom_core::precision::Precision;
use fathom_core::train::plan::Plan;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Trainer};
use fathom_core::weights::Parameters;
use fathom_cpu::Cpu;
use fathom_tests::{Golden, golden_folder, tensors};

fn rates() -> Rates {
    Rates { lr: 1e-3, batch_size: 2, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 0.0 }
}

/// The loss's error, and the relative L2 error of all gradients together.
fn errors<D: Kernels>(device: &D, case: &str, precision: Precision) -> (f64, f64) {
    let golden = Golden::load(case);
    let (shape, tokens) = &golden.tokens["tokens"];
    let batch = Batch::new(tokens, shape[1] - 1, None, golden.config.vocab_size).unwrap();
    let model = golden.model(device, precision);
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default()).unwrap();
    let report = trainer.step(&batch, batch.sequences(), &rates()).unwrap();
    let (mut difference, mut norm) = (0.0f64, 0.0f64);
    for parameter in trainer.model.architecture().layout().parameters() {
        let want = &golden.floats[&format!("grad.{}", parameter.name)];
        let mut bytes = vec![0; 4 * parameter.elements()];
        trainer.gradients().read(device, parameter, &mut bytes).unwrap();
        let got = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        for (a, &b) in got.zip(want) {
            difference += f64::from(a - b).powi(2);
            norm += f64::from(b).powi(2);
        }
    }
    ((report.loss - f64::from(golden.floats["loss"][0])).abs(), (difference / norm).sqrt())
}

const CASES: [&str; 5] = ["v3_yarn", "v3_no_q_lora", "v3_tied_bias", "v2_lite", "v3_mtp"];

fn check_policies<D: Kernels>(device: &D) {
    for case in CASES {
        for (precision, loss_bound, gradient_bound) in [(Precision::BF16, 5e-3, 0.12), (Precision::FP8, 5e-2, 0.4)] {
            let (loss, gradient) = errors(device, case, precision);
            println!("{case} {}: loss off by {loss:.1e}, gradients by {gradient:.4}", precision.name());
            assert!(loss < loss_bound, "{case} {}: the loss is off by {loss}", precision.name());
            assert!(gradient < gradient_bound, "{case} {}: gradients are off by {gradient}", precision.name());
        }
    }
}

#[test]
fn policies_on_the_reference_device() {
    check_policies(&Host::new());
}

#[test]
fn policies_on_the_cpu_device() {
    check_policies(&Cpu::new());
}

/// How far a step is from `policies.safetensors`, which `python/fp8_reference.py` writes.
#[derive(Debug)]
struct Distance {
    loss: f64,
    /// Relative L2 distance of all gradients together.
    gradients: f64,
    /// The largest such distance of one parameter's gradient, and whose it is.
    worst: (f64, String),
    /// Choices of an expert that are others.
    choices: usize,
}

fn from_policy<D: Kernels>(device: &D, case: &str, precision: Precision) -> Distance {
    let folder = golden_folder().join(case);
    let (want, integers) = tensors(&folder.join("policies.safetensors"));
    let (policy, stride) = (precision.name(), integers["stride"].1[0] as usize);
    let (model, _) = hf::load_model(device, &folder, precision).unwrap();
    let (shape, tokens) = &integers["tokens"];
    let batch = Batch::new(tokens, shape[1] - 1, None, model.config().vocab_size).unwrap();
    let inputs = model.inputs(&batch, 0).unwrap();
    let kept = model.forward(&inputs, &mut model.load_count().unwrap()).unwrap();
    let mut chosen = Vec::new();
    for experts in kept.blocks().iter().filter_map(|block| block.experts()) {
        let mut bytes = vec![0; 4 * experts.elements()];
        device.download(experts.buffer(), 4 * experts.offset(), &mut bytes).unwrap();
        chosen.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    }
    let experts = &integers[&format!("{policy}.experts")].1;
    assert_eq!(chosen.len(), experts.len());
    let choices = chosen.iter().zip(experts).filter(|(a, b)| a != b).count();

    let layout = model.architecture().layout().clone();
    let mut gradients = Parameters::zeros(device, &layout, precision.master()).unwrap();
    let mut losses = model.losses(0, 0).unwrap();
    let scales = LossScales { main: 1.0 / batch.targets(0) as f64, mtp: Vec::new(), balance: 0.0 };
    model.backward(&inputs, kept, &scales, &mut gradients, &mut losses).unwrap();
    let nll: Vec<f32> = losses.nll.download(device).unwrap();
    let loss = f64::from(nll[0]) * scales.main - f64::from(want[&format!("{policy}.loss")][0]);

    let (mut difference, mut norm, mut worst) = (0.0f64, 0.0f64, (0.0f64, String::new()));
    for parameter in layout.parameters() {
        let mut bytes = vec![0; 4 * parameter.elements()];
        gradients.read(device, parameter, &mut bytes).unwrap();
        let got: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let shape = parameter.shape();
        let (row, step) = if shape.len() > 1 { (shape[1], stride) } else { (1, 1) };
        let got: Vec<f32> = got.chunks_exact(row).step_by(step).flatten().copied().collect();
        let want = &want[&format!("{policy}.grad.{}", parameter.name)];
        assert_eq!(got.len(), want.len(), "{}", parameter.name);
        let square = |x: f32| f64::from(x).powi(2);
        let own: f64 = got.iter().zip(want).map(|(a, b)| square(a - b)).sum();
        let size: f64 = want.iter().map(|&x| square(x)).sum();
        (difference, norm) = (difference + own, norm + size);
        let relative = if size > 0.0 { (own / size).sqrt() } else { own };
        if relative > worst.0 {
            worst = (relative, parameter.name.clone());
        }
    }
    Distance { loss: loss.abs(), gradients: (difference / norm).sqrt(), worst, choices }
}

/// On the reference device, which like the reference computes in f64 between roundings, so that nearly all go the same
/// way. In BF16 on `v3_fp8` the gradients are 0.24 % apart, which one rounding that falls the other way
/// would explain. A policy that rounds a tensor in another place is further off: on `v3_yarn` by 0.5 % (a gradient that
/// is rounded after one sum, not after two) to 20 % (another scale). Other devices sum in f32; that they round in the
/// same places is for the conformance tests.
#[test]
fn policies_are_those_of_pytorch() {
    for case in ["v3_yarn", "v3_no_q_lora", "v3_fp8"] {
        for precision in [Precision::BF16, Precision::FP8] {
            let off = from_policy(&Host::new(), case, precision);
            println!("{case} {}: {off:?}", precision.name());
            let flips = case == "v3_fp8" && precision == Precision::BF16;
            let (all, one) = if flips { (4e-3, 8e-3) } else { (1e-5, 1e-3) };
            assert!(off.loss < 2e-6 && off.choices == 0, "{case} {}: {off:?}", precision.name());
            assert!(off.gradients < all && off.worst.0 < one, "{case} {}: {off:?}", precision.name());
        }
    }
}

/// Every policy that differs from `Precision::FP8` in one switch.
fn switched() -> Vec<(&'static str, Precision)> {
    type Flip = fn(&mut Precision);
    let flips: [(&str, Flip); 10] = [
        ("bf16_moments", |p| p.bf16_moments ^= true),
        ("recompute_norms", |p| p.recompute_norms ^= true),
        ("recompute_up_projections", |p| p.recompute_up_projections ^= true),
        ("power_of_two", |p| p.recipe.power_of_two ^= true),
        ("power_of_two_attention_output", |p| p.recipe.power_of_two_attention_output ^= true),
        ("power_of_two_dispatch", |p| p.recipe.power_of_two_dispatch ^= true),
        ("power_of_two_down_gradient", |p| p.recipe.power_of_two_down_gradient ^= true),
        ("dispatch", |p| p.recipe.dispatch ^= true),
        ("attention_output_e5m6", |p| p.recipe.attention_output_e5m6 ^= true),
        ("swiglu_input", |p| p.recipe.swiglu_input ^= true),
    ];
    let flipped = |(name, flip): (&'static str, Flip)| {
        let mut precision = Precision::FP8;
        flip(&mut precision);
        (name, precision)
    };
    flips.into_iter().map(flipped).collect()
}

#[test]
fn every_switch_trains_and_those_of_numbers_change_them() {
    let device = Host::new();
    let (_, with) = errors(&device, "v3_yarn", Precision::FP8);
    for (name, precision) in switched() {
        let (loss, gradient) = errors(&device, "v3_yarn", precision);
        assert!(loss < 5e-2 && gradient < 0.4, "{name}: loss off by {loss}, gradients by {gradient}");
        // Moments come after the gradients, and what is computed again is computed to the same bits. Going from the
        // tiles of the dispatch to those of a weight gradient rounds nothing, since both have powers of two as scales.
        let same = matches!(name, "bf16_moments" | "recompute_norms" | "recompute_up_projections" | "dispatch");
        assert_eq!(gradient == with, same, "{name}: gradients are off by {gradient}, by {with} as the paper has it");
    }
}

/// The model of the memory tests: wide enough that tiles are full.
fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 512,
        hidden_size: 256,
        intermediate_size: 512,
        moe_intermediate_size: 128,
        num_hidden_layers: 3,
        n_routed_experts: 16,
        num_experts_per_tok: 4,
        ..ModelConfig::tiny()
    }
}

#[test]
fn policies_and_switches_cost_what_they_should() {
    let plan = |precision| Plan::new(&config(), precision, 4, 256).unwrap().memory;
    let (f32, bf16, fp8) = (plan(Precision::F32), plan(Precision::BF16), plan(Precision::FP8));
    assert!(fp8.total() < bf16.total() && bf16.total() < f32.total(), "{fp8:?} {bf16:?} {f32:?}");
    assert_eq!((bf16.moments * 2, bf16.weights, f32.copies), (f32.moments, f32.weights, 0));
    for (name, precision) in switched() {
        let (changed, more) = (plan(precision), plan(precision).total() > fp8.total());
        match name {
            "bf16_moments" => assert_eq!(changed.moments, 2 * fp8.moments),
            "recompute_norms" | "recompute_up_projections" | "attention_output_e5m6" | "swiglu_input" => {
                assert!(more, "{name}: {changed:?} against {fp8:?}");
            }
            _ => {}
        }
    }
}
