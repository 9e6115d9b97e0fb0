//! Languages that an output must belong to, such as the JSON texts of a schema, followed token by token.
//!
//! The engine asks before each token which ones may come next, and gives all others the logit −∞ before any sampler
//! sees them. Log-probabilities are still those of the raw logits.

use std::fmt;

use crate::error::Result;

/// A language that an output must belong to.
pub trait Constraint: fmt::Debug + Send + Sync {
    /// The state before the first token of an output.
    ///
    /// # Errors
    /// A language that cannot be followed.
    fn begin(&self) -> Result<Box<dyn Follower>>;
}

/// The state of an output within its language.
pub trait Follower: Send {
    /// Gives the logit −∞ to every token that may not come next. At least one is left; a token that ends texts only
    /// where the output may end.
    ///
    /// # Errors
    /// A language that cannot be followed further: it is too complex at this place.
    fn mask(&mut self, logits: &mut [f32]) -> Result<()>;

    /// Takes a token that [`mask`](Self::mask) left.
    ///
    /// # Errors
    /// Those of [`mask`](Self::mask); a token that may not come.
    fn push(&mut self, token: u32) -> Result<()>;

    /// A copy, to look ahead: what fails for it does not fail for this one.
    fn fork(&self) -> Box<dyn Follower>;

    /// Whether the output belongs to the language and no further token may come.
    fn complete(&self) -> bool;
}
