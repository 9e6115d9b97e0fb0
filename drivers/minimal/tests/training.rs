//! The driver trains the tiny model: the loss falls, and is the reference device's.

use std::time::Instant;

use fathom_core::comm::Solo;
use fathom_core::config::ModelConfig;
use fathom_core::device::{Clock, Host, Kernels, Trace};
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Trainer};
use fathom_minimal::Minimal;

const STEPS: usize = 4;
const LENGTH: usize = 8;
/// Largest relative error of a loss. The default bodies add in another order than the reference device's kernels, and
/// AdamW's first updates are the signs of gradients, whatever their size.
const BOUND: f64 = 1e-5;

/// The losses of the first steps on one batch of two sequences.
fn train<D: Kernels>(device: &D) -> Vec<f64> {
    let config = ModelConfig { vocab_size: 32, hidden_size: 16, n_routed_experts: 8, ..ModelConfig::tiny() };
    let mut model = Model::new(device, &config, Precision::F32).unwrap();
    model.initialize(42).unwrap();
    let tokens: Vec<u32> = (0..2 * (LENGTH as u32 + 1)).map(|i| i * i % 7).collect();
    let batch = Batch::new(&tokens, LENGTH, None, config.vocab_size).unwrap();
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default()).unwrap();
    let rates = Rates { lr: 3e-3, batch_size: 2, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
    (0..STEPS).map(|_| trainer.step(&batch, 1, &rates).unwrap().loss).collect()
}

#[test]
fn the_loss_falls_and_is_that_of_the_reference_device() {
    let (got, want) = (train(&Minimal), train(&Host::new()));
    println!("minimal {got:?}\nhost    {want:?}");
    assert!(got[STEPS - 1] < got[0], "{got:?}");
    for (got, want) in got.iter().zip(&want) {
        assert!(((got - want) / want).abs() <= BOUND, "{got} is not {want}");
    }
}

/// The system's clock.
struct System(Instant);

impl Clock for System {
    fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

#[test]
fn a_trace_around_it_counts_its_kernels_and_changes_no_loss() {
    let traced = Trace::new(Minimal, System(Instant::now()));
    assert_eq!(train(&traced), train(&Minimal));
    let report = traced.report();
    for kernel in ["attention", "grouped_gemm", "adamw"] {
        assert!(report.iter().any(|time| time.name == kernel && time.calls > 0), "no {kernel} in {report:?}");
    }
}
