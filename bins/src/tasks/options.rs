//! Options of a measurement: tasks, data, examples and limits.

use std::path::PathBuf;

use super::data::Places;
use super::metric::BOOTSTRAP;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of tasks, groups and members, or task files.
    pub tasks: Vec<String>,
    /// Where data is.
    pub places: Places,
    /// Examples before each item; the tasks' own numbers where this is `None`.
    pub shots: Option<usize>,
    /// Items of each task; 0 for all.
    pub limit: usize,
    /// Folder for `results.json` and the answers; a run that was killed goes on from it.
    pub output: Option<PathBuf>,
    /// Whether programs that the model writes are run.
    pub unsafe_code: bool,
    /// Resamples for the standard errors of perplexities.
    pub resamples: usize,
    /// What matrices are stored in, for the record.
    pub weights: String,
    /// Whether the weights are the moving average that training kept.
    pub average: bool,
    /// Whether the load of experts is counted. With `output` it is kept there, beside the answers.
    pub count_load: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            places: Places::default(),
            shots: None,
            limit: 0,
            output: None,
            unsafe_code: false,
            resamples: BOOTSTRAP,
            weights: "stored".into(),
            average: false,
            count_load: false,
        }
    }
}
