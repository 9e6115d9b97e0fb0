//! A listener to a run, and the events that it is told of.

use super::metrics::StepMetrics;
use crate::evaluate::Evaluated;

/// An event of a run, for its [`Observer`].
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step was taken and recorded in `metrics.jsonl`.
    Step(&'a StepMetrics),
    /// The newest line of `metrics.jsonl` was completed: an earlier session was stopped while it measured tasks.
    Completed(&'a StepMetrics),
    /// A checkpoint is due; it was written, or its failure reported.
    Saved,
    /// The run ended, with the loss of the whole validation set if it was measured.
    Finished(Option<&'a Evaluated>),
}

/// A listener to a run that writes its reports. It cannot end the run.
pub trait Observer {
    /// Takes an event. Returns messages for the user.
    fn observe(&mut self, event: Event<'_>) -> Vec<String>;
}

impl Observer for () {
    fn observe(&mut self, _: Event<'_>) -> Vec<String> {
        Vec::new()
    }
}
