//! Choosing tokens, a row on each thread.

use fathom_core::device::{Call, NO_TOKEN, Sample};
use fathom_core::sampling::Rule;

use crate::Cpu;
use crate::error::CpuError;
use crate::mat;
use crate::memory::Buffer;
use crate::par::Tiles;

impl Cpu {
    pub(crate) fn sample(&self, call: Sample<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = Sample::<Buffer>::NAME;
        let (logits, rules) = (mat::read::<f32>(OP, &call.logits)?, mat::read::<u32>(OP, &call.rules)?);
        let tokens = mat::write::<u32>(OP, call.tokens)?;
        self.for_each(logits.rows() * logits.cols(), Tiles::new(tokens, 1, 1), |_, mut tokens| {
            tokens.for_rows(|r, token| {
                let rule = rules.row(r).first_chunk().map_or(Rule::GREEDY, |words| Rule::from_words(*words));
                token[0] = rule.choose(logits.row(r)).unwrap_or(NO_TOKEN);
            });
        });
        Ok(())
    }
}
