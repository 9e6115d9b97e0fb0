//! How messages name what the user wrote.

/// The words in which messages name what the user wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wording {
    /// Options of `eval`: `--task-data`.
    #[default]
    Options,
    /// Settings of `train`: `eval.task_data`.
    Settings,
}

impl Wording {
    /// An option by its name without dashes before it.
    pub fn name(self, option: &str) -> String {
        match self {
            Self::Options => format!("--{option}"),
            Self::Settings => format!("eval.{}", option.replace('-', "_")),
        }
    }

    /// How a value of an option is given.
    pub fn given(self, option: &str, value: &str) -> String {
        match self {
            Self::Options => format!("{} {value}", self.name(option)),
            Self::Settings => format!("{}=[\"{value}\"]", self.name(option)),
        }
    }

    /// How an option without value is given.
    pub fn switch(self, option: &str) -> String {
        match self {
            Self::Options => self.name(option),
            Self::Settings => format!("{}=true", self.name(option)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_thing_has_a_name_in_each_program() {
        assert_eq!(Wording::Options.given("task-data", "FOLDER"), "--task-data FOLDER");
        assert_eq!(Wording::Settings.given("task-data", "FOLDER"), "eval.task_data=[\"FOLDER\"]");
    }
}
