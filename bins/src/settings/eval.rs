//! `eval.*`: benchmark tasks during training.

use std::path::Path;

use toml::Value;

use super::SettingsError;
use super::reader::Reader;

/// `eval.*`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eval {
    /// Names of tasks, or task files.
    pub tasks: Vec<String>,
    /// Steps between measurements; 0 measures at the end only.
    pub every_steps: u64,
    /// Folders of data, and `TASK=FILE`.
    pub task_data: Vec<String>,
    /// `TASK=FILE` of few-shot examples.
    pub fewshot_data: Vec<String>,
    /// Examples before each item; the tasks' own numbers where this is `None`.
    pub num_fewshot: Option<usize>,
    /// Items of each task; 0 for all.
    pub limit: usize,
    /// Whether programs that the model writes are run.
    pub confirm_run_unsafe_code: bool,
}

impl Eval {
    /// `every` is the number of steps between checkpoints.
    pub(super) fn read(reader: &mut Reader<'_>, every: u64) -> Result<Self, SettingsError> {
        let eval = Eval {
            tasks: names(&reader.list("eval.tasks")),
            every_steps: reader.count_or("eval.every_steps", every),
            task_data: reader.list("eval.task_data"),
            fewshot_data: reader.list("eval.fewshot_data"),
            num_fewshot: reader.optional_count("eval.num_fewshot").map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            limit: usize::try_from(reader.count("eval.limit")).unwrap_or(usize::MAX),
            confirm_run_unsafe_code: reader.flag("eval.confirm_run_unsafe_code"),
        };
        if let Some(wrong) = eval.fewshot_data.iter().find(|value| !value.contains('=')) {
            return Err(reader.reject("eval.fewshot_data", format!("is {wrong:?}: it must be TASK=FILE")));
        }
        Ok(eval)
    }

    /// Whether tasks are measured after step `step` of `steps`.
    pub fn due(&self, step: u64, steps: u64) -> bool {
        let regular = self.every_steps > 0 && step.is_multiple_of(self.every_steps);
        !self.tasks.is_empty() && step > 0 && (regular || step == steps)
    }

    /// Keys of lists with paths, and each list with its paths made absolute.
    pub(super) fn absolute(&self, absolute: &dyn Fn(&Path) -> String) -> [(&'static str, Value); 3] {
        let task = |name: &String| match name.ends_with(".toml") {
            true => absolute(Path::new(name)),
            false => name.clone(),
        };
        let file = |value: &String| match assignment(value) {
            Some((task, file)) => format!("{task}={}", absolute(Path::new(file))),
            None => absolute(Path::new(value)),
        };
        let list = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
        [
            ("eval.tasks", list(self.tasks.iter().map(task).collect())),
            ("eval.task_data", list(self.task_data.iter().map(file).collect())),
            ("eval.fewshot_data", list(self.fewshot_data.iter().map(file).collect())),
        ]
    }
}

/// The names in texts that hold one or several, with commas between them.
pub fn names<T: AsRef<str>>(texts: &[T]) -> Vec<String> {
    let names = texts.iter().flat_map(|text| text.as_ref().split(',').map(str::trim));
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The task and the file of `TASK=FILE`, unless it is the name of something that exists.
pub fn assignment(value: &str) -> Option<(&str, &str)> {
    value.split_once('=').filter(|_| !Path::new(value).exists())
}
