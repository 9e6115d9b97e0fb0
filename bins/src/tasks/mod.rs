//! Benchmark tasks: items of a data set as requests to a model, and the metrics of its answers, with the numbers of
//! lm-evaluation-harness.
//!
//! | module | content |
//! |---|---|
//! | [`task`], [`kind`], [`builtin`] | task files, and those that the program carries |
//! | [`template`] | the templates of a task over the fields of an item |
//! | [`data`] | files of items, found and read |
//! | [`random`] | Python's random numbers, which choose the examples |
//! | [`question`] | examples and items as contexts and continuations |
//! | [`compute`] | all requests through the engine, what begins alike together |
//! | [`answer`] | filters of generated text, and the comparison with the target |
//! | [`metric`] | metrics and standard errors |
//! | [`calibration`], [`detail`] | what a report shows beside them |
//! | [`samples`] | the file of answers, item by item, from which a killed run goes on |
//! | [`load`] | the load of experts beside them |
//! | [`results`] | results as a table and as JSON |
//! | [`sandbox`] | programs that a model wrote, run with limits |
//! | [`options`] | tasks, data, examples and limits of a measurement |
//! | [`suite`] | all tasks with their requests, checked, and measured |
//! | [`judge`] | answers judged, and metrics over all items |
//! | [`wording`] | how messages name what the user wrote |
//! | [`mod@run`] | the tasks of a loaded model, from options to results |

pub mod answer;
pub mod builtin;
pub mod calibration;
pub mod compute;
pub mod data;
pub mod detail;
pub mod judge;
pub mod kind;
pub mod load;
pub mod metric;
pub mod options;
pub mod question;
pub mod random;
pub mod results;
pub mod run;
pub mod samples;
pub mod sandbox;
pub mod suite;
pub mod task;
pub mod template;
pub mod wording;

pub use kind::Kind;
pub use options::Options;
pub use run::run;
pub use suite::Suite;
pub use task::Task;
pub use wording::Wording;
