//! `train.spike*`: what a loss spike is, and what a run does then.

use super::SettingsError;
use super::reader::Reader;

/// What a run does when the loss or the gradient norm jumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpikePolicy {
    /// Nothing is looked for. A number that is not finite still ends the run.
    #[default]
    Off,
    /// The step's update is not applied, and training goes on with the next batch.
    Skip,
    /// The run returns to its newest checkpoint and goes on with the data behind the spike.
    Rollback,
    /// The state before the step is saved, and the run ends with an error.
    Stop,
}

/// `train.spike*`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// What a spike does.
    pub policy: SpikePolicy,
    /// Standard deviations above the mean from which a value is a spike.
    pub threshold: f64,
    /// Steps that mean and standard deviation are taken over.
    pub window: usize,
    /// Spikes in a row after which the run ends all the same.
    pub limit: u64,
}

/// More would be a window over a whole run.
const LONGEST: usize = 65_536;
/// A run that skips this often learns nothing.
const MOST: u64 = 1000;

impl Spike {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, SettingsError> {
        let spike = Self {
            policy: match reader.word("train.spike").as_str() {
                "skip" => SpikePolicy::Skip,
                "rollback" => SpikePolicy::Rollback,
                "stop" => SpikePolicy::Stop,
                _ => SpikePolicy::Off,
            },
            threshold: reader.number("train.spike_threshold"),
            window: reader.size("train.spike_window", LONGEST)?,
            limit: reader.count("train.spike_limit"),
        };
        if spike.threshold <= 0.0 {
            let problem = format!("is {}: it must be above 0; 6 is usual", spike.threshold);
            return Err(reader.reject("train.spike_threshold", problem));
        }
        if spike.window < 4 {
            let problem = format!("is {}: a mean and a deviation need at least 4 steps", spike.window);
            return Err(reader.reject("train.spike_window", problem));
        }
        if !(1..=MOST).contains(&spike.limit) {
            let problem = format!("is {}: it must be between 1 and {MOST}", spike.limit);
            return Err(reader.reject("train.spike_limit", problem));
        }
        Ok(spike)
    }
}
