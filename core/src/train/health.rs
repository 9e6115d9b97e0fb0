//! Expert load statistics: how evenly the experts share the tokens.

use alloc::vec::Vec;

/// The load of the experts of every layer over one batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertLoad {
    /// Tokens routed to each expert, layer by layer.
    pub layers: Vec<Vec<f32>>,
}

impl ExpertLoad {
    /// `max(load)/mean(load) − 1` of the worst layer (MaxVio of Wang et al., 2024): 0 is perfect balance, `N/K − 1` the
    /// worst. 0 for a model without experts; NaN where a router's logits are not finite.
    pub fn max_violation(&self) -> f32 {
        let worse = |a: f32, b: f32| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) };
        self.layers.iter().map(|l| violation(l)).fold(0.0, worse)
    }

    /// Mean of the violation over layers.
    pub fn mean_violation(&self) -> f32 {
        let n = self.layers.len().max(1) as f32;
        self.layers.iter().map(|l| violation(l)).sum::<f32>() / n
    }

    /// Number of experts, over all layers, that received no token of the batch.
    pub fn dead(&self) -> usize {
        self.layers.iter().flatten().filter(|&&load| load == 0.0).count()
    }
}

fn violation(load: &[f32]) -> f32 {
    let mean = load.iter().sum::<f32>() / load.len().max(1) as f32;
    let max = load.iter().copied().fold(0.0, f32::max);
    if mean == 0.0 { 0.0 } else { max / mean - 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violation_is_of_the_worst_layer_and_dead_experts_are_counted_over_all() {
        let load = ExpertLoad { layers: alloc::vec![alloc::vec![2.0, 2.0], alloc::vec![0.0, 3.0, 1.0, 0.0]] };
        assert_eq!((load.max_violation(), load.mean_violation(), load.dead()), (2.0, 1.0, 2));
        assert_eq!(ExpertLoad::default().max_violation(), 0.0);
        let load =
            ExpertLoad { layers: alloc::vec![alloc::vec![2.0, 2.0], alloc::vec![f32::NAN, 1.0], alloc::vec![1.0]] };
        assert!(load.max_violation().is_nan() && load.mean_violation().is_nan());
    }
}
