//! Trains the tiny model on one batch and prints the falling loss:
//! `cargo run --release --example train`.

use fathom_core::comm::Solo;
use fathom_core::config::ModelConfig;
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, Trainer};
use fathom_minimal::Minimal;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = ModelConfig::tiny();
    let mut model = Model::new(&Minimal, &config, Precision::F32)?;
    model.initialize(42)?;
    let mut trainer = Trainer::new(model, Solo, Hyperparameters::default())?;
    // Two sequences of 16 tokens, each with the next as its target.
    let tokens: Vec<u32> = (0..2 * 17).map(|i| i * i % 7).collect();
    let batch = Batch::new(&tokens, 16, None, config.vocab_size)?;
    let rates = Rates { lr: 3e-3, batch_size: 2, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
    for step in 1..=10 {
        println!("step {step:2}  loss {:.4}", trainer.step(&batch, 1, &rates)?.loss);
    }
    Ok(())
}
