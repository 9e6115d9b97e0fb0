//! Every Markdown page: relative links lead to files that exist, their anchors to headings, and files that are named in
//! code spans are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The folders of the repository that hold pages or are named by them.
const TOPS: [&str; 9] = ["core", "drivers", "dataprep", "bins", "tests", "configs", "docs", "fuzz", "findings"];

/// Adds the Markdown files of `folder` and of the folders below it, build output aside.
fn add_pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            add_pages(&path, found);
        } else if path.extension().is_some_and(|suffix| suffix == "md") {
            found.push(path);
        }
    }
}

/// Every page: those of the repository's own folder, and of [`TOPS`] at any depth.
fn pages(root: &Path) -> Vec<PathBuf> {
    let here = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = here.filter(|path| path.extension().is_some_and(|suffix| suffix == "md")).collect();
    TOPS.iter().for_each(|top| add_pages(&root.join(top), &mut found));
    found
}

/// The lines of a page that are not in a fenced block, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    });
    lines.map(|(number, line)| (number + 1, line)).collect()
}

/// The code spans of a line, and the line without them.
fn spans(line: &str) -> (Vec<&str>, String) {
    let (mut inside, mut outside) = (Vec::new(), String::new());
    for (index, part) in line.split('`').enumerate() {
        if index % 2 == 1 {
            inside.push(part);
        } else {
            outside.push_str(part);
        }
    }
    (inside, outside)
}

/// The targets of `[text](target)` in a line.
fn targets(line: &str) -> Vec<String> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_string()).collect()
}

/// The anchor that a heading gets: lower case, blanks as hyphens, punctuation left out.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().filter(|(_, line)| line.starts_with('#'));
    headings.map(|(_, line)| anchor(line.trim_start_matches('#'))).collect()
}

/// What is wrong with a link from `page`.
fn check(page: &Path, text: &str, target: &str) -> Result<(), String> {
    if ["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) {
        return Ok(());
    }
    let (file, wanted) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let path = if file.is_empty() { page.to_path_buf() } else { page.parent().unwrap().join(file) };
    if !path.exists() {
        return Err(format!("{target}: there is no such file"));
    }
    let Some(wanted) = wanted else { return Ok(()) };
    let there = if file.is_empty() { text.to_string() } else { std::fs::read_to_string(&path).unwrap_or_default() };
    if anchors(&there).contains(wanted) { Ok(()) } else { Err(format!("{target}: there is no such heading")) }
}

/// Whether a code span names a file or folder of this repository, and nothing that stands for several.
fn names_a_file(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let placeholder = |part: &str| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase());
    span.split_once('/').is_some_and(|(top, _)| TOPS.contains(&top))
        && span.chars().all(plain)
        && !span.split(['/', '.']).any(|part| placeholder(part) && part != "README" && part != "BENCHMARKS")
}

#[test]
fn every_link_and_every_named_file_is_there() {
    let root = repository();
    let found = pages(&root);
    assert!(found.len() > 10, "{found:?}");
    let mut wrong = Vec::new();
    let mut links = 0;
    for page in &found {
        let text = std::fs::read_to_string(page).unwrap();
        let place = page.strip_prefix(&root).unwrap().display().to_string();
        for (number, line) in prose(&text) {
            let (inside, outside) = spans(line);
            for target in targets(&outside) {
                links += 1;
                if let Err(problem) = check(page, &text, &target) {
                    wrong.push(format!("{place}:{number}: {problem}"));
                }
            }
            for span in inside.into_iter().filter(|span| names_a_file(span)) {
                // A page may name files from its own folder, too.
                if !root.join(span).exists() && !page.parent().unwrap().join(span).exists() {
                    wrong.push(format!("{place}:{number}: `{span}`: there is no such file"));
                }
            }
        }
    }
    assert!(links > 50, "{links} links only");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_anchors_and_spans_are_told_apart() {
    let text = "# The CPU driver\n```sh\n[a](b)\n```\n[c](d#e) `f](g)` ![h](i.svg)\n";
    let lines = prose(text);
    assert_eq!(lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 5]);
    let (inside, outside) = spans(lines[1].1);
    assert_eq!((inside, targets(&outside)), (vec!["f](g)"], vec!["d#e".to_string(), "i.svg".into()]));
    assert!(anchors(text).contains("the-cpu-driver"));
    assert_eq!(anchor("Why sums are promoted to f32?"), "why-sums-are-promoted-to-f32");
    let here = repository().join("README.md");
    assert!(check(&here, text, "#the-cpu-driver").is_ok() && check(&here, text, "ARCHITECTURE.md").is_ok());
    assert!(check(&here, text, "#nothing").is_err() && check(&here, text, "no/such.rs").is_err());
    assert!(names_a_file("core/src/lib.rs") && !names_a_file("core/src/SUBJECT.rs") && !names_a_file("core/{a,b}"));
}
