//! Rules on a file's form: line length, the first line of a module, one style of module files.

use std::collections::BTreeSet;

use crate::source::Source;

/// Columns of a line.
pub const COLUMNS: usize = 120;

/// Whether a file holds nothing but tests.
pub fn in_tests(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "testdata"))
}

/// A message for every line longer than [`COLUMNS`]. Exempt: lines that begin inside a string literal, which no tool
/// may break, and in tests lines that are too long only by a string literal (test data).
pub fn lines(source: &Source) -> Vec<String> {
    let in_tests = in_tests(&source.path);
    let mut messages = Vec::new();
    for (i, line) in source.lines.iter().enumerate() {
        let columns = line.raw.chars().count();
        let text = line.text.chars().filter(|c| !c.is_whitespace()).count();
        let data = line.inside_text || (line.test || in_tests) && columns.saturating_sub(text) <= COLUMNS && text > 0;
        let row = line.comment.trim_start().trim_start_matches(['/', '!']).trim().starts_with('|');
        if columns > COLUMNS && !data && !row {
            let path = &source.path;
            messages.push(format!("{path}:{}: {columns} columns; break the line after at most {COLUMNS}", i + 1));
        }
    }
    messages
}

/// A message where a Rust file does not begin with a plain sentence about itself.
pub fn head(source: &Source) -> Option<String> {
    // Attributes of the crate may come first.
    let mut lines = source.lines.iter().enumerate().skip_while(|(_, l)| l.code.trim_start().starts_with("#!"));
    let first = lines.clone().next().map_or(1, |(i, _)| i + 1);
    let head: Vec<&str> = lines.by_ref().map_while(|(_, l)| l.comment.trim().strip_prefix("//!")).collect();
    let sentence = head.iter().map(|l| l.trim()).take_while(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
    let problem = match sentence.as_str() {
        "" => "the file does not begin with a //! comment",
        s if !s.ends_with('.') && !s.ends_with(".)") => "the first //! paragraph does not end in a full stop",
        s if s.split_whitespace().count() < 3 => "the first //! line has fewer than three words",
        s if s.starts_with("What ") => "the first //! line begins with \"What\"",
        _ => return None,
    };
    let remedy = "say in one plain sentence what the module is or does";
    Some(format!("{}:{first}: {problem}; {remedy}", source.path))
}

/// A message for every file `x.rs` beside a folder `x/` with modules.
pub fn layout(paths: &BTreeSet<String>) -> Vec<String> {
    let both = |path: &&String| {
        let folder = format!("{}/", path.trim_end_matches(".rs"));
        path.ends_with(".rs") && paths.range(folder.clone()..).next().is_some_and(|next| next.starts_with(&folder))
    };
    let message = |path: &String| format!("{path}:1: lies beside a folder of its name; move it to {}", moved(path));
    paths.iter().filter(both).map(message).collect()
}

fn moved(path: &str) -> String {
    format!("{}/mod.rs", path.trim_end_matches(".rs"))
}

#[test]
fn long_lines_are_found() {
    let long = |n: usize| "x".repeat(n);
    let source = |text: String| Source::new("src/a.rs", &text);
    assert_eq!(lines(&source(format!("// {}\n", long(117)))), Vec::<String>::new());
    let found = lines(&source(format!("\n// {}\n", long(118))));
    assert_eq!(found, ["src/a.rs:2: 121 columns; break the line after at most 120"]);
    assert_eq!(lines(&source(format!("let a = \"{}\";\n", long(120)))).len(), 1, "a text outside tests");
    assert_eq!(lines(&source(format!("let a = \"\n{}\";\n", long(121)))).len(), 0, "a literal of several lines");
    assert_eq!(lines(&source(format!("#[test]\nfn a() {{\n    f(\"{}\");\n}}\n", long(120)))).len(), 0, "test data");
    assert_eq!(
        lines(&source(format!("#[test]\nfn a() {{\n    // {}\n}}\n", long(120)))).len(),
        1,
        "a comment in a test"
    );
    assert_eq!(lines(&source(format!("//! | {} | b |\n", long(120)))).len(), 0, "a row of a table");
    assert_eq!(lines(&Source::new("core/tests/a.rs", &format!("f(\"{}\");\n", long(120)))).len(), 0);
}

#[test]
fn heads_that_say_nothing_are_found() {
    let problem = |text: &str| head(&Source::new("a.rs", text));
    assert_eq!(problem("//! Reads and writes files.\n"), None);
    assert_eq!(problem("#![no_main]\n//! Reads and writes\n//! files.\n//!\n//! More\n"), None);
    for text in [
        "use a;\n",
        "// Reads and writes files.\n",
        "//! Reads and writes files\n",
        "//! Files.\n",
        "//! What reads and writes files.\n",
        "",
    ] {
        assert!(problem(text).is_some_and(|m| m.starts_with("a.rs:1: ")), "{text}");
    }
}

#[test]
fn two_styles_of_modules_are_found() {
    let paths = ["src/a.rs", "src/a/b.rs", "src/ab/mod.rs", "src/ac.rs", "src/lib.rs"].map(String::from);
    assert_eq!(layout(&paths.into()), ["src/a.rs:1: lies beside a folder of its name; move it to src/a/mod.rs"]);
}
