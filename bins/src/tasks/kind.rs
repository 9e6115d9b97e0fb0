//! Kinds of tasks.

use serde::Deserialize;

/// What a task asks of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The most probable of several choices: `prompt` and `choices`, or `contexts` and `continuation`.
    Choice,
    /// The probability of one continuation: `prompt` and `target`.
    Text,
    /// The probability of a whole text, in windows: `text`.
    Rolling,
    /// Generated text: `prompt` and `target`, or `prompt` and `program`.
    Generate,
}
