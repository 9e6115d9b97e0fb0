//! Choosing tokens by rows of logits.

use alloc::vec::Vec;

use super::matrix::{indices, read_f32, write_indices};
use super::{Host, HostBuffer, Result};
use crate::device::call::{NO_TOKEN, Sample};
use crate::sampling::Rule;

impl Host {
    pub(super) fn sample(&self, mut call: Sample<'_, HostBuffer>) -> Result {
        let (logits, words) = (read_f32(&call.logits), indices(&call.rules));
        let (rules, _) = words.as_chunks::<{ Rule::WORDS }>();
        let rows = logits.chunks_exact(call.logits.cols());
        let tokens: Vec<u32> =
            rules.iter().zip(rows).map(|(&rule, row)| Rule::from_words(rule).choose(row).unwrap_or(NO_TOKEN)).collect();
        write_indices(&mut call.tokens, &tokens);
        Ok(())
    }
}
