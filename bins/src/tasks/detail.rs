//! Details of a task for a report: examples, calibration, chance, and the load of experts.

use super::calibration::Confidence;
use super::load::Counted;
use super::question::{Asked, Question};
use super::samples::Response;

/// Examples of right answers, and of wrong ones, that are kept of a task: the first of its file.
pub const EXAMPLES: usize = 3;

/// An item with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// What was asked.
    pub question: Question,
    /// What the model answered.
    pub response: Response,
    /// The answers in generated text, by the name of the filter that found them.
    pub answers: Vec<(String, Vec<String>)>,
    /// Whether it is right; `None` where the task has no metric that says so.
    pub right: Option<bool>,
}

/// Everything of a task that its metrics do not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The family that it is a member of, or its own name.
    pub family: String,
    /// The accuracy of blind choice: the mean over items of one over the number of choices.
    pub chance: Option<f64>,
    /// The chosen answers of items with choices.
    pub confidences: Vec<Confidence>,
    /// The metric that says which answers are right.
    pub judge: Option<String>,
    /// The first [`EXAMPLES`] right answers and the first wrong ones.
    pub examples: Vec<Example>,
    /// The load of experts, if it was counted.
    pub load: Option<Counted>,
}

impl Details {
    /// Adds the next item with its answer; `right` where the task has a judge, `answers` as in [`Example`].
    pub fn add(
        &mut self,
        question: &Question,
        response: &Response,
        right: Option<bool>,
        answers: impl FnOnce() -> Vec<(String, Vec<String>)>,
    ) {
        if let (Asked::Choice { gold, .. }, Response::Scores(scores)) = (&question.asked, response) {
            let logs: Vec<f64> = scores.iter().map(|(log, _)| *log).collect();
            self.confidences.extend(Confidence::of(&logs, *gold));
        }
        if self.examples.iter().filter(|known| known.right == right).count() < EXAMPLES {
            let (question, response) = (question.clone(), response.clone());
            self.examples.push(Example { question, response, answers: answers(), right });
        }
    }
}

/// The accuracy of blind choice; `None` for questions without choices.
pub fn chance(questions: &[Question]) -> Option<f64> {
    let one = |question: &Question| match &question.asked {
        Asked::Choice { choices, .. } => Some(1.0 / choices.len() as f64),
        _ => None,
    };
    let all: Vec<f64> = questions.iter().map(one).collect::<Option<_>>()?;
    (!all.is_empty()).then(|| super::metric::mean(&all))
}
