//! Schedules by tokens seen: learning rate, batch size, bias update speed, loss weights.
//!
//! A [`Curve`] is a piecewise function; a [`Schedule`] holds one for each rate of the recipe and knows how many tokens
//! a step takes. Since a step is not a point but an interval of tokens, one rule says what it gets:
//! **the piece is the one in force before the step; within a ramp or cosine of the learning rate, the position is the
//! one after it.** So the first step of a warm-up over `W` tokens has `peak · step_tokens / W`, never 0, the last one
//! has the peak exactly, and the last step of a cosine has the floor. Every other rate is taken before the step.

use core::f64::consts::PI;
use core::fmt;
use heapless::Vec;

/// Maximum number of pieces of a curve.
pub const MAX_PIECES: usize = 8;

/// Shape of a piece of a curve, from its first token to its last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// One value throughout.
    Constant(f64),
    /// A straight line between two values.
    Linear(f64, f64),
    /// Half a cosine from the first value to the second.
    Cosine(f64, f64),
}

impl Shape {
    /// The value at `position`, from 0 at the beginning of the piece to 1 at its end.
    fn at(self, position: f64) -> f64 {
        match self {
            Shape::Constant(value) => value,
            // The ends are exact.
            Shape::Linear(_, to) | Shape::Cosine(_, to) if position >= 1.0 => to,
            Shape::Linear(from, to) => from + (to - from) * position,
            Shape::Cosine(from, to) => to + (from - to) * 0.5 * (1.0 + libm::cos(PI * position)),
        }
    }

    fn ends(self) -> [f64; 2] {
        match self {
            Shape::Constant(value) => [value, value],
            Shape::Linear(from, to) | Shape::Cosine(from, to) => [from, to],
        }
    }
}

/// A stretch of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    /// First token after the piece.
    end: u64,
    shape: Shape,
}

/// A piecewise function of tokens, defined everywhere: after the last piece it keeps that piece's last value.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    pieces: Vec<Piece, MAX_PIECES>,
    last: f64,
}

impl Curve {
    /// A curve of one value without end.
    pub const fn constant(value: f64) -> Self {
        Curve { pieces: Vec::new(), last: value }
    }

    /// Pieces given by the token they end before (`u64::MAX` = no end) and their shape; after the last, the value it
    /// ended on.
    ///
    /// # Errors
    /// Ends that do not increase, more than [`MAX_PIECES`] pieces, or a value that is negative or not a number.
    pub fn new(pieces: &[(u64, Shape)]) -> Result<Self, ScheduleError> {
        let mut curve = Curve::constant(0.0);
        let mut start = 0;
        for &(end, shape) in pieces {
            if end <= start {
                return Err(ScheduleError::NotIncreasing { start, end });
            }
            for value in shape.ends() {
                check("curve", value)?;
            }
            curve.pieces.push(Piece { end, shape }).map_err(|_| ScheduleError::TooManyPieces)?;
            curve.last = shape.ends()[1];
            start = end;
        }
        Ok(curve)
    }

    /// The curve's value once `tokens` tokens have been seen.
    pub fn at(&self, tokens: u64) -> f64 {
        self.within(tokens, tokens)
    }

    /// The piece in force at `before`, evaluated at `position` (or its end, if that comes first).
    fn within(&self, before: u64, position: u64) -> f64 {
        let mut start = 0;
        for piece in &self.pieces {
            if before < piece.end {
                return piece.shape.at((position - start) as f64 / (piece.end - start) as f64);
            }
            start = piece.end;
        }
        self.last
    }

    /// The tokens at which a new piece begins, after 0; what ends at `u64::MAX` does not end.
    fn breakpoints(&self) -> impl Iterator<Item = u64> + '_ {
        self.pieces.iter().map(|piece| piece.end).filter(|&end| end < u64::MAX)
    }
}

/// The rates of one step: learning rate, batch size, bias update speed, loss weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f64,
    /// Sequences in the step.
    pub batch_size: usize,
    /// Step of the expert bias (γ).
    pub bias_speed: f64,
    /// Weight of the multi-token-prediction loss (λ).
    pub mtp_weight: f64,
    /// Weight of the sequence-wise balance loss (α).
    pub balance_alpha: f64,
}

/// The rates of a training run by tokens seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Tokens per sequence.
    pub sequence_length: usize,
    /// Learning rate.
    pub learning_rate: Curve,
    /// Sequences a step, rounded down to a multiple of `batch_multiple`.
    pub batch_size: Curve,
    /// Divisor of all batch sizes while they ramp.
    pub batch_multiple: usize,
    /// Expert bias step (γ).
    pub bias_speed: Curve,
    /// Multi-token-prediction weight (λ).
    pub mtp_weight: Curve,
    /// Balance loss weight (α).
    pub balance_alpha: Curve,
}

impl Schedule {
    /// One learning rate and batch size throughout, the recipe's other rates at zero.
    ///
    /// # Errors
    /// A zero size, or a rate that is negative or not a number.
    pub fn constant(lr: f64, batch_size: usize, sequence_length: usize) -> Result<Self, ScheduleError> {
        let schedule = Schedule {
            sequence_length,
            learning_rate: Curve::constant(lr),
            batch_size: Curve::constant(batch_size as f64),
            batch_multiple: 1,
            bias_speed: Curve::constant(0.0),
            mtp_weight: Curve::constant(0.0),
            balance_alpha: Curve::constant(0.0),
        };
        check("lr", lr)?;
        schedule.validate()?;
        Ok(schedule)
    }

    /// Checks what the fields must satisfy together.
    ///
    /// # Errors
    /// A zero size, or a batch that is smaller somewhere than `batch_multiple`.
    pub fn validate(&self) -> Result<(), ScheduleError> {
        for (field, value) in [("sequence_length", self.sequence_length), ("batch_multiple", self.batch_multiple)] {
            if value == 0 {
                return Err(ScheduleError::Zero { field });
            }
        }
        let ends = self.batch_size.pieces.iter().flat_map(|piece| piece.shape.ends());
        let smallest = ends.fold(self.batch_size.last, f64::min);
        if smallest < 1.0 {
            return Err(ScheduleError::Zero { field: "batch_size" });
        }
        if smallest < self.batch_multiple as f64 {
            return Err(ScheduleError::BatchBelowMultiple { multiple: self.batch_multiple });
        }
        Ok(())
    }

    /// The rates of the step that begins when `tokens` tokens have been seen.
    pub fn at(&self, tokens: u64) -> Rates {
        let batch_size = self.batch_at(tokens);
        let after = tokens.saturating_add(batch_size as u64 * self.sequence_length as u64);
        Rates {
            lr: self.learning_rate.within(tokens, after),
            batch_size,
            bias_speed: self.bias_speed.at(tokens),
            mtp_weight: self.mtp_weight.at(tokens),
            balance_alpha: self.balance_alpha.at(tokens),
        }
    }

    /// Tokens in the step that begins at `tokens`.
    pub fn step_tokens(&self, tokens: u64) -> u64 {
        self.batch_at(tokens) as u64 * self.sequence_length as u64
    }

    fn batch_at(&self, tokens: u64) -> usize {
        let size = self.batch_size.at(tokens) as usize;
        size - size % self.batch_multiple
    }

    /// The schedule as a table: the tokens at which some rate begins a new piece, in order, and the rates there.
    pub fn table(&self) -> impl Iterator<Item = (u64, Rates)> + '_ {
        let next = move |after: u64| self.breakpoints().filter(|&tokens| tokens > after).min();
        core::iter::successors(Some(0), move |&tokens| next(tokens)).map(|tokens| (tokens, self.at(tokens)))
    }

    fn breakpoints(&self) -> impl Iterator<Item = u64> + '_ {
        [&self.learning_rate, &self.batch_size, &self.bias_speed, &self.mtp_weight, &self.balance_alpha]
            .into_iter()
            .flat_map(Curve::breakpoints)
    }

    /// DeepSeek-V3's schedule (V3 report, §4.2): 14.8 T tokens in sequences of 4K.
    ///
    /// Two things the report leaves open are settled here. The batch grows from 3072 to 15360 sequences over 469 B
    /// tokens: linearly in tokens, in multiples of 64. And 2000 steps of warm-up are 27.8 B tokens, which is what 2000
    /// steps of that batch take.
    pub fn v3() -> Self {
        Schedule {
            sequence_length: 4096,
            learning_rate: learning_rate(2.2e-4, V3_WARMUP, 14_800 * BILLION, Decay::V3)
                .expect("the published schedule is well formed"),
            batch_size: Curve::new(&[(469 * BILLION, Shape::Linear(3072.0, 15360.0))])
                .expect("the published ramp is well formed"),
            batch_multiple: 64,
            bias_speed: step_down(0.001, 14_300 * BILLION, 0.0),
            mtp_weight: step_down(0.3, 10_000 * BILLION, 0.1),
            balance_alpha: Curve::constant(1e-4),
        }
    }

    /// DeepSeek-V2-Lite's schedule (V2 paper, appendix B): 5.7 T tokens in sequences of 4K, batches of 4608.
    ///
    /// Of the paper's balance losses only the expert-level one is here, with its α₁ = 0.001.
    pub fn v2_lite() -> Self {
        let decay = Decay::Step { factor: 0.316, at: [0.8, 0.9] };
        Schedule {
            sequence_length: 4096,
            learning_rate: learning_rate(4.2e-4, 2000 * 4608 * 4096, 5_700 * BILLION, decay)
                .expect("the published schedule is well formed"),
            batch_size: Curve::constant(4608.0),
            batch_multiple: 1,
            bias_speed: Curve::constant(0.0),
            mtp_weight: Curve::constant(0.0),
            balance_alpha: Curve::constant(0.001),
        }
    }
}

const BILLION: u64 = 1_000_000_000;
/// Tokens in the first 2000 steps of V3's batch ramp.
const V3_WARMUP: u64 = 27_800_000_000;

/// `before` until `tokens`, then `after`.
fn step_down(before: f64, tokens: u64, after: f64) -> Curve {
    Curve::new(&[(tokens, Shape::Constant(before)), (u64::MAX, Shape::Constant(after))])
        .expect("two pieces in order are a curve")
}

/// Decay of the learning rate after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// No decay.
    Constant,
    /// Half a cosine from the end of the warm-up to the end of the run, down to `floor` times the peak.
    Cosine {
        /// Final learning rate as a fraction of the peak.
        floor: f64,
    },
    /// V3's (report, §4.2), in proportion to the length of the run: constant for 10/14.8 of it, a cosine to a tenth of
    /// the peak over 4.3/14.8, that tenth for 0.333/14.8, and 7.3/220 of the peak for the rest.
    V3,
    /// The peak times `factor` from each of two fractions of the run on (V2, §3.1.2).
    Step {
        /// Factor at each of the steps.
        factor: f64,
        /// Places of the steps, as fractions of the run.
        at: [f64; 2],
    },
}

/// The learning rate of a run of `total_tokens` tokens: a straight line from 0 to `peak` over the first `warmup_tokens`
/// (0 for none), then `decay`. See the [module's rule](self) for what a step within the warm-up gets.
///
/// # Errors
/// A rate that is negative or not a number, a warm-up that leaves no room for the decay, fractions out of order.
pub fn learning_rate(peak: f64, warmup_tokens: u64, total_tokens: u64, decay: Decay) -> Result<Curve, ScheduleError> {
    check("lr", peak)?;
    let part = |of_total: f64| libm::round(total_tokens as f64 * of_total) as u64;
    let mut pieces = Vec::<(u64, Shape), MAX_PIECES>::new();
    let mut piece = |end: u64, shape: Shape| pieces.push((end, shape)).map_err(|_| ScheduleError::TooManyPieces);
    if warmup_tokens > 0 {
        piece(warmup_tokens, Shape::Linear(0.0, peak))?;
    }
    let first_end = match decay {
        Decay::Constant => {
            piece(u64::MAX, Shape::Constant(peak))?;
            u64::MAX
        }
        Decay::Cosine { floor } => {
            check("floor", floor)?;
            piece(total_tokens, Shape::Cosine(peak, peak * floor))?;
            total_tokens
        }
        Decay::V3 => {
            let (tenth, last) = (peak * 0.1, peak * (7.3 / 220.0));
            piece(part(10.0 / 14.8), Shape::Constant(peak))?;
            piece(part(14.3 / 14.8), Shape::Cosine(peak, tenth))?;
            piece(part(14.633 / 14.8), Shape::Constant(tenth))?;
            piece(u64::MAX, Shape::Constant(last))?;
            part(10.0 / 14.8)
        }
        Decay::Step { factor, at } => {
            check("factor", factor)?;
            check("at", at[0])?;
            check("at", at[1])?;
            piece(part(at[0]), Shape::Constant(peak))?;
            piece(part(at[1]), Shape::Constant(peak * factor))?;
            piece(u64::MAX, Shape::Constant(peak * factor * factor))?;
            part(at[0])
        }
    };
    if warmup_tokens >= first_end {
        return Err(ScheduleError::WarmupTooLong { warmup_tokens, limit: first_end });
    }
    Curve::new(&pieces)
}

/// Errors of schedules.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A size that must be at least 1.
    Zero {
        /// Name of the size.
        field: &'static str,
    },
    /// A rate that is negative, infinite or not a number.
    Rate {
        /// Name of the rate.
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// The warm-up reaches past the first piece of the decay.
    WarmupTooLong {
        /// Length of the warm-up in tokens.
        warmup_tokens: u64,
        /// Token by which the warm-up must end.
        limit: u64,
    },
    /// A piece that ends where it starts, or before.
    NotIncreasing {
        /// Its first token.
        start: u64,
        /// Its end.
        end: u64,
    },
    /// More than [`MAX_PIECES`] pieces.
    TooManyPieces,
    /// The batch falls below the number that it must be a multiple of.
    BatchBelowMultiple {
        /// The multiple.
        multiple: usize,
    },
    /// The batch grows for more steps than can be counted.
    RampTooLong {
        /// Tokens over which the batch grows.
        tokens: u64,
        /// Steps that do not reach so far.
        steps: u64,
    },
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ScheduleError::Zero { field } => write!(f, "{field} = 0: must be at least 1"),
            ScheduleError::Rate { field, value } => {
                write!(f, "{field} = {value}: must be 0 or a positive number")
            }
            ScheduleError::WarmupTooLong { warmup_tokens, limit } => write!(
                f,
                "warmup_tokens = {warmup_tokens}: must be below {limit}, where the learning rate begins to fall or the \
                 run ends; shorten the warm-up or lengthen the run"
            ),
            ScheduleError::NotIncreasing { start, end } => {
                write!(f, "a piece from token {start} to token {end} is empty; put the pieces in order")
            }
            ScheduleError::TooManyPieces => {
                write!(f, "more than {MAX_PIECES} pieces; simplify the curve")
            }
            ScheduleError::BatchBelowMultiple { multiple } => {
                write!(f, "batch_size: falls below batch_multiple = {multiple}; raise it or lower the multiple")
            }
            ScheduleError::RampTooLong { tokens, steps } => {
                write!(f, "the batch grows over {tokens} tokens, more than {steps} steps have; shorten its growth")
            }
        }
    }
}

impl core::error::Error for ScheduleError {}

fn check(field: &'static str, value: f64) -> Result<(), ScheduleError> {
    if value >= 0.0 && value.is_finite() { Ok(()) } else { Err(ScheduleError::Rate { field, value }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec;

    const T: u64 = 1_000_000_000_000;

    #[test]
    fn constant_is_exact_from_the_first_step() {
        let schedule = Schedule::constant(1e-3, 8, 256).unwrap();
        for step in 0..100 {
            assert_eq!(schedule.at(step * 2048).lr, 1e-3);
        }
        let curve = learning_rate(1e-3, 0, 1000, Decay::Constant).unwrap();
        assert_eq!(curve.at(0), 1e-3);
        assert_eq!(curve.at(u64::MAX), 1e-3);
    }

    #[test]
    fn warmup_counts_the_step_itself() {
        let mut schedule = Schedule::constant(1e-3, 4, 25).unwrap();
        schedule.learning_rate = learning_rate(1e-3, 1000, 10_000, Decay::Cosine { floor: 0.1 }).unwrap();
        let lr = |step: u64| schedule.at(step * 100).lr;
        assert_eq!(lr(0), 1e-3 * 0.1);
        assert_eq!(lr(9), 1e-3);
        assert!(lr(10) < 1e-3 && lr(10) > 0.999e-3);
        assert!((lr(54) - 0.55e-3).abs() < 1e-12, "halfway down at {}", lr(54));
        assert_eq!(lr(99), 1e-4);
        assert_eq!(lr(1000), 1e-4);
    }

    #[test]
    fn a_warmup_shorter_than_a_step_ends_at_the_peak() {
        let mut schedule = Schedule::constant(1e-3, 4, 25).unwrap();
        schedule.learning_rate = learning_rate(1e-3, 30, 10_000, Decay::Constant).unwrap();
        assert_eq!(schedule.at(0).lr, 1e-3);
    }

    #[test]
    fn steps_multiply_at_their_fractions() {
        let schedule = Schedule::v2_lite();
        let lr = |tokens| schedule.at(tokens).lr;
        assert_eq!(lr(T), 4.2e-4);
        assert_eq!(lr(4_560 * BILLION - 1), 4.2e-4);
        assert_eq!(lr(4_560 * BILLION), 4.2e-4 * 0.316);
        assert_eq!(lr(5_130 * BILLION), 4.2e-4 * 0.316 * 0.316);
        assert_eq!(schedule.at(0).batch_size, 4608);
        assert_eq!(schedule.at(0).lr, 4.2e-4 / 2000.0);
    }

    #[test]
    fn v3_is_as_published() {
        let schedule = Schedule::v3();
        assert_eq!(schedule.validate(), Ok(()));
        let first = schedule.at(0);
        assert_eq!(
            (first.batch_size, first.bias_speed, first.mtp_weight, first.balance_alpha),
            (3072, 0.001, 0.3, 1e-4)
        );
        assert_eq!(schedule.at(469 * BILLION).batch_size, 15360);
        assert_eq!(schedule.at(9 * T).lr, 2.2e-4);
        assert_eq!(schedule.at(9 * T).mtp_weight, 0.3);
        assert_eq!(schedule.at(10 * T).mtp_weight, 0.1);
        let middle = schedule.learning_rate.at(10 * T + 2_150 * BILLION);
        assert!((middle - 1.21e-4).abs() < 1e-9, "{middle}");
        for (tokens, lr) in [(14_301, 2.2e-5), (14_632, 2.2e-5), (14_634, 7.3e-6), (14_800, 7.3e-6)] {
            let got = schedule.at(tokens * BILLION).lr;
            assert!((got / lr - 1.0).abs() < 1e-12, "{got} at {tokens}");
        }
        assert_eq!(schedule.at(14_300 * BILLION - 1).bias_speed, 0.001);
        assert_eq!(schedule.at(14_300 * BILLION).bias_speed, 0.0);
    }

    #[test]
    fn v3_warms_up_in_2000_steps() {
        let schedule = Schedule::v3();
        let mut tokens = 0;
        let mut steps = 0;
        while schedule.at(tokens).lr < 2.2e-4 {
            tokens += schedule.step_tokens(tokens);
            steps += 1;
        }
        assert!((1990..=2010).contains(&steps), "{steps} steps");
    }

    #[test]
    fn table_lists_every_change_once() {
        let table: vec::Vec<_> = Schedule::v3().table().map(|(tokens, _)| tokens / BILLION).collect();
        assert_eq!(table, [0, 27, 469, 10_000, 14_300, 14_633]);
    }

    #[test]
    fn batch_ramps_in_multiples() {
        let mut schedule = Schedule::constant(1e-3, 8, 16).unwrap();
        schedule.batch_size = Curve::new(&[(1000, Shape::Linear(8.0, 32.0))]).unwrap();
        schedule.batch_multiple = 8;
        let sizes = [0, 333, 334, 999, 1000].map(|tokens| schedule.at(tokens).batch_size);
        assert_eq!(sizes, [8, 8, 16, 24, 32]);
        schedule.batch_multiple = 9;
        assert_eq!(schedule.validate(), Err(ScheduleError::BatchBelowMultiple { multiple: 9 }));
    }

    #[test]
    fn bad_schedules_are_named() {
        let cases = [
            (Schedule::constant(-1.0, 1, 1).map(|_| ()), "lr = -1"),
            (Schedule::constant(f64::NAN, 1, 1).map(|_| ()), "lr = NaN"),
            (Schedule::constant(1.0, 0, 1).map(|_| ()), "batch_size = 0"),
            (Schedule::constant(1.0, 1, 0).map(|_| ()), "sequence_length = 0"),
            (learning_rate(1.0, 10, 10, Decay::Cosine { floor: 0.0 }).map(|_| ()), "warmup_tokens = 10"),
            (learning_rate(1.0, 0, 10, Decay::Step { factor: 0.5, at: [0.9, 0.8] }).map(|_| ()), "a piece from"),
            (learning_rate(1.0, 0, 0, Decay::V3).map(|_| ()), "warmup_tokens = 0"),
            (Curve::new(&[(1, Shape::Constant(f64::INFINITY))]).map(|_| ()), "curve = inf"),
        ];
        for (result, message) in cases {
            let error = result.expect_err(message).to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
