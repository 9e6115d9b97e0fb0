//! `train.sum` and `parallel.*`: how the ranks of a run share its work and its state.

use std::time::Duration;

use fathom_core::train::{Parallel, Sum, Zero};

use super::SettingsError;
use super::reader::Reader;

/// The longest time-out, in seconds: a year.
const LONGEST: f64 = 366.0 * 86_400.0;

/// `parallel.*`, and `train.sum`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParallelSettings {
    /// How gradients are added up, and what is divided among the ranks.
    pub how: Parallel,
    /// How long a rank may not answer.
    pub timeout: Duration,
    /// How long a rank may not answer until all have started and loaded the model.
    pub init_timeout: Duration,
}

impl ParallelSettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, SettingsError> {
        let sum = if reader.word("train.sum") == "fast" { Sum::Fast } else { Sum::Exact };
        let zero = match reader.count("parallel.zero") {
            0 => Zero::Nothing,
            1 => Zero::Moments,
            2 => Zero::Gradients,
            3 => Zero::Weights,
            other => return Err(reader.reject("parallel.zero", format!("is {other}: it must be 0, 1, 2 or 3"))),
        };
        let mut seconds = |key| {
            let seconds = reader.number(key);
            match (1.0..=LONGEST).contains(&seconds) {
                true => Ok(Duration::from_secs_f64(seconds)),
                false => Err(reader.reject(key, format!("is {seconds}: it must be 1 at least, and a year at most"))),
            }
        };
        let (timeout, init_timeout) = (seconds("parallel.timeout_seconds")?, seconds("parallel.init_timeout_seconds")?);
        Ok(Self { how: Parallel { sum, zero }, timeout, init_timeout })
    }
}
