//! The call that chooses tokens.

use super::{Call, Cost, bytes_of, bytes_of_mut, is_index};
use crate::device::view::{MatMut, MatRef};
use crate::dtype::DType;
use crate::error::{InvalidOp, at_most, ensure, same};
use crate::sampling::{MOST_TOKENS, Rule};

/// The token that [`Sample`] gives for a row of logits of which one is NaN or infinite.
pub const NO_TOKEN: u32 = u32::MAX;

/// Chooses a token by every row of logits, as [`Rule::choose`] does: the same token on every device.
#[non_exhaustive]
pub struct Sample<'a, B> {
    /// `[t, v]` in F32.
    pub logits: MatRef<'a, B>,
    /// `[t, 8]` u32: [`Rule::words`] of each row. Any numbers are a rule.
    pub rules: MatRef<'a, B>,
    /// `[t, 1]` u32: tokens, [`NO_TOKEN`] where a logit is not finite.
    pub tokens: MatMut<'a, B>,
}

impl<'a, B> Sample<'a, B> {
    /// A token for every row.
    ///
    /// # Errors
    /// Operands of other types or shapes, a vocabulary without tokens or with more than [`MOST_TOKENS`].
    pub fn new(logits: MatRef<'a, B>, rules: MatRef<'a, B>, tokens: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "sample";
        ensure(OP, "logits must be F32", logits.dtype() == DType::F32)?;
        is_index(OP, &rules)?;
        is_index(OP, &tokens.as_ref())?;
        same(OP, "rows of the rules", logits.rows(), rules.rows())?;
        same(OP, "columns of the rules", Rule::WORDS, rules.cols())?;
        same(OP, "rows of the tokens", logits.rows(), tokens.rows())?;
        same(OP, "columns of the tokens", 1, tokens.cols())?;
        ensure(OP, "a vocabulary needs a token", logits.cols() > 0)?;
        at_most(OP, "the number of logits of a row", logits.cols(), "the largest vocabulary,", MOST_TOKENS)?;
        Ok(Self { logits, rules, tokens })
    }
}

impl<B> Call for Sample<'_, B> {
    const NAME: &'static str = "sample";
    fn cost(&self) -> Cost {
        let bytes = bytes_of(&self.logits) + bytes_of(&self.rules) + bytes_of_mut(&self.tokens);
        Cost::new(2 * self.logits.elements() as u64, bytes)
    }
}
