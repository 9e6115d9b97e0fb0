//! Settings of the section `schedule`: rates as functions of the tokens seen.

use super::reader::{Reader, SANE};
use super::{Length, SettingsError, Train};
use fathom_core::train::schedule::{Curve, Decay, Schedule, ScheduleError, Shape, learning_rate};

/// `schedule.*`, as written; [`Settings::schedule`](super::Settings::schedule) is what training follows.
#[derive(Clone, Debug)]
pub struct ScheduleSettings {
    lr: f64,
    warmup_tokens: u64,
    decay: String,
    lr_min: f64,
    decay_tokens: Option<u64>,
    batch_start: usize,
    batch_ramp_tokens: u64,
    batch_multiple: usize,
    bias_speed: f64,
    bias_freeze_tokens: Option<u64>,
    mtp_weight: f64,
    mtp_weight_late: f64,
    mtp_late_tokens: Option<u64>,
    balance_alpha: f64,
}

/// Steps in which the batch may grow: more than any run has, and few enough to be counted one by one.
const MAX_RAMP_STEPS: u64 = 1 << 21;

/// The key an error of the schedule belongs to.
type Keyed<T> = Result<T, (&'static str, ScheduleError)>;

impl ScheduleSettings {
    pub(super) fn read(reader: &mut Reader<'_>, train: &Train) -> Result<Self, SettingsError> {
        let lr = reader.number("schedule.lr");
        let mtp_weight = reader.number("schedule.mtp_weight");
        let schedule = ScheduleSettings {
            lr,
            warmup_tokens: reader.count("schedule.warmup_tokens"),
            decay: reader.word("schedule.decay"),
            lr_min: reader.number_or("schedule.lr_min", lr * 0.1),
            decay_tokens: reader.optional_count("schedule.decay_tokens"),
            batch_start: reader.size_or("schedule.batch_start", train.batch_size, SANE)?,
            batch_ramp_tokens: reader.count("schedule.batch_ramp_tokens"),
            // Not noted where it is not written: it follows the micro-batch, which a resumed run may change.
            batch_multiple: reader
                .optional_count("schedule.batch_multiple")
                .map_or(train.micro_batch_size, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            bias_speed: reader.number("schedule.bias_speed"),
            bias_freeze_tokens: reader.optional_count("schedule.bias_freeze_tokens"),
            mtp_weight,
            mtp_weight_late: reader.number_or("schedule.mtp_weight_late", mtp_weight),
            mtp_late_tokens: reader.optional_count("schedule.mtp_late_tokens"),
            balance_alpha: reader.number("schedule.balance_alpha"),
        };
        let (start, end) = (schedule.batch_start, train.batch_size);
        if start > end || !start.is_multiple_of(train.micro_batch_size) {
            let problem = format!(
                "is {start}: it must be at most train.batch_size = {end} and a multiple of train.micro_batch_size = {}",
                train.micro_batch_size
            );
            return Err(reader.reject("schedule.batch_start", problem));
        }
        let (multiple, micro) = (schedule.batch_multiple, train.micro_batch_size);
        let fits = multiple > 0
            && multiple.is_multiple_of(micro)
            && end.is_multiple_of(multiple)
            && start.is_multiple_of(multiple);
        if !fits {
            let problem = format!(
                "is {multiple}: it must be a multiple of train.micro_batch_size = {micro} that divides \
                 train.batch_size = {end} and schedule.batch_start = {start}"
            );
            return Err(reader.reject("schedule.batch_multiple", problem));
        }
        Ok(schedule)
    }

    /// Whether the learning rate falls after its warm-up.
    pub(super) fn decays(&self) -> bool {
        self.decay != "constant"
    }

    /// `(tokens, steps)` of the whole run.
    pub(super) fn budget(&self, train: &Train) -> Keyed<(u64, u64)> {
        let step = train.batch_size as u64 * train.sequence_length as u64;
        if self.batch_ramp_tokens == 0 {
            return Ok(match train.length {
                Length::Steps(steps) => (steps.saturating_mul(step), steps),
                Length::Tokens(tokens) => (tokens.div_ceil(step).saturating_mul(step), tokens.div_ceil(step)),
            });
        }
        // Only while the batch grows do steps differ; what follows is counted in one go.
        let ramp = self.batch_only(train)?;
        let (mut tokens, mut steps) = (0u64, 0u64);
        let done = |tokens, steps| match train.length {
            Length::Steps(limit) => steps >= limit,
            Length::Tokens(limit) => tokens >= limit,
        };
        while tokens < self.batch_ramp_tokens && !done(tokens, steps) {
            if steps == MAX_RAMP_STEPS {
                let error = ScheduleError::RampTooLong { tokens: self.batch_ramp_tokens, steps };
                return Err(("schedule.batch_ramp_tokens", error));
            }
            tokens += ramp.step_tokens(tokens);
            steps += 1;
        }
        let left = match train.length {
            Length::Steps(limit) => limit - steps,
            Length::Tokens(limit) => limit.saturating_sub(tokens).div_ceil(step),
        };
        Ok((tokens.saturating_add(left.saturating_mul(step)), steps.saturating_add(left)))
    }

    fn batch_only(&self, train: &Train) -> Keyed<Schedule> {
        let key = |error| ("schedule.batch_start", error);
        let mut schedule = Schedule::constant(self.lr, train.batch_size, train.sequence_length)
            .map_err(|error| ("schedule.lr", error))?;
        if self.batch_ramp_tokens > 0 {
            let ramp = Shape::Linear(self.batch_start as f64, train.batch_size as f64);
            schedule.batch_size = Curve::new(&[(self.batch_ramp_tokens, ramp)]).map_err(key)?;
            schedule.batch_multiple = self.batch_multiple;
        }
        schedule.validate().map_err(key)?;
        Ok(schedule)
    }

    /// The schedule of a run of `total` tokens.
    pub(super) fn schedule(&self, train: &Train, total: u64) -> Keyed<Schedule> {
        let end = self.decay_tokens.unwrap_or(total);
        let decay = match self.decay.as_str() {
            "cosine" => Decay::Cosine { floor: if self.lr > 0.0 { self.lr_min / self.lr } else { 0.0 } },
            "v3" => Decay::V3,
            "step" => Decay::Step { factor: 0.316, at: [0.8, 0.9] },
            _ => Decay::Constant,
        };
        let rate = learning_rate(self.lr, self.warmup_tokens, end, decay);
        Ok(Schedule {
            learning_rate: rate.map_err(|error| ("schedule.warmup_tokens", error))?,
            bias_speed: switch(self.bias_speed, self.bias_freeze_tokens, 0.0)
                .map_err(|error| ("schedule.bias_freeze_tokens", error))?,
            mtp_weight: switch(self.mtp_weight, self.mtp_late_tokens, self.mtp_weight_late)
                .map_err(|error| ("schedule.mtp_late_tokens", error))?,
            balance_alpha: Curve::constant(self.balance_alpha),
            ..self.batch_only(train)?
        })
    }
}

/// `before` until `tokens`, then `after`; `before` throughout where there is no such moment.
fn switch(before: f64, tokens: Option<u64>, after: f64) -> Result<Curve, ScheduleError> {
    match tokens {
        None => Ok(Curve::constant(before)),
        Some(0) => Ok(Curve::constant(after)),
        Some(at) => Curve::new(&[(at, Shape::Constant(before)), (u64::MAX, Shape::Constant(after))]),
    }
}
