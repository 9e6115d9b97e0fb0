//! House rules of the source tree, held by reading it: import circles, line length, plain words, and module files.
//!
//! Every message has a file, a line and a remedy. Each rule has tests with planted violations beside it.

mod imports;
mod source;
mod style;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::Source;

/// Folders that hold no text of the project: builds, runs, and test data.
const SKIPPED: &[&str] = &["target", "runs", "data", "testdata", "seeds", "corpus", "artifacts", "golden", "assets"];
/// Endings of the files that people write.
const ENDINGS: &[&str] = &["rs", "cu", "cuh", "h", "c", "py", "sh", "toml", "yaml", "yml", "md"];

/// The project's files by path, relative to its root.
fn files() -> BTreeMap<String, String> {
    fn walk(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries.map(|e| e.expect("an entry of a folder")) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let hidden = name.starts_with('.') && !matches!(path.as_str(), ".ci" | ".github");
            if entry.file_type().expect("a type of file").is_dir() {
                if !hidden && !SKIPPED.contains(&name.as_str()) {
                    walk(&entry.path(), &format!("{path}/"), files);
                }
            } else if matches!(path.as_str(), ".ci/run" | ".ci/quick")
                || name.rsplit_once('.').is_some_and(|(_, end)| ENDINGS.contains(&end))
            {
                let content = std::fs::read_to_string(entry.path()).unwrap_or_else(|e| panic!("{path}: {e}"));
                files.insert(path, content);
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), "", &mut files);
    assert!(files.contains_key("core/src/lib.rs") && files.contains_key(".ci/run"), "the project's root is not found");
    files
}

fn sources(endings: &[&str]) -> Vec<Source> {
    let wanted = |path: &str| path.rsplit_once('.').is_some_and(|(_, end)| endings.contains(&end));
    files().iter().filter(|(path, _)| wanted(path)).map(|(path, content)| Source::new(path, content)).collect()
}

#[track_caller]
fn none(messages: &[String]) {
    assert!(messages.is_empty(), "{} violations\n{}", messages.len(), messages.join("\n"));
}

#[test]
fn modules_do_not_import_in_circles() {
    let files = files();
    let rust = sources(&["rs"]);
    let mut messages = Vec::new();
    let manifests = files.keys().filter_map(|path| path.strip_suffix("Cargo.toml"));
    let roots: Vec<String> = manifests.map(|folder| format!("{folder}src/")).collect();
    for root in &roots {
        let own = |source: &&Source| source.path.starts_with(root) && !source.path.starts_with(&format!("{root}bin/"));
        let own: Vec<&Source> = rust.iter().filter(own).collect();
        messages.extend(imports::Crate::new(own.iter().map(|s| (&s.path[root.len()..], *s))).circles());
    }
    assert!(roots.len() > 6, "{roots:?}");
    none(&messages);
}

#[test]
fn lines_have_at_most_120_columns() {
    none(&sources(&["rs", "cu", "cuh", "h"]).iter().flat_map(style::lines).collect::<Vec<_>>());
}

#[test]
fn prose_uses_plain_words() {
    let files = files();
    let read = files.iter().filter(|(path, _)| !path.starts_with("tests/house/"));
    let mut messages: Vec<String> = read.flat_map(|(path, content)| words::check(path, content)).collect();
    messages.extend(sources(&["rs"]).iter().filter(|s| !style::in_tests(&s.path)).flat_map(words::identifiers));
    none(&messages);
}

#[test]
fn module_files_begin_with_a_sentence() {
    none(&sources(&["rs"]).iter().filter_map(style::head).collect::<Vec<_>>());
}

#[test]
fn modules_with_children_are_mod_rs() {
    let paths: BTreeSet<String> = files().into_keys().filter(|path| path.ends_with(".rs")).collect();
    none(&style::layout(&paths));
}
