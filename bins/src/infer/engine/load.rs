//! How many tokens the routers sent to each expert while an engine computed.

use std::collections::BTreeMap;

use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::layer::moe::LoadCount;
use serde::{Deserialize, Serialize};

/// Tokens of each expert, over all tokens that were computed. Tokens found in the cache are not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Tokens that were computed.
    pub tokens: u64,
    /// Tokens of each expert by the number of the layer: their sum is `tokens` times the experts per token.
    pub layers: BTreeMap<usize, Vec<u64>>,
}

impl Load {
    /// Adds the counts of other tokens.
    pub fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        for (&layer, counts) in &other.layers {
            let sum = self.layers.entry(layer).or_insert_with(|| vec![0; counts.len()]);
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
}

/// Counts on the device during a pass, and their sum over passes.
pub(super) struct Counting<D: Kernels> {
    /// Those of one pass: in f32, a sum over many passes would lose tokens.
    pub pass: LoadCount<D>,
    pub sum: Load,
}

impl<D: Kernels> Counting<D> {
    /// Adds the counts of a pass over `tokens` tokens.
    ///
    /// # Errors
    /// Those of the device.
    pub fn add(&mut self, device: &D, config: &ModelConfig, tokens: usize) -> Result<(), D::Error> {
        // Routers of MTP modules come after those of the layers, and a pass of the main model does not ask them.
        let layers = (0..config.num_hidden_layers).filter(|&layer| config.is_moe_layer(layer));
        let counts = self.pass.read(device)?.into_iter();
        let counts = counts.map(|counts| counts.into_iter().map(|count| count as u64).collect());
        self.sum.add(&Load { tokens: tokens as u64, layers: layers.zip(counts).collect() });
        Ok(())
    }
}
