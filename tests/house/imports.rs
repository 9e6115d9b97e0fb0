//! Import circles between the modules of a crate.
//!
//! The graph has an edge from module `a` to module `b` if code of `a` names a path of `b`: in a `use`, or written out
//! with `crate::`, `super::` or `self::`. A re-export counts as both the module that re-exports and the one that
//! defines. Tests do not count, and neither do edges between a module and its own parent: a parent that declares
//! children needs no child, and a child may use what its parent defines. So every folder is one graph, of its children.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, Token, closing, test_items};

type Path = Vec<String>;

/// A name that `use` brings into a module.
#[derive(Clone, Debug)]
struct Import {
    /// The path as written.
    path: Path,
    /// The name it has here; `*` for all.
    name: String,
    public: bool,
    line: usize,
}

#[derive(Debug, Default)]
struct Module {
    file: String,
    children: BTreeSet<String>,
    imports: Vec<Import>,
    /// Other paths in the code.
    paths: Vec<(Path, usize)>,
    /// Names of items that the module defines.
    defined: BTreeSet<String>,
    /// Names of types that its code mentions.
    mentioned: BTreeMap<String, usize>,
}

/// The modules of a crate.
#[derive(Debug, Default)]
pub struct Crate(BTreeMap<Path, Module>);

/// Where module `from` names module `to`.
type Edges = BTreeMap<(String, String), String>;

impl Crate {
    /// A crate of files, whose paths are given relative to its `src`.
    pub fn new<'a>(files: impl Iterator<Item = (&'a str, &'a Source)>) -> Self {
        let (mut modules, mut tests) = (Self::default(), BTreeSet::new());
        for (inside, source) in files {
            let stem = inside.trim_end_matches(".rs");
            let stem = stem.trim_end_matches("/mod");
            let path: Path = match stem {
                "lib" | "main" | "mod" => Vec::new(),
                _ => stem.split('/').map(String::from).collect(),
            };
            let tokens = source.tokens();
            let mut skipped = vec![false; tokens.len()];
            for (start, end) in test_items(&tokens) {
                skipped[start..=end].fill(true);
                let words = &tokens[start..=end];
                if let Some(at) = words.iter().position(|t| t.text == "mod")
                    && words.get(at + 2).is_some_and(|t| t.text == ";")
                {
                    tests.insert([path.clone(), vec![words[at + 1].text.clone()]].concat());
                }
            }
            let kept: Vec<Token> = tokens.into_iter().zip(skipped).filter(|(_, s)| !s).map(|(t, _)| t).collect();
            modules.read(&path, &source.path, &kept);
        }
        modules.0.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
        let paths: Vec<Path> = modules.0.keys().filter(|p| !p.is_empty()).cloned().collect();
        for path in paths {
            let (name, parent) = path.split_last().expect("it is not the root");
            modules.0.entry(parent.to_vec()).or_default().children.insert(name.clone());
        }
        modules
    }

    fn read(&mut self, path: &Path, file: &str, tokens: &[Token]) {
        let mut module = self.0.remove(path).unwrap_or_default();
        module.file = file.into();
        let text = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
        let (mut at, mut depth) = (0, 0usize);
        while at < tokens.len() {
            let line = tokens[at].line;
            match text(at) {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                "mod" if text(at + 2) == "{" && depth == 0 => {
                    let end = closing(tokens, at + 2);
                    let inner = [path.clone(), vec![text(at + 1).into()]].concat();
                    self.read(&inner, file, &tokens[at + 3..end]);
                    at = end;
                }
                "use" => {
                    let end = (at..tokens.len()).find(|&i| text(i) == ";").unwrap_or(tokens.len());
                    let public = at > 0 && matches!(text(at - 1), "pub" | ")") && depth == 0;
                    tree(&tokens[at + 1..end], &mut Vec::new(), &mut |path, name| {
                        module.imports.push(Import { path, name, public, line });
                    });
                    at = end;
                }
                // `pub(in path)` is no dependency.
                "in" if at > 0 && text(at - 1) == "(" && text(at + 1) == "crate" => at = closing(tokens, at - 1),
                "crate" | "super" | "self" if text(at + 1) == "::" && (at == 0 || text(at - 1) != "::") => {
                    let mut names = vec![text(at).to_owned()];
                    while text(at + 1) == "::" && text(at + 2).starts_with(|c: char| c.is_alphabetic() || c == '_') {
                        names.push(text(at + 2).into());
                        at += 2;
                    }
                    module.paths.push((names, line));
                }
                "struct" | "enum" | "trait" | "fn" | "const" | "static" | "type" | "union" if depth == 0 => {
                    module.defined.insert(text(at + 1).into());
                }
                "macro_rules" => {
                    module.defined.insert(text(at + 2).into());
                }
                word if word.starts_with(char::is_uppercase) && (at == 0 || text(at - 1) != "::") => {
                    module.mentioned.entry(word.into()).or_insert(line);
                }
                _ => {}
            }
            at += 1;
        }
        self.0.insert(path.clone(), module);
    }

    /// The modules that a path in module `from` goes through, and the one that defines its end.
    fn resolve(&self, from: &Path, path: &[String], seen: &mut BTreeSet<(Path, String)>) -> Vec<Path> {
        let mut rest = path;
        let mut here = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self") => from.clone(),
            Some("super") => {
                let ups = path.iter().take_while(|s| *s == "super").count();
                rest = &path[ups - 1..];
                from[..from.len().saturating_sub(ups)].to_vec()
            }
            Some(name) if self.0.get(from).is_some_and(|m| m.children.contains(name)) => {
                return self.resolve(from, &[&["self".to_owned()], path].concat(), seen);
            }
            _ => return Vec::new(),
        };
        let mut through = vec![here.clone()];
        for (i, name) in rest.iter().enumerate().skip(1) {
            let Some(module) = self.0.get(&here) else { break };
            if module.children.contains(name) {
                here.push(name.clone());
                through.push(here.clone());
                continue;
            }
            if module.defined.contains(name) || !seen.insert((here.clone(), name.clone())) {
                break;
            }
            for import in module.imports.iter().filter(|import| import.public) {
                let target = match import.name.as_str() {
                    "*" => [&import.path[..], &rest[i..]].concat(),
                    alias if alias == name => [&import.path[..], &rest[i + 1..]].concat(),
                    _ => continue,
                };
                let found = self.resolve(&here, &target, seen);
                // A glob leads somewhere only if the name is defined there.
                let defines = |m: &Path| self.0.get(m).is_some_and(|m| m.defined.contains(name));
                if import.name != "*" || found.last().is_some_and(defines) {
                    through.extend(found);
                }
            }
            break;
        }
        through
    }

    /// The edges between the children of `parent`.
    fn edges(&self, parent: &Path) -> Edges {
        let mut edges = Edges::new();
        let child = |path: &Path| path.get(parent.len()).filter(|_| path.starts_with(parent)).cloned();
        for (from, module) in &self.0 {
            let Some(a) = child(from) else { continue };
            let mut add = |path: &[String], line: usize| {
                for to in self.resolve(from, path, &mut BTreeSet::new()) {
                    if let Some(b) = child(&to).filter(|b| *b != a) {
                        let place = format!("{}:{}", module.file, line + 1);
                        edges.entry((a.clone(), b)).or_insert(place);
                    }
                }
            };
            for import in &module.imports {
                add(&import.path, import.line);
                if import.name == "*" {
                    for (name, &line) in &module.mentioned {
                        let path = [&import.path[..], std::slice::from_ref(name)].concat();
                        add(&path, line);
                    }
                }
            }
            module.paths.iter().for_each(|(path, line)| add(path, *line));
        }
        edges
    }

    /// One circle of imports for every set of modules that need each other, as a message.
    pub fn circles(&self) -> Vec<String> {
        let mut messages = Vec::new();
        for (parent, module) in self.0.iter().filter(|(_, m)| m.children.len() > 1) {
            let edges = self.edges(parent);
            let mut told = BTreeSet::new();
            for start in &module.children {
                let Some(circle) = shortest_circle(start, &edges) else { continue };
                if circle.iter().any(|name| !told.insert(name.clone())) {
                    continue;
                }
                let steps: Vec<String> = circle
                    .iter()
                    .zip(circle.iter().cycle().skip(1))
                    .map(|(a, b)| format!("{a} needs {b} ({})", edges[&(a.clone(), b.clone())]))
                    .collect();
                let place = steps[0].split(['(', ')']).nth(1).unwrap_or_default();
                let within = if parent.is_empty() { "the crate".into() } else { parent.join("::") };
                messages.push(format!(
                    "{place}: circle of imports in {within}: {}; move what both need below them, or pass it in",
                    steps.join(", ")
                ));
            }
        }
        messages
    }
}

/// The leaves of a `use` tree: the path of each, and the name it gets.
fn tree(tokens: &[Token], prefix: &mut Path, found: &mut impl FnMut(Path, String)) {
    let (mut at, depth) = (0, prefix.len());
    while at < tokens.len() {
        let text = tokens[at].text.as_str();
        match text {
            "{" => {
                let end = closing(tokens, at);
                let mut start = at + 1;
                let mut i = start;
                while i <= end {
                    if i == end || tokens[i].text == "," {
                        tree(&tokens[start..i], &mut prefix.clone(), found);
                        start = i + 1;
                    } else if tokens[i].text == "{" {
                        i = closing(tokens, i);
                    }
                    i += 1;
                }
                return;
            }
            "*" => {
                found(prefix.clone(), "*".into());
                return;
            }
            "as" => {
                let name = tokens.get(at + 1).map_or("_", |t| t.text.as_str());
                found(prefix.clone(), name.into());
                return;
            }
            "::" => {}
            "self" if at > 0 || depth > 0 => {}
            _ => prefix.push(text.into()),
        }
        at += 1;
    }
    if let Some(name) = prefix.last().cloned() {
        found(prefix.clone(), name);
    }
}

/// The shortest way from `start` back to it.
fn shortest_circle(start: &str, edges: &Edges) -> Option<Vec<String>> {
    let mut queue = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    let mut next = 0;
    while next < queue.len() {
        let way = queue[next].clone();
        next += 1;
        let last = way.last()?;
        for ((_, to), _) in edges.iter().filter(|((from, _), _)| from == last) {
            if to == start {
                return Some(way);
            }
            if seen.insert(to.clone()) {
                queue.push([way.clone(), vec![to.clone()]].concat());
            }
        }
    }
    None
}

#[cfg(test)]
fn circles(files: &[(&str, &str)]) -> Vec<String> {
    let sources: Vec<(&str, Source)> = files.iter().map(|(path, text)| (*path, Source::new(path, text))).collect();
    Crate::new(sources.iter().map(|(path, source)| (*path, source))).circles()
}

#[test]
fn a_circle_is_found_with_its_places() {
    let found = circles(&[
        ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
        ("a.rs", "//! A.\n\nuse crate::{c, b::B};\n"),
        ("b/mod.rs", "mod inner;\npub struct B;\n"),
        ("b/inner.rs", "fn f() -> u8 { crate::a::f() }\n"),
        ("c.rs", ""),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("a.rs:3: circle of imports in the crate: a needs b (a.rs:3)"), "{found:?}");
    assert!(found[0].contains("b needs a (b/inner.rs:1)"), "{found:?}");
}

#[test]
fn a_circle_of_siblings_in_a_folder_is_found() {
    let found = circles(&[
        ("lib.rs", "mod d;"),
        ("d/mod.rs", "mod x; mod y; mod z; pub use y::Y; pub use z::*;"),
        ("d/x.rs", "use super::Y; pub struct X;"),
        ("d/y.rs", "use super::*; pub struct Y(Z);"),
        ("d/z.rs", "pub struct Z(super::x::X);"),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("circle of imports in d: x needs y (d/x.rs:1), y needs z (d/y.rs:1), z needs x"),
        "{found:?}"
    );
}

#[test]
fn re_exports_of_the_root_hide_nothing() {
    let found = circles(&[
        ("lib.rs", "mod a; mod b; pub use b::B;"),
        ("a.rs", "use crate::B; pub struct A;"),
        ("b.rs", "use crate::a::A as Other; pub struct B;"),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn parents_tests_and_other_crates_are_no_circles() {
    let found = circles(&[
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "mod x; mod y; use x::X; pub(in crate::b) struct A; #[cfg(test)] mod tests;"),
        ("a/x.rs", "use super::A; use std::b::B; pub struct X; #[cfg(test)] mod tests { use crate::b::B; }"),
        ("a/y.rs", "//! See [`crate::b`].\nuse super::x::X;"),
        ("a/tests.rs", "use crate::b::B;"),
        ("b.rs", "use crate::a::A;"),
    ]);
    assert!(found.is_empty(), "{found:?}");
}
