//! The first training steps of a device compared with the reference device, in every precision.
//!
//! Two right devices differ for three reasons, and a test that is to find faults on every machine must keep them apart:
//!
//! 1. They add in another order. That moves a loss by a few units in the last place of f32, as long as no sum lies so
//!    near a tie that it is rounded to the other neighbour in BF16 or E4M3.
//! 2. Some round the probabilities of attention to BF16 and some do not ([`Attend`]). In FP8 that moves the loss of so
//!    small a model by a tenth of a percent.
//! 3. For either, a token may go to another expert ([`choices`](crate::choices)): a third of a percent.
//!
//! So the choices are forced in both comparisons that are made here. In the first, attention is computed in f32 on both
//! sides, and the losses before any update must agree as far as sums in another order allow (`SUMS`): with these
//! weights and tokens no sum that matters lies near a tie, on no instruction set and not under the CUDA emulator
//! either. In the second, attention is what the device makes of it, and everything must stay within a multiple of what
//! the reference device itself moves by when its attention is moved as rounding moves it. Those bounds come from the
//! reference device alone, whose bits are the same on every machine.

use fathom_core::comm::Solo;
use fathom_core::device::{Host, Kernels};
use fathom_core::model::Batch;
use fathom_core::precision::Precision;
use fathom_core::rng;
use fathom_core::train::schedule::Rates;
use fathom_core::train::{Hyperparameters, StepReport, Trainer};

use crate::choices::{Attend, Choices, Steered, compare};
use crate::golden::Golden;

const STEPS: usize = 3;
const SEQUENCES: usize = 2;
const LENGTH: usize = 24;

/// Largest relative error of the first step's losses with attention in f32. Observed: at most 1.4e-7, over three
/// precisions, four instruction sets and the CUDA emulator.
const SUMS: f64 = 1e-6;
/// Largest relative error of later losses: AdamW's first updates are the signs of gradients, whatever their size.
const UPDATED: f64 = 1e-5;
/// Number of runs of the reference device with perturbed attention.
const MOVED: u64 = 12;
/// Factor by which a device may exceed the largest deviation of those runs. If a correct device were one more such run,
/// with normally distributed deviations, one number in about 350 would exceed this.
const MARGIN: f64 = 2.0;

/// Training from the weights of a golden case with two micro-batches per step, in which every part takes part: dense
/// and MoE layers, both losses, the balance loss and the expert bias.
fn train<D: Kernels>(device: &D, golden: &Golden, precision: Precision) -> Vec<StepReport> {
    let vocabulary = golden.config.vocab_size;
    let mut trainer = Trainer::new(golden.model(device, precision), Solo, Hyperparameters::default()).unwrap();
    let step = |step: usize| {
        let rates = Rates { lr: 1e-3, batch_size: SEQUENCES, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
        let token = |i| (rng::bits(3, step as u64, i) % vocabulary as u64) as u32;
        let tokens: Vec<u32> = (0..(SEQUENCES * (LENGTH + 1)) as u64).map(token).collect();
        let batch = Batch::new(&tokens, LENGTH, None, vocabulary).unwrap();
        trainer.step(&batch, 1, &rates).unwrap_or_else(|e| panic!("step {step} in {}: {e}", precision.name()))
    };
    (0..STEPS).map(step).collect()
}

/// The largest of non-negative numbers, or NaN if one is NaN.
fn largest(numbers: impl IntoIterator<Item = f64>) -> f64 {
    numbers.into_iter().fold(0.0, |m, x| if x <= m { m } else { x })
}

/// Largest differences between two training runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Distance {
    /// Relative difference of the losses of the first step.
    first: f64,
    /// Relative difference of the losses of all steps.
    loss: f64,
    /// Relative difference of the gradient norms.
    norm: f64,
    /// Absolute difference of the routers' scores.
    scores: f64,
}

impl Distance {
    fn between(got: &[StepReport], want: &[StepReport], scores: f32) -> Self {
        let off = |a: f64, b: f64| ((a - b) / b).abs();
        let losses = |(a, b): (&StepReport, &StepReport)| {
            largest([off(a.loss, b.loss), off(a.mtp_loss.expect("a module"), b.mtp_loss.expect("a module"))])
        };
        let losses: Vec<f64> = got.iter().zip(want).map(losses).collect();
        let norms = got.iter().zip(want).map(|(a, b)| off(a.grad_norm, b.grad_norm));
        Self { first: losses[0], loss: largest(losses), norm: largest(norms), scores: f64::from(scores) }
    }

    fn or_further(self, other: Self) -> Self {
        Self {
            first: largest([self.first, other.first]),
            loss: largest([self.loss, other.loss]),
            norm: largest([self.norm, other.norm]),
            scores: largest([self.scores, other.scores]),
        }
    }

    /// Whether no number is NaN and each is within that of `bound`.
    fn is_within(self, bound: Self) -> bool {
        let pairs =
            [(self.first, bound.first), (self.loss, bound.loss), (self.norm, bound.norm), (self.scores, bound.scores)];
        pairs.iter().all(|(found, bound)| found <= bound)
    }
}

/// The steps on the reference device, and the bounds for other devices.
pub struct Reference {
    golden: Golden,
    precision: Precision,
    want: Vec<StepReport>,
    choices: Vec<Choices>,
    bound: Distance,
}

impl Reference {
    /// Trains on the reference device in `precision`, with plain and with perturbed attention.
    pub fn new(precision: Precision) -> Self {
        let golden = Golden::load("v3_mtp");
        let device = Steered::recorded(Host::new(), Attend::AsItDoes);
        let want = train(&device, &golden, precision);
        assert!(want[STEPS - 1].loss != want[0].loss, "nothing was trained");
        let least = Distance { first: SUMS, loss: UPDATED, norm: UPDATED, scores: UPDATED };
        let mut reference = Self { golden, precision, want, choices: device.own(), bound: least };
        // In f32 there is nothing to move.
        let runs = if precision == Precision::F32 { 0 } else { MOVED };
        let moved = (0..runs).map(|seed| reference.distance("moved", Host::new(), Attend::Moved(seed)));
        let furthest = moved.fold(Distance::default(), Distance::or_further);
        let Distance { first, loss, norm, scores } = furthest;
        let allowed =
            Distance { first: MARGIN * first, loss: MARGIN * loss, norm: MARGIN * norm, scores: MARGIN * scores };
        reference.bound = least.or_further(allowed);
        println!("{}: allowed {:?}", precision.name(), reference.bound);
        reference
    }

    fn distance<D: Kernels>(&self, name: &str, device: D, attend: Attend) -> Distance {
        self.distance_of(name, Steered::following(device, attend, &self.choices), attend)
    }

    fn distance_of<D: Kernels>(&self, name: &str, device: Steered<D>, attend: Attend) -> Distance {
        let got = train(&device, &self.golden, self.precision);
        let (scores, differing) = compare(&self.choices, &device.own());
        let distance = Distance::between(&got, &self.want, scores);
        println!("{} {name}, {attend:?}: {distance:?}", self.precision.name());
        for differing in differing {
            println!("  by itself it would choose otherwise in {differing}");
        }
        distance
    }

    /// Checks `device` by both comparisons.
    ///
    /// # Panics
    /// A number exceeds its bound.
    pub fn check<D: Kernels>(&self, name: &str, device: D) {
        for attend in [Attend::InF32, Attend::AsItDoes] {
            if attend == Attend::AsItDoes && self.precision == Precision::F32 {
                continue; // the same once more
            }
            self.compare(name, device.clone(), attend).unwrap_or_else(|problem| panic!("{problem}"));
        }
    }

    /// Checks one comparison against the bounds; with attention in f32, the first step must agree as closely as sums in
    /// another order allow.
    ///
    /// # Errors
    /// The number that exceeds its bound.
    pub fn compare<D: Kernels>(&self, name: &str, device: D, attend: Attend) -> Result<(), String> {
        self.judge(name, Steered::following(device, attend, &self.choices), attend)
    }

    /// Trains on the reference device without call `number` of `kernel` and compares; an error means that the
    /// comparison notices the missing call.
    ///
    /// # Errors
    /// The number that exceeds its bound.
    pub fn without(&self, kernel: &'static str, number: u64) -> Result<(), String> {
        let attend = Attend::InF32;
        let device = Steered::following(Host::new(), attend, &self.choices).leaving_out(kernel, number);
        self.judge(kernel, device, attend)
    }

    fn judge<D: Kernels>(&self, name: &str, device: Steered<D>, attend: Attend) -> Result<(), String> {
        let first = if attend == Attend::AsItDoes { self.bound.first } else { SUMS };
        let (found, bound) = (self.distance_of(name, device, attend), Distance { first, ..self.bound });
        match found.is_within(bound) {
            true => Ok(()),
            false => Err(format!("{name} in {}, {attend:?}: {found:?}, allowed {bound:?}", self.precision.name())),
        }
    }
}
