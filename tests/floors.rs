//! The core is a tower: a module imports from its own floor and from those below, never from above. ARCHITECTURE.md
//! lists the floors.

use std::path::{Path, PathBuf};

/// From the ground up.
const FLOORS: [&[&str]; 7] = [
    &["error", "math", "rng", "dtype", "DType", "config", "fp8", "precision", "routing", "sampling"],
    &["device", "tensor", "for_each_kernel", "forward_device"],
    &["quantized", "cache"],
    &["weights"],
    &["layer"],
    &["model"],
    &["train", "comm"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The modules that some code of the core names by `crate::`, with the number of the line; tests are passed over.
fn named(text: &str) -> Vec<(usize, String)> {
    let code = text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    let code = code.filter(|(_, line)| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for (number, line) in code {
        for rest in line.split("crate::").skip(1) {
            let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split(", ").map(name).collect(),
                None => vec![name(rest)],
            };
            found.extend(names.into_iter().map(|name| (number + 1, name)));
        }
    }
    found
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|suffix| suffix == "rs") && path.file_name().unwrap() != "tests.rs" {
            found.push(path);
        }
    }
}

#[test]
fn no_module_of_the_core_imports_from_a_floor_above_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut wrong, mut imports) = (Vec::new(), 0);
    for path in files {
        let inside = path.strip_prefix(&root).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let place = inside.display();
        let Some(own) = floor(module) else {
            wrong.push(format!("{place}: `{module}` is on no floor: give it one here and in ARCHITECTURE.md"));
            continue;
        };
        for (line, name) in named(&std::fs::read_to_string(&path).unwrap()) {
            imports += 1;
            match floor(&name) {
                Some(other) if other <= own => {}
                Some(_) => wrong.push(format!("{place}:{line}: {module} imports from {name}, which lies above it")),
                None => wrong.push(format!("{place}:{line}: `{name}` is on no floor")),
            }
        }
    }
    assert!(imports > 100, "{imports} imports only");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_are_found_in_code_only() {
    let text =
        "//! [`crate::model`]\nuse crate::device::Gemm;\nuse crate::{DType, error};\n#[cfg(test)]\nuse crate::train;\n";
    let found = named(text);
    assert_eq!(found, [(2, "device".into()), (3, "DType".into()), (3, "error".into())]);
}
