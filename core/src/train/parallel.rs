//! How the ranks of a run share its work and its state.

use core::fmt;

/// How gradients are added up over micro-batches and ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sum {
    /// One micro-batch after the other, whole gradients in the order of micro-batches: the same bits for any number of
    /// ranks.
    #[default]
    Exact,
    /// In place on each rank, and over the ranks once a step: less work and traffic where a rank computes several
    /// micro-batches, and other last bits for other numbers of ranks. Where several ranks divide gradients
    /// ([`Zero::Gradients`]), there is no place for that, and sums are exact.
    Fast,
}

/// What of the training state is divided among the ranks (Rajbhandari et al., 2020). With exact sums results do
/// not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zero {
    /// Nothing: every rank keeps and updates everything, as in PyTorch's DDP.
    Nothing,
    /// The optimizer's moments.
    #[default]
    Moments,
    /// Moments and gradients.
    Gradients,
    /// Moments, gradients and weights, which are gathered a layer at a time: what PyTorch calls FSDP.
    Weights,
}

impl fmt::Display for Parallel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.zero {
            Zero::Nothing => "0, every rank keeps everything",
            Zero::Moments => "1, optimizer state is divided",
            Zero::Gradients => "2, optimizer state and gradients are divided",
            Zero::Weights => "3, optimizer state, gradients and weights are divided",
        };
        let sum = match self.sum {
            _ if self.zero >= Zero::Gradients => "exact sums (the same bits for any number of ranks)",
            Sum::Exact => "exact sums (the same bits for any number of ranks)",
            Sum::Fast => "fast sums (other last bits for other numbers of ranks)",
        };
        write!(f, "ZeRO {stage}; {sum}")
    }
}

/// How the ranks of a run share its work and its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parallel {
    /// How gradients are added up.
    pub sum: Sum,
    /// What is divided among the ranks.
    pub zero: Zero,
}
