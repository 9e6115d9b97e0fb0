//! Mixing of sources: maps the `k`-th sequence of a run to a source and an index within it, with exact shares and no
//! memory.
//!
//! Sources are drawn by Sainte-Laguë's method: with `w` its weight and `c` the sequences it has given so far, the
//! source with the largest `w / (2c + 1)` comes next. That is as even as whole sequences can be: after any number of
//! draws each source has had its share but for a sequence or so, where random draws stray by the square root of their
//! number.
//!
//! Put differently, source `i` gives its `j`-th sequence at the time `(2j + 1) / (2 wᵢ)`, and draws are these events in
//! the order of time. So what the `k`-th draw is follows from `k` alone: a run resumes at any `k`, and workers share a
//! run by sharing its numbers. A source with a limit of epochs has a limited number of events; the others go on at
//! the pace they had.

use crate::error::{Error, Result};

/// Weights are whole numbers, the largest 2⁴⁰, so that times can be compared exactly.
const WEIGHT_BITS: u32 = 40;
/// The smallest weight, 2⁻²³ of the largest: even a source that only gets its turn when all others have ended gives its
/// 2⁶⁴ sequences before time 2⁸⁷, and products of a weight and a time fit 128 bits.
const SMALLEST: u64 = 1 << (WEIGHT_BITS - 23);
/// No event is later.
const END_OF_TIME: u128 = 1 << 87;

/// One source, as the schedule sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    weight: u64,
    /// Sequences it gives at most.
    limit: u64,
}

/// The order in which sources are drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    shares: Vec<Share>,
    total: u64,
}

/// One draw: a source, and the index of a sequence in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The source.
    pub source: usize,
    /// Number of sequences that the source gave before.
    pub index: u64,
}

impl Mix {
    /// Makes a mix of sources with their weights, in any unit, and the number of sequences that each may give, if
    /// limited.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no source, or a weight is not above 0 or is nothing beside the largest one.
    pub fn new(sources: &[(f64, Option<u64>)]) -> Result<Self> {
        let bad = |what: String| Error::Config { field: "data.sources", what };
        let largest = sources.iter().map(|(weight, _)| *weight).fold(0.0, f64::max);
        if sources.is_empty() || u32::try_from(sources.len()).is_err() {
            return Err(bad(format!("{} sources; name at least one", sources.len())));
        }
        let mut shares = Vec::with_capacity(sources.len());
        for &(weight, limit) in sources {
            let scaled = (weight / largest * (1_u64 << WEIGHT_BITS) as f64).round();
            if !(weight.is_finite() && scaled >= SMALLEST as f64) {
                return Err(bad(format!(
                    "a weight of {weight} where the largest is {largest}; weights must be above 0, and at least a \
                     ten-millionth of the largest (2^-23)"
                )));
            }
            shares.push(Share { weight: scaled as u64, limit: limit.unwrap_or(u64::MAX) });
        }
        let total = shares.iter().fold(0_u64, |sum, share| sum.saturating_add(share.limit));
        Ok(Self { shares, total })
    }

    /// Number of draws; `u64::MAX` is no limit.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The `k`-th draw; `None` when every source is at its end before.
    pub fn draw(&self, k: u64) -> Option<Draw> {
        if k >= self.total {
            return None;
        }
        if let [_] = self.shares.as_slice() {
            return Some(Draw { source: 0, index: k });
        }
        let mut counts = self.counts_before(k);
        let mut drawn: u64 = counts.iter().sum();
        loop {
            let source = self.next(&counts)?;
            if drawn == k {
                return Some(Draw { source, index: counts[source] });
            }
            counts[source] += 1;
            drawn += 1;
        }
    }

    /// Number of draws of each source before the `k`-th.
    pub fn counts(&self, k: u64) -> Vec<u64> {
        let k = k.min(self.total);
        let mut counts = self.counts_before(k);
        let mut drawn: u64 = counts.iter().sum();
        while drawn < k
            && let Some(source) = self.next(&counts)
        {
            counts[source] += 1;
            drawn += 1;
        }
        counts
    }

    /// The source whose next event is the earliest; of several the first.
    fn next(&self, counts: &[u64]) -> Option<usize> {
        let open = self.shares.iter().zip(counts).enumerate().filter(|(_, (share, count))| *count < &share.limit);
        let odd = |count: u64| 2 * u128::from(count) + 1;
        open.reduce(|best, new| {
            let ((_, (old_share, &old)), (_, (share, &count))) = (best, new);
            let earlier = odd(count) * u128::from(old_share.weight) < odd(old) * u128::from(share.weight);
            if earlier { new } else { best }
        })
        .map(|(source, _)| source)
    }

    /// Counts at a moment at which at most `k` draws have been made, and not many fewer.
    fn counts_before(&self, k: u64) -> Vec<u64> {
        // At time t, of which the source with the largest weight makes a draw in each unit, one has made ⌊w·t + 1/2⌋.
        let at = |time: u128| -> Vec<u64> {
            let count = |share: &Share| {
                let draws = (u128::from(share.weight) * time + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
                draws.min(u128::from(share.limit)) as u64
            };
            self.shares.iter().map(count).collect()
        };
        let sum = |counts: &[u64]| counts.iter().map(|&count| u128::from(count)).sum::<u128>();
        // The last whole time at which no more than k are drawn; within one more unit there are few.
        let (mut low, mut high) = (0_u128, 1_u128);
        while high < END_OF_TIME && sum(&at(high)) <= u128::from(k) {
            (low, high) = (high, high * 2);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if sum(&at(middle)) <= u128::from(k) { low = middle } else { high = middle }
        }
        at(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Draw after draw, as the method is worded.
    fn one_by_one(mix: &Mix, n: usize) -> Vec<usize> {
        let mut counts = vec![0; mix.shares.len()];
        let mut next = || {
            let source = mix.next(&counts)?;
            counts[source] += 1;
            Some(source)
        };
        std::iter::from_fn(&mut next).take(n).collect()
    }

    #[test]
    fn shares_are_exact_all_along() {
        let weights = [0.5, 0.3, 0.15, 0.05];
        let mix = Mix::new(&weights.map(|w| (w, None))).unwrap();
        let mut counts = [0_u64; 4];
        for k in 0..10_000 {
            let draw = mix.draw(k).unwrap();
            assert_eq!(draw.index, counts[draw.source]);
            counts[draw.source] += 1;
            assert_eq!(mix.counts(k + 1), counts);
            for (count, weight) in counts.iter().zip(weights) {
                let share = weight * (k + 1) as f64;
                assert!((*count as f64 - share).abs() <= 1.0 + 1e-6, "{counts:?} after {} draws", k + 1);
            }
        }
    }

    #[test]
    fn any_draw_of_a_long_run_is_found_at_once() {
        let mix = Mix::new(&[(3.0, None), (1.0, None)]).unwrap();
        assert_eq!(mix.counts(1 << 32), [3 << 30, 1 << 30]);
        let far = (1_u64 << 60) + 1;
        let next = mix.draw(far).unwrap();
        assert_eq!(mix.counts(far)[next.source], next.index);
        assert_eq!(Mix::new(&[(7.0, None)]).unwrap().draw(u64::MAX - 1), Some(Draw { source: 0, index: u64::MAX - 1 }));
    }

    #[test]
    fn a_source_that_ends_leaves_the_others_their_pace() {
        let mix = Mix::new(&[(8.0, Some(10)), (1.0, Some(1000)), (1e-6, Some(2))]).unwrap();
        assert_eq!(mix.total(), 1012);
        let order = one_by_one(&mix, 2000);
        assert_eq!(order.len(), 1012);
        assert_eq!(mix.counts(11), [10, 1, 0]);
        for (k, source) in order.iter().enumerate() {
            assert_eq!(mix.draw(k as u64).unwrap().source, *source, "draw {k}");
        }
        assert_eq!((mix.draw(1012), mix.counts(5000)), (None, vec![10, 1000, 2]));
        // One that is rare beside others that have ended is still found at once.
        let mix = Mix::new(&[(1.0, Some(10)), (1.3e-7, None)]).unwrap();
        assert_eq!(mix.draw(u64::MAX - 1), Some(Draw { source: 1, index: u64::MAX - 11 }));
    }

    #[test]
    fn weights_that_make_no_sense_are_refused() {
        for weights in [&[][..], &[0.0], &[1.0, -1.0], &[1.0, f64::NAN], &[f64::INFINITY], &[1.0, 1e-7]] {
            let sources: Vec<_> = weights.iter().map(|&w| (w, None)).collect();
            assert!(matches!(Mix::new(&sources), Err(Error::Config { field: "data.sources", .. })), "{weights:?}");
        }
    }

    proptest! {
        #[test]
        fn draws_follow_from_their_number_alone(
            sources in prop::collection::vec((1_u32..1000, prop::option::of(1_u64..60)), 1..7),
            k in 0_u64..300,
        ) {
            let sources: Vec<_> = sources.into_iter().map(|(weight, limit)| (f64::from(weight), limit)).collect();
            let mix = Mix::new(&sources).unwrap();
            let order = one_by_one(&mix, 300);
            prop_assert_eq!(mix.draw(k).map(|draw| draw.source), order.get(k as usize).copied());
        }
    }
}
