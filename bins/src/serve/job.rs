//! The work of a request for the engine, and the news that come back.

use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::infer::{EndToken, Logprobs, Request, ScoreRequest, Scores, Stop};

/// Number of a job, in order of arrival.
pub type JobId = u64;

/// A request's work for the engine.
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// The prompts whose own tokens are scored, by the prompt's number. Their choices begin when that is done, so that
    /// they find the prompt in the cache.
    pub scores: Vec<(usize, ScoreRequest)>,
    /// The most probable tokens to report for each scored one.
    pub top: usize,
    /// The choices, each with the number of its prompt and its own.
    pub choices: Vec<(usize, usize, Request)>,
    /// Where the news go. A job whose receiver is gone is cancelled.
    pub news: mpsc::Sender<News>,
    /// When the request came.
    pub arrived: Instant,
    /// When it is given up.
    pub deadline: Instant,
    /// Its places among the sequences that the server takes, until all are computed.
    pub places: Option<OwnedSemaphorePermit>,
}

/// A command to the thread that owns the engine.
pub enum Command {
    /// Starts a job.
    Start(Box<Job>),
    /// Gives a job up: nobody waits for it.
    Cancel(JobId),
    /// Finishes what runs, and ends.
    Stop,
}

/// News of a job.
#[derive(Debug)]
pub enum News {
    /// A prompt's own tokens are scored.
    Scored {
        /// The prompt.
        prompt: usize,
        /// The scores of all its tokens but the first.
        scores: Scores,
    },
    /// A choice has another token.
    Token {
        /// The choice.
        choice: usize,
        /// The token.
        token: u32,
        /// Text that can be shown now.
        text: String,
        /// Its log-probabilities, if they were asked for.
        logprobs: Option<Logprobs>,
    },
    /// A choice is complete.
    Finished {
        /// The choice.
        choice: usize,
        /// Text that was held back until now.
        text: String,
        /// The token that ended it.
        end: Option<EndToken>,
        /// Why it stopped.
        stop: Stop,
        /// Tokens of the prompt that were found in the cache.
        reused: usize,
    },
    /// The job ends here.
    Ended(Ended),
}

/// Why a job ended before it was complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its time was up.
    Deadline,
    /// The server stops.
    Stopping,
    /// The form that its answer must have cannot be followed.
    Constraint(String),
    /// The engine failed.
    Failed(String),
}
