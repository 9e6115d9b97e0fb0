//! Inference: from requests to tokens and text.
//!
//! | module | content |
//! |---|---|
//! | [`engine`] | the one way to a model's output: many requests at a time, each step some tokens of them |
//! | [`scheduler`] | which tokens the next step computes, and in which pages of the cache |
//! | [`sampling`], [`distribution`] | sampling parameters, and the samplers |
//! | [`constraint`] | languages that an output must belong to |
//! | [`speculate`] | drafts of the MTP module, accepted or replaced |
//! | [`stop`], [`stream`] | stop strings, and text as it comes |
//! | [`chat`] | chat templates |
//! | [`request`], [`lines`] | requests and results, and their form in files |
//! | [`mod@single`] | one request on its own engine |
//! | [`mod@score`] | log-probabilities of given tokens through the cache |

pub mod chat;
pub mod constraint;
pub mod distribution;
pub mod engine;
pub mod lines;
pub mod request;
pub mod sampling;
pub mod scheduler;
pub mod score;
pub mod single;
pub mod speculate;
pub mod stop;
pub mod stream;

pub use chat::{ChatTemplate, Conversation, Json};
pub use constraint::{Constraint, Follower};
pub use distribution::{Distribution, Logprobs};
pub use engine::{Engine, EngineOptions, Event, Load, Occupancy, Stats};
pub use request::{EndToken, Generated, Request, ScoreRequest, Scores, Stop};
pub use sampling::{Draw, History, InvalidSampling, ORDER, Sampling};
pub use stop::StopSearch;

use crate::error::{Error, Result};

/// Refuses numbers of the model that are NaN or infinite: nothing can be chosen or measured by them.
pub(crate) fn check_finite(values: &[f32], what: &str) -> Result<()> {
    let Some(at) = values.iter().position(|x| !x.is_finite()) else { return Ok(()) };
    Err(Error::NotFinite(format!(
        "{what} of the model are not finite ({} at position {at}): its weights have diverged or are damaged; take an \
         earlier checkpoint",
        values[at]
    )))
}
