//! Devices, models and sessions move to other threads, and several threads score with one model.

use fathom::session::Session;
use fathom_core::comm::Solo;
use fathom_core::config::ModelConfig;
use fathom_core::device::{Clock, Dry, Fault, Host, Trace};
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Trainer};
use fathom_cpu::Cpu;
use fathom_cuda::Cuda;
use fathom_tests::choices::Steered;

struct NoClock;

impl Clock for NoClock {
    fn seconds(&self) -> f64 {
        0.0
    }
}

const fn is_send<T: Send>() {}
const fn is_shared<T: Send + Sync>() {}

/// The compiler refuses this file where one of them may not.
#[test]
fn what_moves_between_threads() {
    is_shared::<Host>();
    is_shared::<Dry>();
    is_shared::<Trace<Host, NoClock>>();
    is_shared::<Fault<Host>>();
    is_shared::<Steered<Host>>();
    is_shared::<Cpu>();
    is_send::<Cuda>();
    is_shared::<Model<Host>>();
    is_shared::<Model<Cpu>>();
    is_send::<Model<Cuda>>();
    is_send::<Trainer<Cpu, Solo>>();
    is_shared::<Session<Host>>();
    is_shared::<Session<Cpu>>();
    is_send::<Session<Cuda>>();
}

fn tokens(n: u32, salt: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i + 7 * i + salt) % 64).collect()
}

fn config() -> ModelConfig {
    ModelConfig { vocab_size: 64, hidden_size: 32, num_hidden_layers: 3, n_routed_experts: 8, ..ModelConfig::tiny() }
}

fn bits(nll: &[f32]) -> Vec<u32> {
    nll.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn threads_score_with_one_model() {
    for precision in [Precision::F32, Precision::BF16, Precision::FP8] {
        let device = Cpu::with_threads(2);
        let mut model = Model::new(&device, &config(), precision).unwrap();
        model.initialize(3).unwrap();
        let inputs: Vec<Vec<u32>> = (0..4).map(|salt| tokens(2 * 17 + salt * 34, salt)).collect();
        let score = |model: &Model<Cpu>, tokens: &[u32]| {
            let scores = model.score(&Batch::new(tokens, 16, None, 64).unwrap()).unwrap();
            (bits(&scores.nll), scores.greedy)
        };
        // The first scores come from threads, so that they also race to make copies and the table of positions.
        let shared: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = inputs
                .iter()
                .map(|tokens| scope.spawn(|| (0..5).map(|_| score(&model, tokens)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        for (tokens, results) in inputs.iter().zip(shared) {
            let alone = score(&model, tokens);
            assert!(results.iter().all(|result| *result == alone), "{}", precision.name());
        }
    }
}

#[test]
fn scoring_between_steps_changes_neither_loads_nor_weights() {
    let train = |scoring: bool| {
        let device = Cpu::with_threads(1);
        let mut model = Model::new(&device, &config(), Precision::BF16).unwrap();
        model.initialize(3).unwrap();
        let mut trainer = Trainer::new(model, Solo, Hyperparameters::default()).unwrap();
        let rates = Rates { lr: 1e-3, batch_size: 2, bias_speed: 1e-2, mtp_weight: 0.3, balance_alpha: 1e-4 };
        let (trained, scored) = (tokens(34, 0), tokens(85, 5));
        let mut seen = Vec::new();
        for _ in 0..3 {
            let report = trainer.step(&Batch::new(&trained, 16, None, 64).unwrap(), 1, &rates).unwrap();
            if scoring {
                trainer.model.score(&Batch::new(&scored, 16, None, 64).unwrap()).unwrap();
                trainer.model.next_token_logits(&scored[..40]).unwrap();
                trainer.model.logits(&Batch::new(&scored, 16, None, 64).unwrap()).unwrap();
            }
            // 32 tokens, each to its choice of experts: what was scored in between is not counted.
            let routed = (32 * config().num_experts_per_tok) as f32;
            assert!(report.load.layers.iter().all(|load| load.iter().sum::<f32>() == routed));
            seen.push((report.loss.to_bits(), report.grad_norm.to_bits(), report.load));
        }
        let groups = trainer.model.weights().groups();
        let weights: Vec<Vec<u32>> = groups.iter().map(|g| g.download(&device).unwrap()).collect();
        let biases: Vec<Vec<u32>> = trainer.model.routers.iter().map(|r| r.bias.download(&device).unwrap()).collect();
        (seen, weights, biases)
    };
    assert!(train(false) == train(true));
}

#[test]
fn scoring_keeps_less_than_a_training_pass_and_gives_all_back() {
    let device = Cpu::with_threads(1);
    let mut model = Model::new(&device, &config(), Precision::F32).unwrap();
    model.initialize(3).unwrap();
    let text = tokens(2 * 129, 1);
    let batch = Batch::new(&text, 128, None, 64).unwrap();
    model.score(&batch).unwrap();
    let before = fathom_core::device::Device::memory(&device).in_use;
    model.score(&batch).unwrap();
    assert_eq!(fathom_core::device::Device::memory(&device).in_use, before);
    let peak = |run: &dyn Fn(&Dry, &Model<Dry>)| {
        let dry = Dry::new();
        let model = Model::new(&dry, &config(), Precision::F32).unwrap();
        run(&dry, &model);
        dry.reset();
        run(&dry, &model);
        let memory = fathom_core::device::Device::memory(&dry);
        memory.peak - memory.in_use
    };
    let scored = peak(&|_, model| drop(model.score(&batch).unwrap()));
    let trained = peak(&|_, model| {
        let inputs = model.inputs(&batch, 0).unwrap();
        drop(model.forward(&inputs, &mut model.load_count().unwrap()).unwrap());
    });
    assert!(2 * scored < trained, "scoring takes {scored} bytes, a training pass forward {trained}");
}
