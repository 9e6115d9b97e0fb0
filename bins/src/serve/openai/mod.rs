//! OpenAI's requests and answers: what clients send, and what they read.
//!
//! | module | content |
//! |---|---|
//! | [`fields`] | the fields of a body, one by one |
//! | [`params`] | sampling parameters and everything else that both kinds of requests share |
//! | [`mod@format`] | what an answer must be: JSON, of a schema, or matched by an expression |
//! | [`completions`], [`chat`] | the two kinds of requests |
//! | [`choices`] | the state of the answers while their tokens come |
//! | [`answer`] | the JSON of answers, whole and in pieces |
//! | [`think`] | reasoning and answer, told apart |

pub mod answer;
pub mod chat;
pub mod choices;
pub mod completions;
pub mod fields;
pub mod format;
pub mod params;
pub mod think;
