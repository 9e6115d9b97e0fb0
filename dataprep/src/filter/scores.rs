//! Comparison of measured values with thresholds.

use super::config::Limit;
use crate::document::Dropped;
use std::collections::BTreeMap;

/// Notes what was measured under the name of the rule it was measured for, and drops at the first rule that is broken.
pub(crate) struct Scores<'a>(pub &'a mut BTreeMap<&'static str, f64>);

impl Scores<'_> {
    /// Drops when the value is greater than the limit. Nothing is measured for a rule that is off.
    pub fn at_most(
        &mut self,
        rule: &'static str,
        limit: Limit<f64>,
        value: impl FnOnce() -> f64,
    ) -> Result<(), Dropped> {
        let Limit::At(threshold) = limit else { return Ok(()) };
        let value = self.note(rule, value());
        if value > threshold { Err(Dropped { rule, value, threshold }) } else { Ok(()) }
    }

    /// Drops when the value is less than the limit.
    pub fn at_least(
        &mut self,
        rule: &'static str,
        limit: Limit<f64>,
        value: impl FnOnce() -> f64,
    ) -> Result<(), Dropped> {
        let Limit::At(threshold) = limit else { return Ok(()) };
        let value = self.note(rule, value());
        if value < threshold { Err(Dropped { rule, value, threshold }) } else { Ok(()) }
    }

    /// Notes a value.
    pub fn note(&mut self, name: &'static str, value: f64) -> f64 {
        self.0.insert(name, value);
        value
    }
}

impl Limit<u64> {
    /// The same threshold for a measured value.
    pub(crate) fn real(self) -> Limit<f64> {
        match self {
            Self::At(threshold) => Limit::At(threshold as f64),
            Self::Off => Limit::Off,
        }
    }
}

/// `part / whole`, and 0 of nothing.
pub(crate) fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
