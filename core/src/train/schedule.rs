//! placeholder
/// Rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates { pub lr: f64, pub batch_size: usize, pub bias_speed: f64, pub mtp_weight: f64, pub balance_alpha: f64 }
