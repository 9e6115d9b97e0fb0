//! The load of experts beside a task's answers: `load_TASK.json`, so that a call that finds answers finds their load.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fathom_dataprep::durable;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::infer::Load;

/// The load of experts over the prompts and answers of some items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The items, by their places in the file.
    pub items: BTreeSet<usize>,
    /// Their tokens. What several items begin with alike counts once, as it is computed once.
    pub load: Load,
}

impl Counted {
    /// Adds the load of further items. Items that were computed again since replace everything.
    fn add(&mut self, later: Self) {
        if later.items.is_disjoint(&self.items) {
            self.items.extend(later.items);
            self.load.add(&later.load);
        } else {
            *self = later;
        }
    }
}

/// The file as it is written.
#[derive(Serialize, Deserialize)]
struct File {
    /// As in the file of answers.
    run: String,
    counted: Counted,
}

fn path(folder: &Path, task: &str) -> PathBuf {
    folder.join(format!("load_{task}.json"))
}

/// Adds what was counted to the file of a task in `folder`, and gives all of it. A file of another checkpoint, task or
/// data is replaced.
///
/// # Errors
/// [`Error::Io`]; a file that is none of this kind.
pub fn keep(folder: &Path, task: &str, run: &str, counted: Counted) -> Result<Counted> {
    let path = path(folder, task);
    let mut all = Counted::default();
    if path.is_file() {
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let bad = |e| Error::Run(format!("{}: no load of experts ({e}): remove the file", path.display()));
        let file: File = serde_json::from_str(&text).map_err(bad)?;
        if file.run == run {
            all = file.counted;
        }
    }
    if counted.items.is_empty() {
        return Ok(all);
    }
    all.add(counted);
    let text = serde_json::to_string(&File { run: run.into(), counted: all.clone() });
    let text = text.map_err(|e| Error::Run(e.to_string()))?;
    durable::replace(&durable::DISK, &path, (text + "\n").as_bytes()).map_err(Error::io("write", &path))?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(items: &[usize], tokens: u64) -> Counted {
        let load = Load { tokens, layers: [(3, vec![tokens, 0])].into() };
        Counted { items: items.iter().copied().collect(), load }
    }

    #[test]
    fn the_load_of_earlier_items_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let keep = |run: &str, counted: Counted| keep(folder.path(), "x", run, counted).unwrap();
        assert_eq!(keep("r", counted(&[0, 2], 10)), counted(&[0, 2], 10));
        assert_eq!(keep("r", counted(&[1], 5)), counted(&[0, 1, 2], 15), "further items are added");
        assert_eq!(keep("r", Counted::default()), counted(&[0, 1, 2], 15), "nothing is computed, and all is known");
        assert_eq!(keep("r", counted(&[2, 3], 7)), counted(&[2, 3], 7), "no item counts twice");
        assert_eq!(keep("other", counted(&[9], 1)), counted(&[9], 1));
        std::fs::write(path(folder.path(), "x"), "{}").unwrap();
        let error = super::keep(folder.path(), "x", "r", counted(&[0], 1)).unwrap_err().to_string();
        assert!(error.contains("load_x.json") && error.contains("remove the file"), "{error}");
    }
}
