//! The plan of a run: memory and work, counted by a real step on the dry device.

use crate::comm::Imagined;
use crate::config::{KvCache, ModelConfig, ParameterCount};
use crate::device::{Capabilities, Device, Dry, Tally};
use crate::error::{at_most, ensure};
use crate::model::{Architecture, Batch, Model};
use crate::precision::Precision;
use crate::train::schedule::Rates;
use crate::train::{Ema, EmaMemory, Hyperparameters, Parallel, Shards, Trainer, Zero};

/// The most tokens of a micro-batch that a plan is made for: beyond any device, and little memory here.
const MAX_TOKENS: usize = 1 << 24;

/// The most numbers of a rotary table, which the host computes: those of DeepSeek-V3 for a million tokens.
const MAX_ROTARY: usize = 1 << 26;

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
    /// The moving average of the weights, where the device holds it.
    pub average: u64,
    /// Everything else that the device's pool takes from the system: activations kept for the backward pass, what is in
    /// flight, and what the pool cannot use for either.
    pub activations: u64,
}

impl MemoryPlan {
    /// Sum over all kinds.
    pub fn total(&self) -> u64 {
        let kinds = [self.weights, self.copies, self.gradients, self.moments, self.average, self.activations];
        kinds.into_iter().fold(0, u64::saturating_add)
    }
}

/// What one rank computes in a step, and how it shares work and state with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Micro-batch size in sequences.
    pub sequences: usize,
    /// Sequence length in tokens.
    pub length: usize,
    /// Micro-batches that a rank computes in a step.
    pub rounds: usize,
    /// Number of ranks.
    pub world: usize,
    /// How they share.
    pub parallel: Parallel,
    /// Whether the device holds a moving average of the weights.
    pub average: bool,
}

impl Share {
    /// One rank that computes one micro-batch in a step.
    pub fn alone(sequences: usize, length: usize) -> Self {
        Self { sequences, length, rounds: 1, world: 1, parallel: Parallel::default(), average: false }
    }
}

/// The cost of a training run: parameters, memory, work.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Parameters by kind.
    pub parameters: ParameterCount,
    /// Memory of rank 0.
    pub memory: MemoryPlan,
    /// Floating-point operations of forward and backward pass per token, as counted on the way, recomputation and
    /// MTP modules included.
    pub flops_per_token: u64,
    /// Cost of every kernel of one micro-batch.
    pub tally: Tally,
    /// KV cache of a token.
    pub kv_cache: KvCache,
    /// Bytes that rank 0 sends to the other ranks in a step.
    pub sent: u64,
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
        Self::of(config, precision, Share::alone(sequences, length))
    }

    /// As [`new`](Self::new), for rank 0 of those that share a step.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of(config: &ModelConfig, precision: Precision, share: Share) -> Result<Self, <Dry as Device>::Error> {
        Self::on(Capabilities::new("dry"), config, precision, share)
    }

    /// As [`of`](Self::of), for a device of these capabilities: their [`chunk`](Capabilities::chunk) decides how much
    /// is computed at once. Their memory does not limit the plan.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn on(
        capabilities: Capabilities,
        config: &ModelConfig,
        precision: Precision,
        share: Share,
    ) -> Result<Self, <Dry as Device>::Error> {
        let Share { sequences, length, rounds, world, parallel, average } = share;
        let tokens = sequences.saturating_mul(length.saturating_add(1));
        ensure("plan", "a micro-batch needs at least one token", sequences > 0 && length > 0)?;
        let rotary = length.saturating_mul(config.qk_rope_head_dim);
        at_most("plan", "numbers in the rotary table =", rotary, "the most that is planned", MAX_ROTARY)?;
        at_most(
            "plan",
            "tokens of a micro-batch, one more a sequence,",
            tokens,
            "the most that is planned",
            MAX_TOKENS,
        )?;
        let device = Dry::with(Capabilities { memory: None, ..capabilities });
        let comm = Imagined::new(0, world);
        let model = match parallel.zero {
            Zero::Weights => {
                let shards = Shards::new(Architecture::new(config).layout(), 0, world);
                Model::part(&device, config, precision, shards.all_own())?
            }
            _ => Model::new(&device, config, precision)?,
        };
        let (weights, copies) = (model.weights().bytes() as u64, model.copied_bytes() as u64);
        let mut trainer = Trainer::sharing(model, &comm, Hyperparameters::default(), parallel)?;
        let (layout, held) = (trainer.model.architecture().layout(), trainer.shards().all_own());
        let bytes = if average { Ema::<Dry>::bytes(&held) } else { 0 };
        // Held while the step is counted.
        let _average = average.then(|| Ema::part(&device, 0.0, layout, held, EmaMemory::Device)).transpose()?;
        let rates = Rates { lr: 1e-4, batch_size: sequences, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
        let tokens = alloc::vec![0u32; 2 * sequences * (length + 1)];
        let both = Batch::new(&tokens, length, None, config.vocab_size)?;
        let one = both.slice(0..sequences);
        device.reset();
        trainer.accumulate(&one, sequences, &rates)?;
        let tally = device.tally();
        comm.take_sent();
        trainer.step(&one, sequences, &rates)?;
        let mut sent = comm.take_sent();
        if rounds > 1 {
            // What more micro-batches send, and the room for one's gradients beside their sums.
            trainer.step(&both, sequences, &rates)?;
            sent = sent.saturating_add((comm.take_sent() - sent).saturating_mul(rounds as u64 - 1));
        }
        let gradients = trainer.gradient_bytes() as u64;
        let moments = (trainer.optimizer.m.bytes() + trainer.optimizer.v.bytes()) as u64;
        let activations = device.memory().reserved.saturating_sub(weights + copies + gradients + moments + bytes);
        Ok(Self {
            parameters: ParameterCount::of(config),
            memory: MemoryPlan { weights, copies, gradients, moments, average: bytes, activations },
            flops_per_token: tally.cost().flops / (sequences * length) as u64,
            tally,
            kv_cache: KvCache::of(config),
            sent,
        })
    }
}
