//! The file of a task's answers, item by item: `samples_TASK.jsonl`, in the harness's layout. A run that was killed
//! goes on from it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use fathom_dataprep::durable;
use serde_json::{Value as Json, json};

use crate::error::{Error, Result};

/// What the model answered to an item.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Log-likelihood of each continuation, and whether it is greedy.
    Scores(Vec<(f64, bool)>),
    /// Log-likelihood of a whole text.
    Rolling(f64),
    /// Generated texts.
    Texts(Vec<String>),
}

impl Response {
    /// The harness's `resps`.
    pub fn json(&self) -> Json {
        match self {
            Self::Scores(scores) => scores.iter().map(|(log, greedy)| json!([[log, greedy]])).collect(),
            Self::Rolling(log) => json!([[log]]),
            Self::Texts(texts) => json!([texts]),
        }
    }

    /// The reverse of [`json`](Self::json).
    fn read(value: &Json) -> Option<Self> {
        let all = value.as_array()?;
        let first = all.first()?.as_array()?;
        if let Some(log) = first.first()?.as_f64() {
            return Some(Self::Rolling(log));
        }
        if first.first()?.is_string() {
            let texts = first.iter().map(|text| Some(text.as_str()?.to_owned()));
            return texts.collect::<Option<_>>().map(Self::Texts);
        }
        let score = |value: &Json| Some((value.get(0)?.get(0)?.as_f64()?, value.get(0)?.get(1)?.as_bool()?));
        all.iter().map(score).collect::<Option<_>>().map(Self::Scores)
    }
}

/// The file of a task's answers.
#[derive(Debug)]
pub struct Samples {
    path: PathBuf,
    /// Identifies checkpoint, task and data.
    run: String,
    file: File,
    /// The filter and the line of each answer, by item.
    lines: BTreeMap<usize, Vec<(String, String)>>,
}

impl Samples {
    /// Opens the file of a task in a folder, and gives the answers that it holds already. Half a line at the end, which
    /// a killed run leaves, is cut off.
    ///
    /// # Errors
    /// [`Error::Io`]; a file of another checkpoint, task or data; a line that is no answer.
    pub fn open(folder: &Path, task: &str, run: &str) -> Result<(Self, BTreeMap<usize, Response>)> {
        let path = folder.join(format!("samples_{task}.jsonl"));
        let (mut lines, mut known, mut length) = (BTreeMap::<usize, Vec<(String, String)>>::new(), BTreeMap::new(), 0);
        if path.exists() {
            let mut reader = BufReader::new(File::open(&path).map_err(Error::io("read", &path))?);
            for number in 1.. {
                // A killed run may have cut a character too.
                let mut line = Vec::new();
                let read = reader.read_until(b'\n', &mut line).map_err(Error::io("read", &path))?;
                if line.last() != Some(&b'\n') {
                    break;
                }
                length += read as u64;
                let problem = |problem: String| Error::Line { path: path.clone(), line: number, problem };
                let line = String::from_utf8(line).map_err(|e| problem(format!("no answer: {e}")))?;
                let value: Json = serde_json::from_str(&line).map_err(|e| problem(format!("no answer: {e}")))?;
                if value.get("run").and_then(Json::as_str) != Some(run) {
                    return Err(problem(
                        "is of another checkpoint, task or data, or of another number of examples: choose another \
                         --output, or remove the file"
                            .into(),
                    ));
                }
                let item = value.get("doc_id").and_then(Json::as_u64).and_then(|item| usize::try_from(item).ok());
                let response = value.get("resps").and_then(Response::read);
                let (Some(item), Some(response)) = (item, response) else {
                    return Err(problem("has no doc_id or no resps: remove the file".into()));
                };
                let filter = filter(&value);
                let of_item = lines.entry(item).or_default();
                // A run that was killed between the lines of an item may have written one of them again.
                of_item.retain(|(other, _)| *other != filter);
                of_item.push((filter, line));
                known.insert(item, response);
            }
        }
        let open = || {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.set_len(length)?;
            Ok(file)
        };
        let file = open().map_err(Error::io("write", &path))?;
        Ok((Self { path, run: run.into(), file, lines }, known))
    }

    /// Adds the lines of an item, one for each filter, unless the file has them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add(&mut self, item: usize, lines: Vec<Json>) -> Result<()> {
        let known = self.lines.remove(&item).unwrap_or_default();
        let (mut all, mut new) = (Vec::new(), String::new());
        for mut line in lines {
            if let Some(object) = line.as_object_mut() {
                object.insert("run".into(), self.run.clone().into());
            }
            let filter = filter(&line);
            let text = known.iter().find(|(other, _)| *other == filter).map(|(_, text)| text.clone());
            all.push((
                filter,
                text.unwrap_or_else(|| {
                    let text = format!("{line}\n");
                    new += &text;
                    text
                }),
            ));
        }
        self.lines.insert(item, all);
        self.file.write_all(new.as_bytes()).map_err(Error::io("write", &self.path))
    }

    /// Puts the lines in the order of the items.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        let text: String = self.lines.into_values().flatten().map(|(_, line)| line).collect();
        durable::replace(&durable::DISK, &self.path, text.as_bytes()).map_err(Error::io("write", &self.path))
    }
}

/// The filter of an answer; none for tasks without.
fn filter(line: &Json) -> String {
    line.get("filter").and_then(Json::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples_x.jsonl");
        let responses = [
            Response::Scores(vec![(-1.5, true), (-0.1 - 0.2, false)]),
            Response::Rolling(-7.25),
            Response::Texts(vec!["a\n".into(), "b".into()]),
        ];
        let (mut samples, known) = Samples::open(folder.path(), "x", "r").unwrap();
        assert!(known.is_empty());
        for item in [2, 0] {
            samples.add(item, vec![json!({"doc_id": item, "resps": responses[item].json()})]).unwrap();
        }
        drop(samples);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"doc_id\": 1, \"re").unwrap();
        let (mut samples, known) = Samples::open(folder.path(), "x", "r").unwrap();
        assert_eq!(known, BTreeMap::from([(0, responses[0].clone()), (2, responses[2].clone())]));
        for item in [0, 1] {
            samples.add(item, vec![json!({"doc_id": item, "resps": responses[item].json()})]).unwrap();
        }
        samples.finish().unwrap();
        let (_, known) = Samples::open(folder.path(), "x", "r").unwrap();
        assert_eq!(known.into_values().collect::<Vec<_>>(), responses);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
        // Each filter has a line, whichever of them a kill left.
        let line = |filter: &str| json!({"doc_id": 3, "filter": filter, "resps": responses[2].json()});
        let (mut samples, _) = Samples::open(folder.path(), "y", "r").unwrap();
        samples.add(3, vec![line("b")]).unwrap();
        drop(samples);
        let (mut samples, known) = Samples::open(folder.path(), "y", "r").unwrap();
        assert_eq!(known.len(), 1);
        samples.add(3, vec![line("a"), line("b")]).unwrap();
        samples.finish().unwrap();
        let text = std::fs::read_to_string(folder.path().join("samples_y.jsonl")).unwrap();
        let filters = text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()["filter"].clone());
        assert_eq!(filters.collect::<Vec<_>>(), ["a", "b"]);
        let error = Samples::open(folder.path(), "x", "other").unwrap_err().to_string();
        assert!(error.contains("samples_x.jsonl:1: is of another checkpoint"), "{error}");
        std::fs::write(&path, "{\"run\": \"r\"}\n").unwrap();
        assert!(Samples::open(folder.path(), "x", "r").unwrap_err().to_string().contains("no doc_id"));
    }
}
