//! The guide's table, the traits and the minimal driver have the same required functions.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The text between `start` and the `end` after it.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let from = text.find(start).unwrap_or_else(|| panic!("no {start:?}")) + start.len();
    let length = text[from..].find(end).unwrap_or_else(|| panic!("no {end:?} after {start:?}"));
    &text[from..from + length]
}

/// The name that ends before the first character that no name has.
fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The names of the functions declared in `block`, indented once; where `required`, of those without a body.
fn functions(block: &str, required: bool) -> BTreeSet<String> {
    let declarations = block.split("\n    fn ").skip(1);
    let lacks_body = |s: &&str| !required || s.find(';').is_some_and(|end| s.find('{').is_none_or(|body| end < body));
    declarations.filter(lacks_body).map(name).collect()
}

/// Required functions of `Device`.
fn of_device() -> BTreeSet<String> {
    functions(between(&text("core/src/device/mod.rs"), "pub trait Device: Clone {", "\n}"), true)
}

/// Required functions of `Primitives`: the list of primitive kernels without those for which `method!` has a body.
fn of_primitives() -> BTreeSet<String> {
    let source = text("core/src/device/primitives.rs");
    let list = between(&source, "primitive {\n", "}");
    let listed = list.split(',').filter_map(|entry| Some(entry.split_once(':')?.0.trim().to_string()));
    let arms = between(&source, "macro_rules! method {", "\n}");
    let given: BTreeSet<String> = arms.split("\n    (").skip(1).map(name).filter(|name| !name.is_empty()).collect();
    assert!(given.len() < 6, "most primitives have no body: {given:?}");
    listed.filter(|name| !given.contains(name)).collect()
}

/// The names in a row of the guide's table: `| [`Device`](…) | 5 | `alloc` … |`, whose number must be theirs.
fn of_guide(row: &str) -> BTreeSet<String> {
    let guide = text("docs/add-a-driver.md");
    let line = guide.lines().find(|line| line.starts_with(&format!("| [`{row}`]"))).expect("a row of the table");
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let names: BTreeSet<String> = cells[2].split('`').skip(1).step_by(2).map(String::from).collect();
    assert_eq!(cells[1], names.len().to_string(), "the number of functions of {row}");
    names
}

#[test]
fn the_guide_lists_the_required_functions() {
    let (device, primitives) = (of_device(), of_primitives());
    assert_eq!(of_guide("Device"), device);
    assert_eq!(of_guide("Primitives"), primitives);
    assert!(of_guide("Kernels").is_empty(), "every fused kernel has a default body");
    let heading = format!("## What to write: {} functions", device.len() + primitives.len());
    assert!(text("docs/add-a-driver.md").contains(&heading), "the guide has no heading {heading:?}");
}

#[test]
fn the_minimal_driver_writes_the_required_functions_and_no_other() {
    let source = text("drivers/minimal/src/lib.rs");
    let written = |start| functions(between(&source, start, "\n}"), false);
    assert_eq!(written("impl Device for Minimal {"), of_device());
    assert_eq!(written("impl Primitives for Minimal {"), of_primitives());
    assert!(source.contains("impl Kernels for Minimal {}"));
}
