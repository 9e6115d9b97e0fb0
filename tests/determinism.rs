//! Results have the same bits for any number of threads, in every run, and for any other sequences in the batch.

use fathom_core::DType;
use fathom_core::comm::Solo;
use fathom_core::config::ModelConfig;
use fathom_core::device::{Device, Host, Kernels};
use fathom_core::model::{Batch, LossScales, Model};
use fathom_core::precision::Precision;
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Trainer};
use fathom_core::weights::Parameters;
use fathom_cpu::Cpu;

const POLICIES: [Precision; 3] = [Precision::F32, Precision::BF16, Precision::FP8];

fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 300,
        hidden_size: 96,
        intermediate_size: 200,
        moe_intermediate_size: 48,
        num_hidden_layers: 3,
        n_routed_experts: 16,
        n_group: 4,
        topk_group: 2,
        num_experts_per_tok: 4,
        initializer_range: 0.05,
        ..ModelConfig::tiny()
    }
}

fn tokens(n: usize, stream: u64) -> Vec<u32> {
    (0..n as u64).map(|i| (rng::bits(3, stream, i) % 300) as u32).collect()
}

/// All weights, moments, biases and losses after a few steps, as bits.
fn train(threads: usize, precision: Precision) -> Vec<u64> {
    let device = Cpu::with_threads(threads);
    let mut model = Model::new(&device, &config(), precision).unwrap();
    model.initialize(5).unwrap();
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default()).unwrap();
    let rates = Rates { lr: 1e-3, batch_size: 4, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-3 };
    let mut bits = Vec::new();
    for step in 0..3 {
        let tokens = tokens(4 * 71, step);
        let starts: Vec<u32> = (0..4 * 70).map(|i| if i % 70 < 33 { 0 } else { 33 }).collect();
        let batch = Batch::new(&tokens, 70, Some(&starts), 300).unwrap();
        let report = trainer.step(&batch, 2, &rates).unwrap();
        bits.extend([report.loss.to_bits(), report.grad_norm.to_bits(), report.balance_loss.to_bits()]);
        bits.push(report.mtp_loss.unwrap().to_bits());
    }
    for group in
        [trainer.model.weights(), &trainer.optimizer.m, &trainer.optimizer.v].into_iter().flat_map(|p| p.groups())
    {
        match group.dtype() {
            DType::BF16 => bits.extend(group.download::<Cpu, u16>(&device).unwrap().into_iter().map(u64::from)),
            _ => bits.extend(group.download::<Cpu, u32>(&device).unwrap().into_iter().map(u64::from)),
        }
    }
    for router in &trainer.model.routers {
        bits.extend(router.bias.download::<Cpu, u32>(&device).unwrap().into_iter().map(u64::from));
    }
    bits
}

#[test]
fn training_is_the_same_for_any_number_of_threads() {
    for precision in POLICIES {
        let one = train(1, precision);
        assert!(one == train(2, precision), "{}: 2 threads differ from 1", precision.name());
        assert!(one == train(5, precision), "{}: 5 threads differ from 1", precision.name());
    }
}

/// What lay in the gradients does not show in those that are cleared, however they are laid out and whichever experts
/// have no tokens.
#[test]
fn cleared_gradients_are_those_that_begin_as_zeros() {
    for precision in POLICIES {
        // Gaps between weights, biases, a shared embedding, and many experts for few tokens.
        let config = ModelConfig {
            hidden_size: 50,
            moe_intermediate_size: 24,
            kv_lora_rank: 17,
            attention_bias: true,
            tie_word_embeddings: true,
            ..config()
        };
        check_cleared(&Cpu::with_threads(2), &config, precision);
        check_cleared(&Host::new(), &config, precision);
    }
}

fn check_cleared<D: Kernels>(device: &D, config: &ModelConfig, precision: Precision) {
    let mut model = Model::new(device, config, precision).unwrap();
    model.initialize(5).unwrap();
    let depths = config.num_nextn_predict_layers;
    let tokens = tokens(7, 1);
    let batch = Batch::new(&tokens, 6, None, 300).unwrap();
    let scales = LossScales { main: 1.0, mtp: vec![0.3; depths], balance: 1e-3 };
    let add = |gradients: &mut Parameters<D>| {
        let inputs = model.inputs(&batch, depths).unwrap();
        let kept = model.forward(&inputs, &mut model.load_count().unwrap()).unwrap();
        model.backward(&inputs, kept, &scales, gradients, &mut model.losses(depths, 0).unwrap()).unwrap();
    };
    let bits = |gradients: &Parameters<D>| -> Vec<u32> {
        let words = |group: &Tensor<D>| group.download::<D, u32>(device).unwrap();
        gradients.groups().iter().flat_map(words).collect()
    };
    let layout = model.architecture().layout();
    let named: usize = layout.parameters().iter().map(|parameter| parameter.elements()).sum();
    assert!(layout.groups().iter().map(|group| group.elements()).sum::<usize>() > named, "there should be gaps");
    let mut fresh = Parameters::zeros(device, layout, precision.master()).unwrap();
    let mut used = Parameters::zeros(device, layout, precision.master()).unwrap();
    for parameter in layout.parameters() {
        let nan = vec![0xff; parameter.elements() * precision.master().size()];
        used.write(device, parameter, &nan).unwrap();
    }
    let groups = layout.groups().len();
    (0..groups).for_each(|group| used.clear(device, group).unwrap());
    // As one group after the other is made room for.
    let mut opened = Parameters::closed(device, layout, precision.master()).unwrap();
    (0..groups).for_each(|group| opened.open(device, group).unwrap());
    for times in 1..=2 {
        [&mut fresh, &mut used, &mut opened].into_iter().for_each(add);
        let want = bits(&fresh);
        assert!(want.iter().any(|&x| x != 0) && want.iter().all(|&x| !f32::from_bits(x).is_nan()));
        assert!(want == bits(&used), "{} after {times} passes", precision.name());
        assert!(want == bits(&opened), "{} after {times} passes", precision.name());
    }
    let idle = layout.parameters().iter().filter(|p| {
        let mut bytes = vec![1; p.elements() * precision.master().size()];
        used.read(device, p, &mut bytes).unwrap();
        bytes.iter().all(|&byte| byte == 0)
    });
    assert!(idle.count() > 3, "some experts should be without tokens");
}

#[test]
fn losses_told_apart_by_source_add_up_and_change_no_bit() {
    let device = Cpu::with_threads(2);
    let rates = Rates { lr: 1e-3, batch_size: 4, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-3 };
    let trainer = || {
        let mut model = Model::new(&device, &config(), Precision::F32).unwrap();
        model.initialize(5).unwrap();
        Trainer::new(model, Solo, Hyperparameters::default()).unwrap()
    };
    let (mut plain, mut apart) = (trainer(), trainer());
    for (step, sources) in [[0, 2, 0, 1], [2, 2, 2, 2]].into_iter().enumerate() {
        let tokens = tokens(4 * 71, step as u64);
        let batch = Batch::new(&tokens, 70, None, 300).unwrap();
        let mut expected = [0.0; 3];
        for (row, nll) in apart.model.score(&batch).unwrap().nll.chunks(70).enumerate() {
            expected[sources[row] as usize] += nll.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        let told = apart.step(&batch.with_sources(&sources, 3).unwrap(), 2, &rates).unwrap();
        let whole = plain.step(&batch, 2, &rates).unwrap();
        assert_eq!(told.loss.to_bits(), whole.loss.to_bits());
        assert_eq!(told.grad_norm.to_bits(), whole.grad_norm.to_bits());
        assert!(whole.loss_sums.is_empty());
        assert_eq!(told.loss_sums.len(), 3);
        for (sum, expected) in told.loss_sums.iter().zip(expected) {
            assert!((sum - expected).abs() <= 1e-5 * expected, "{:?} and {expected:?}", told.loss_sums);
        }
    }
    let tokens = tokens(71, 0);
    let batch = Batch::new(&tokens, 70, None, 300).unwrap();
    assert!(batch.with_sources(&[3], 3).is_err() && batch.with_sources(&[0, 0], 3).is_err());
}

#[test]
fn logits_do_not_depend_on_what_else_is_in_the_batch() {
    POLICIES.into_iter().for_each(check_logits);
}

fn check_logits(precision: Precision) {
    let device = Cpu::with_threads(2);
    let mut model = Model::new(&device, &config(), precision).unwrap();
    model.initialize(5).unwrap();
    for length in [1, 2, 37, 70, 128] {
        let many = tokens(5 * (length + 1), length as u64);
        let batch = Batch::new(&many, length, None, 300).unwrap();
        let together: Vec<u32> = model.logits(&batch).unwrap().download(&device).unwrap();
        for i in 0..5 {
            let alone: Vec<u32> = model.logits(&batch.slice(i..i + 1)).unwrap().download(&device).unwrap();
            assert!(alone == together[i * length * 300..][..length * 300], "sequence {i} of length {length}");
        }
    }
}

#[test]
fn documents_do_not_see_each_other() {
    POLICIES.into_iter().for_each(check_documents);
}

fn check_documents(precision: Precision) {
    let device = Cpu::with_threads(2);
    let mut model = Model::new(&device, &config(), precision).unwrap();
    model.initialize(5).unwrap();
    let starts: Vec<u32> = (0..40).map(|i| if i < 25 { 0 } else { 25 }).collect();
    let logits = |first: u64| {
        let mut both = tokens(25, first);
        both.extend(tokens(16, 99));
        let batch = Batch::new(&both, 40, Some(&starts), 300).unwrap();
        model.logits(&batch).unwrap().download::<Cpu, u32>(&device).unwrap()
    };
    let (a, b) = (logits(1), logits(2));
    assert!(a[..25 * 300] != b[..25 * 300]);
    assert!(a[25 * 300..] == b[25 * 300..], "the second document depends on the first");
}

#[test]
fn a_steady_step_takes_no_memory_from_the_system() {
    POLICIES.into_iter().for_each(check_memory);
}

fn check_memory(precision: Precision) {
    let device = Cpu::with_threads(2);
    let mut model = Model::new(&device, &config(), precision).unwrap();
    model.initialize(5).unwrap();
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default()).unwrap();
    let rates = Rates { lr: 1e-3, batch_size: 4, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-3 };
    let mut taken = Vec::new();
    for step in 0..4 {
        let tokens = tokens(4 * 71, step);
        trainer.step(&Batch::new(&tokens, 70, None, 300).unwrap(), 2, &rates).unwrap();
        taken.push(device.memory().system_allocations);
    }
    assert_eq!(taken[1], taken[3], "the pool grew: {taken:?}");
}
