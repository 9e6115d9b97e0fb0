//! Files of items: where they are, and what is in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fathom_dataprep::read::{Item, ItemFile};

use super::task::Task;
use super::wording::Wording;
use crate::checkpoint::hash_file;
use crate::error::{Error, Result};
use crate::settings::assignment;

/// Suffixes of files that are called like their task.
const SUFFIXES: [&str; 7] = ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet", "txt"];

/// Where the user says that data is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Folders in which files are looked for.
    pub folders: Vec<PathBuf>,
    /// Files of tasks by name.
    pub files: BTreeMap<String, PathBuf>,
    /// Files of few-shot examples by the task's name.
    pub examples: BTreeMap<String, PathBuf>,
    /// How messages name the options that these came from.
    pub wording: Wording,
}

impl Places {
    /// Reads the values of `--task-data` (a folder, or `TASK=FILE`) and of `--fewshot-data` (`TASK=FILE`).
    ///
    /// # Errors
    /// A folder that is not there; an example file without a task.
    pub fn new(data: &[String], examples: &[String], wording: Wording) -> Result<Self> {
        let mut places = Self { wording, ..Self::default() };
        for value in data {
            match assignment(value) {
                Some((task, file)) => drop(places.files.insert(task.into(), file.into())),
                None if Path::new(value).is_dir() => places.folders.push(value.into()),
                None => {
                    let given = wording.given("task-data", value);
                    return Err(Error::Usage(format!("{given}: is no folder; name one, or TASK=FILE")));
                }
            }
        }
        for value in examples {
            let Some((task, file)) = value.split_once('=') else {
                return Err(Error::Usage(format!("{}: must be TASK=FILE", wording.given("fewshot-data", value))));
            };
            places.examples.insert(task.into(), file.into());
        }
        Ok(places)
    }

    /// Checks that every file that is named belongs to one of the `tasks` that are measured.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self, tasks: &[String]) -> Result<()> {
        for (option, files) in [("task-data", &self.files), ("fewshot-data", &self.examples)] {
            if let Some((name, file)) = files.iter().find(|(name, _)| !tasks.contains(name)) {
                let given = self.wording.given(option, &format!("{name}={}", file.display()));
                let near = tasks.iter().min_by_key(|task| strsim::damerau_levenshtein(task, name));
                let near = near.map_or("", String::as_str);
                let problem = match tasks {
                    [one] => format!("the task that is measured is {one}"),
                    _ => format!("of those that are measured the nearest is {near}"),
                };
                return Err(Error::Usage(format!("{given}: no task {name} is measured; {problem}")));
            }
        }
        Ok(())
    }

    /// The file of a task's items; `None` where there is none.
    ///
    /// # Errors
    /// A file that is named and does not exist.
    pub fn items(&self, task: &Task, member: &str) -> Result<Option<PathBuf>> {
        let name = task.member_name(member);
        named(&self.files, &name).map(|found| found.or_else(|| self.find(&task.data, member, &name)))
    }

    /// The file of a task's examples; `None` where they come from the items.
    ///
    /// # Errors
    /// As [`items`](Self::items); a task whose examples have files of which there is none.
    pub fn examples(&self, task: &Task, member: &str) -> Result<Option<PathBuf>> {
        let name = task.member_name(member);
        if let Some(file) = named(&self.examples, &name)? {
            return Ok(Some(file));
        }
        if task.fewshot.data.is_empty() {
            return Ok(None);
        }
        let found = self.find(&task.fewshot.data, member, "");
        found.map(Some).ok_or_else(|| {
            let looked = looked_for(&task.fewshot.data, member);
            let give = self.wording.given("fewshot-data", &format!("{name}=FILE"));
            Error::Usage(format!("{name}: no file of examples; looked for {looked}; give {give}"))
        })
    }

    /// What is said where a task has no file.
    pub fn missing(&self, task: &Task, member: &str) -> Error {
        let name = task.member_name(member);
        let looked = looked_for(&task.data, member);
        let give = self.wording.given("task-data", &format!("{name}=FILE"));
        Error::Usage(match self.folders.is_empty() {
            true => {
                let folder = self.wording.given("task-data", "FOLDER");
                format!("{name}: no data; give {folder} with {looked}, or {give}")
            }
            false => format!("{name}: no file of items; looked for {looked}; give {give}"),
        })
    }

    fn find(&self, names: &[String], member: &str, own: &str) -> Option<PathBuf> {
        let own = SUFFIXES.iter().filter(|_| !own.is_empty()).map(|suffix| format!("{own}.{suffix}"));
        let names: Vec<String> = names.iter().map(|name| name.replace("{member}", member)).chain(own).collect();
        let exists = |path: &PathBuf| path.is_file();
        self.folders.iter().find_map(|folder| {
            names.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]).find(exists)
        })
    }
}

fn named(files: &BTreeMap<String, PathBuf>, name: &str) -> Result<Option<PathBuf>> {
    match files.get(name) {
        Some(file) if !file.is_file() => Err(Error::Usage(format!("{name}: there is no file {}", file.display()))),
        found => Ok(found.cloned()),
    }
}

fn looked_for(names: &[String], member: &str) -> String {
    names.iter().map(|name| name.replace("{member}", member)).collect::<Vec<_>>().join(", ")
}

/// The items of a file.
#[derive(Debug)]
pub struct Pool {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file's bytes, in hexadecimal.
    pub hash: String,
    /// The items in order.
    pub items: Vec<Item>,
    file: ItemFile,
}

impl Pool {
    /// Reads a file. Every item gets the field `member` if it is not empty.
    ///
    /// # Errors
    /// A file that cannot be read, has no items, or has a bad one: [`Error::Line`].
    pub fn read(path: &Path, task: &Task, member: &str) -> Result<Self> {
        let file = ItemFile::open(path)?;
        let hash = hash_file(path).map_err(Error::io("read", path))?;
        let items = file.items(task.columns.as_deref())?;
        let mut pool = Self { path: path.into(), hash, items: Vec::new(), file };
        pool.items = items.map_err(|bad| pool.line(bad.at, bad.why))?;
        if pool.items.is_empty() {
            return Err(Error::Run(format!("{} has no items", path.display())));
        }
        if !member.is_empty() {
            pool.items.iter_mut().for_each(|item| drop(item.fields.insert("member".into(), member.into())));
        }
        Ok(pool)
    }

    /// An error at an item, by its file and line.
    pub fn error(&self, item: usize, problem: String) -> Error {
        self.line(self.items.get(item).map_or(0, |item| item.at), problem)
    }

    fn line(&self, at: u64, problem: String) -> Error {
        match self.file.line(at) {
            Ok(line) => Error::Line { path: self.path.clone(), line, problem },
            Err(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_the_names_that_a_task_has() {
        let folder = tempfile::tempdir().unwrap();
        let source = "name = 'x'\nkind = 'text'\ndata = ['{member}/a.jsonl']\nprompt = 'p'\ntarget = 't'\n\
                      metrics = ['acc']\nfewshot = { data = ['b.csv'] }\nmembers = { g = ['m'] }";
        let task = Task::parse(source).unwrap();
        let places = Places::new(&[folder.path().display().to_string()], &[], Wording::Options).unwrap();
        assert_eq!(places.items(&task, "m").unwrap(), None);
        let text = places.missing(&task, "m").to_string();
        assert!(text.contains("m/a.jsonl") && text.contains("--task-data x_m=FILE"), "{text}");
        assert!(places.examples(&task, "m").unwrap_err().to_string().contains("--fewshot-data x_m=FILE"));
        for name in ["x_m.csv", "b.csv", "m/a.jsonl.gz", "m/a.jsonl"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            if name != "b.csv" {
                assert_eq!(places.items(&task, "m").unwrap(), Some(path), "the names that come first count");
            }
        }
        assert!(places.examples(&task, "m").unwrap().unwrap().ends_with("b.csv"));
        let named = Places::new(&["x_m=no".into()], &["x_m=no".into()], Wording::Options).unwrap();
        assert!(named.items(&task, "m").unwrap_err().to_string().contains("no file no"));
        assert!(Places::new(&[], &["x".into()], Wording::Options).is_err());
        let given = Places::new(&["x_n=no".into()], &[], Wording::Options).unwrap();
        let error = given.check(&["x_m".into(), "y".into()]).unwrap_err().to_string();
        assert_eq!(error, "--task-data x_n=no: no task x_n is measured; of those that are measured the nearest is x_m");
        named.check(&["x_m".into()]).unwrap();
        let empty = Pool::read(&folder.path().join("x_m.csv"), &task, "m").unwrap_err().to_string();
        assert!(empty.contains("has no items"), "{empty}");
    }
}
