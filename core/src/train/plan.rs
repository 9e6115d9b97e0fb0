//! The plan of a run: memory and work, counted by a real step on the dry device.

use crate::comm::Solo;
use crate::config::{KvCache, ModelConfig, ParameterCount};
use crate::device::{Device, Dry, Tally};
use crate::model::{Batch, Model};
use crate::precision::Precision;
use crate::train::schedule::Rates;
use crate::train::{Hyperparameters, Trainer};

/// Device memory of a run in bytes, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Master weights.
    pub weights: u64,
    /// Low-precision copies of the weights, as products read them.
    pub copies: u64,
    /// Gradients.
    pub gradients: u64,
    /// Both moments of AdamW.
    pub moments: u64,
    /// Everything else that the device's pool takes from the system: activations kept for the backward pass, what is in
    /// flight, and what the pool cannot use for either.
    pub activations: u64,
}

impl MemoryPlan {
    /// Sum over all kinds.
    pub fn total(&self) -> u64 {
        self.weights + self.copies + self.gradients + self.moments + self.activations
    }
}

/// The cost of a training run: parameters, memory, work.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Parameters by kind.
    pub parameters: ParameterCount,
    /// Memory of one rank that holds the whole model.
    pub memory: MemoryPlan,
    /// Floating-point operations of forward and backward pass per token, as counted on the way, recomputation and
    /// MTP modules included.
    pub flops_per_token: u64,
    /// Cost of every kernel of one micro-batch.
    pub tally: Tally,
    /// KV cache of a token.
    pub kv_cache: KvCache,
}

impl Plan {
    /// Runs one micro-batch of `sequences × length` tokens of `config` on [`Dry`]. Takes seconds for any model.
    ///
    /// # Errors
    /// Where a step of these sizes could not be made at all: a sequence longer than the context, sizes past the address
    /// space.
    pub fn new(
        config: &ModelConfig,
        precision: Precision,
        sequences: usize,
        length: usize,
    ) -> Result<Self, <Dry as Device>::Error> {
        let device = Dry::new();
        let model = Model::new(&device, config, precision)?;
        let (weights, copies) = (model.weights().bytes() as u64, model.copied_bytes() as u64);
        let mut trainer = Trainer::new(model, Solo, Hyperparameters::default())?;
        let tokens = alloc::vec![0u32; sequences * (length + 1)];
        let batch = Batch::new(&tokens, length, None, config.vocab_size)?;
        let rates = Rates { lr: 1e-4, batch_size: sequences, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
        device.reset();
        trainer.accumulate(&batch, sequences, &rates)?;
        let tally = device.tally();
        let gradients = trainer.gradients().bytes() as u64;
        let moments = (trainer.optimizer.m.bytes() + trainer.optimizer.v.bytes()) as u64;
        let activations = device.memory().reserved.saturating_sub(weights + copies + gradients + moments);
        Ok(Self {
            parameters: ParameterCount::of(config),
            memory: MemoryPlan { weights, copies, gradients, moments, activations },
            flops_per_token: tally.cost().flops / (sequences * length) as u64,
            tally,
            kv_cache: KvCache::of(config),
        })
    }
}
