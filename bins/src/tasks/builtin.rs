//! The tasks that the program carries.

use std::path::Path;

use super::task::Task;
use super::wording::Wording;
use crate::error::{Error, Result};

/// Task files by name, in the order of lists.
pub const TASKS: [(&str, &str); 12] = [
    ("arc_challenge", include_str!("../../tasks/arc_challenge.toml")),
    ("arc_easy", include_str!("../../tasks/arc_easy.toml")),
    ("boolq", include_str!("../../tasks/boolq.toml")),
    ("gsm8k", include_str!("../../tasks/gsm8k.toml")),
    ("hellaswag", include_str!("../../tasks/hellaswag.toml")),
    ("humaneval", include_str!("../../tasks/humaneval.toml")),
    ("lambada_openai", include_str!("../../tasks/lambada_openai.toml")),
    ("mmlu", include_str!("../../tasks/mmlu.toml")),
    ("openbookqa", include_str!("../../tasks/openbookqa.toml")),
    ("piqa", include_str!("../../tasks/piqa.toml")),
    ("wikitext", include_str!("../../tasks/wikitext.toml")),
    ("winogrande", include_str!("../../tasks/winogrande.toml")),
];

/// The task of a name, and the members that the name asks for: all of a family, a group (`mmlu_stem`) or one
/// (`mmlu_philosophy`). A name that ends with `.toml` is a file.
///
/// # Errors
/// A name that is unknown; those of [`Task::load`].
pub fn find(name: &str, wording: Wording) -> Result<(Task, Vec<String>)> {
    if name.ends_with(".toml") {
        let task = Task::load(Path::new(name))?;
        let members = members(&task, "").unwrap_or_default();
        return Ok((task, members));
    }
    for (family, source) in TASKS {
        let Some(rest) = name.strip_prefix(family) else { continue };
        let rest = match rest.strip_prefix('_') {
            Some("") => continue,
            Some(rest) => rest,
            None if rest.is_empty() => "",
            None => continue,
        };
        let task = Task::parse(source).map_err(|e| Error::Run(format!("the built-in task {family}: {e}")))?;
        if let Some(members) = members(&task, rest) {
            return Ok((task, members));
        }
    }
    let names: Vec<&str> = TASKS.iter().map(|(name, _)| *name).collect();
    Err(Error::Usage(format!(
        "{} {name}: no such task; there are {}, members and groups of mmlu such as mmlu_philosophy and mmlu_stem, \
         and files of yours that end with .toml",
        wording.name("tasks"),
        names.join(", ")
    )))
}

/// The members that `rest` asks for; one without a name for a task of one.
fn members(task: &Task, rest: &str) -> Option<Vec<String>> {
    if rest.is_empty() {
        let all: Vec<String> = task.members.values().flatten().cloned().collect();
        return Some(if all.is_empty() { vec![String::new()] } else { all });
    }
    let one = || task.members.values().flatten().find(|member| *member == rest).map(|member| vec![member.clone()]);
    task.members.get(rest).cloned().or_else(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_that_is_carried_can_be_read() {
        for (name, _) in TASKS {
            let (task, members) = find(name, Wording::Options).unwrap();
            assert_eq!(task.name, name);
            assert_eq!(members.len(), if name == "mmlu" { 57 } else { 1 });
        }
        assert_eq!(find("mmlu_philosophy", Wording::Options).unwrap().1, ["philosophy"]);
        assert_eq!(find("mmlu_stem", Wording::Options).unwrap().1.len(), 19);
        for name in ["", "mmlu_", "mmlu_magic", "arc", "arc_easy_", "arc_easy_x", "no/such.toml"] {
            assert!(find(name, Wording::Options).is_err(), "{name}");
        }
    }
}
