//! The data of an inspection report.

use crate::shard::{Manifest, StageReport};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The report of [`inspect`](crate::inspect::inspect).
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The folder.
    pub folder: PathBuf,
    /// The folder's manifest.
    pub manifest: Manifest,
    /// Every score of the training documents that was measured, by name.
    pub scores: BTreeMap<String, Distribution>,
    /// Documents that were kept, from all over the training side.
    pub kept: Vec<Example>,
    /// Documents that were dropped, the first of every rule.
    pub dropped: BTreeMap<String, Vec<Example>>,
}

/// Distribution of a score over documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Documents that have it.
    pub documents: usize,
    /// The least, the 5th, 25th, 50th, 75th and 95th percentile, and the greatest.
    pub quantiles: [f64; 7],
    /// Documents in 24 intervals of equal width between the 1st and the 99th percentile, those beyond in the outermost.
    pub histogram: Vec<usize>,
    /// Bounds of the intervals: start of the first, end of the last.
    pub range: [f64; 2],
}

/// A document to look at.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Example {
    /// Origin of the document.
    pub origin: String,
    /// Rule that dropped it, and its language if known.
    pub note: String,
    /// Scores by name.
    pub scores: BTreeMap<String, f64>,
    /// The beginning of its text.
    pub text: String,
}

impl Distribution {
    /// Distribution of these values, of which none is NaN.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let Some(last) = values.len().checked_sub(1) else { return Self::default() };
        let at = |share: f64| values[((last as f64 * share).round() as usize).min(last)];
        let quantiles = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0].map(at);
        let range = [at(0.01), at(0.99)];
        let mut histogram = vec![0; 24];
        let width = (range[1] - range[0]).max(f64::MIN_POSITIVE);
        for value in &values {
            let interval = ((value - range[0]) / width * 24.0).clamp(0.0, 23.0);
            histogram[interval as usize] += 1;
        }
        Self { documents: values.len(), quantiles, histogram, range }
    }
}

/// The share of its documents that a stage dropped. Counts are read from a file, so they are added as what cannot
/// overflow.
pub(super) fn drop_rate(stage: &StageReport) -> f64 {
    // A sum of no floating-point numbers is -0.0.
    let dropped = stage.dropped.values().map(|n| u128::from(*n)).sum::<u128>() as f64;
    dropped / (dropped + stage.kept as f64).max(1.0)
}

/// A number with this many digits behind the point. What rounds to zero has no sign.
pub(super) fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|byte| matches!(byte, b'0' | b'.')) => rest.to_owned(),
        _ => text,
    }
}

/// Entries by count, the greatest first, and by name among equals.
pub(super) fn by_count(counts: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let mut entries: Vec<(&str, u64)> = counts.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    entries.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    entries
}

impl Inspection {
    /// Histogram of document lengths in tokens: shortest and longest length of each interval, and its documents.
    pub fn lengths(&self) -> Vec<(u64, u64, u64)> {
        let sides = [Some(&self.manifest.train), self.manifest.validation.as_ref()];
        let mut all: Vec<u64> = Vec::new();
        for lengths in sides.into_iter().flatten().map(|side| &side.lengths) {
            all.resize(all.len().max(lengths.len()), 0);
            all.iter_mut().zip(lengths).for_each(|(sum, n)| *sum = sum.saturating_add(*n));
        }
        let interval = |(i, n)| (1_u64 << i, (1_u64 << (i + 1)) - 1, n);
        (0..63_u32).zip(all).map(interval).skip_while(|(_, _, n)| *n == 0).collect()
    }
}
