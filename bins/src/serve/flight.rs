//! An answer on its way: the news of its job become changes of its choices.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::error::ApiError;
use super::job::{Command, JobId, News};
use super::log;
use super::openai::answer::{Head, Shape};
use super::openai::choices::{Choices, Delta, Vocabulary};

/// News that wait for the writer of an answer of few choices, at most; more wait with the engine's thread.
pub(super) const CHANNEL: usize = 64;

/// A job that runs, from the side of its request. Where it is dropped before its end, the job is cancelled.
pub(super) struct Flight {
    /// Its number.
    pub id: JobId,
    /// Its news.
    pub news: mpsc::Receiver<News>,
    /// Where it is cancelled.
    pub commands: std::sync::mpsc::Sender<Command>,
    /// The choices.
    pub choices: Choices,
    /// What every piece repeats.
    pub head: Head,
    /// Names of tokens.
    pub vocabulary: Arc<Vocabulary>,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
    /// Whether usage was asked for at the end of a stream.
    pub usage: bool,
    /// The line of the log.
    pub log: Log,
    /// Whether the engine is done with it.
    pub over: bool,
    /// Why the job ended, while what came before is written.
    pub failure: Option<ApiError>,
}

/// What the log says of an answer at its end.
pub(super) struct Log {
    /// Route and client.
    pub what: String,
    /// When the request came.
    pub arrived: Instant,
    /// The prompt, if prompts are logged, and the answer so far.
    pub texts: Option<(String, String)>,
}

impl Flight {
    /// How its answer is written.
    pub fn shape(&self) -> Shape<'_> {
        let (logprobs, usage) = (self.logprobs, self.usage);
        Shape { head: &self.head, vocabulary: &self.vocabulary, logprobs, usage }
    }

    /// What is there before any news.
    pub fn begin(&mut self) -> Vec<Delta> {
        self.choices.begin(&self.vocabulary)
    }

    /// Waits for news, and gives what they change.
    ///
    /// # Errors
    /// The reason for which the job ended.
    pub async fn news(&mut self) -> Result<Vec<Delta>, ApiError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let Some(first) = self.news.recv().await else {
            return Err(ApiError::unavailable("cancelled", "the answer was not read in time", None));
        };
        let mut deltas = self.apply(first)?;
        // News of one step are one write.
        while let Ok(news) = self.news.try_recv() {
            match self.apply(news) {
                Ok(more) => deltas.extend(more),
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            }
        }
        Ok(deltas)
    }

    fn apply(&mut self, news: News) -> Result<Vec<Delta>, ApiError> {
        let deltas = self.choices.apply(news, &self.vocabulary)?;
        if let Some((_, answer)) = &mut self.log.texts {
            deltas.iter().for_each(|delta| answer.extend([delta.reasoning.as_str(), delta.text.as_str()]));
        }
        Ok(deltas)
    }

    /// Notes that the answer is complete.
    pub fn complete(&mut self) {
        self.over = true;
        self.write("200");
    }

    /// Notes that the job failed.
    pub fn failed(&mut self, error: &ApiError) {
        self.over = true;
        self.write(error.code.unwrap_or("error"));
    }

    fn write(&self, result: &str) {
        let (usage, seconds) = (self.choices.usage(), self.log.arrived.elapsed().as_secs_f64());
        log(format_args!(
            "{} {result}: {} prompt tokens ({} cached), {} generated, {seconds:.2} s",
            self.log.what, usage.prompt, usage.cached, usage.completion
        ));
        if let Some((prompt, answer)) = &self.log.texts {
            log(format_args!("  prompt {prompt:?}\n  answer {answer:?}"));
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.over {
            // The engine may be gone already.
            let _ = self.commands.send(Command::Cancel(self.id));
            self.write("gone");
        }
    }
}
