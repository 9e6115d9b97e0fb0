//! Paths that match a glob, also where folders hold names that are not UTF-8.

use crate::error::{Error, Result};
use glob::{MatchOptions, Pattern};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Whether a path has characters of a glob.
pub(super) fn is_glob(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
}

/// A component of a glob.
enum Part {
    /// This name.
    Name(PathBuf),
    /// Names like this.
    Like(Pattern),
    /// Any number of folders.
    Folders,
}

/// The paths that match `input`, sorted. Names that begin with a dot match a dot only, and `**` goes through no links.
///
/// # Errors
/// [`Error::Config`] for a malformed glob, [`Error::Io`] for a folder that cannot be listed.
pub(super) fn matching(input: &Path) -> Result<Vec<PathBuf>> {
    let mut parts = Vec::new();
    for component in input.components() {
        let own = Path::new(component.as_os_str());
        parts.push(match component {
            Component::Normal(_) if is_glob(own) => match own.to_str() {
                Some("**") => Part::Folders,
                Some(text) => Part::Like(Pattern::new(text).map_err(|e| bad(input, &format!("not a glob: {e}")))?),
                None => return Err(bad(input, "a glob must be valid UTF-8")),
            },
            _ => Part::Name(own.into()),
        });
    }
    if matches!(parts.last(), Some(Part::Folders)) {
        // On its own it finds what is in the folders.
        parts.extend(Pattern::new("*").ok().map(Part::Like));
    }
    let mut found = Vec::new();
    expand(PathBuf::new(), &parts, &mut found)?;
    found.sort();
    found.dedup();
    Ok(found)
}

/// The error for a glob that means nothing.
pub(super) fn bad(input: &Path, what: &str) -> Error {
    Error::Config { field: "input.paths", what: format!("{}: {what}", input.display()) }
}

/// Adds the paths below `folder` that match `parts`.
fn expand(folder: PathBuf, parts: &[Part], found: &mut Vec<PathBuf>) -> Result<()> {
    let Some((part, rest)) = parts.split_first() else {
        found.push(folder);
        return Ok(());
    };
    let pattern = match part {
        Part::Name(name) => {
            let path = folder.join(name);
            return if fs::symlink_metadata(&path).is_ok() { expand(path, rest, found) } else { Ok(()) };
        }
        Part::Like(pattern) => Some(pattern),
        Part::Folders => {
            expand(folder.clone(), rest, found)?;
            None
        }
    };
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
    if !listed.is_dir() {
        return Ok(());
    }
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    for entry in fs::read_dir(listed).map_err(Error::io("list", listed))? {
        let entry = entry.map_err(Error::io("list", listed))?;
        let (name, path) = (entry.file_name(), folder.join(entry.file_name()));
        match pattern {
            // A name that is not UTF-8 is matched with U+FFFD for what is not.
            Some(pattern) if pattern.matches_with(&name.to_string_lossy(), options) => expand(path, rest, found)?,
            Some(_) => {}
            None => {
                let is_folder = entry.file_type().map_err(Error::io("read", &path))?.is_dir();
                if is_folder && name.as_encoded_bytes().first() != Some(&b'.') {
                    expand(path, parts, found)?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_those_of_the_glob_crate() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.txt", "b.md", ".c.txt", "d/e.txt", "d/f/g.txt", "d/.h/i.txt", "[x].txt", "j1/k", "j2/k"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
        for glob in ["*.txt", "**/*.txt", "d/**/g.*", "**/f/*", "j[12]/k", "j?/*", "[[]x].txt", "none*", "**/**/k"] {
            let glob = dir.path().join(glob);
            let mut expected: Vec<_> =
                glob::glob_with(glob.to_str().unwrap(), options).unwrap().map(Result::unwrap).collect();
            expected.sort();
            expected.dedup();
            assert_eq!(matching(&glob).unwrap(), expected, "{}", glob.display());
        }
        assert_eq!(matching(&dir.path().join(".c*")).unwrap(), [dir.path().join(".c.txt")]);
        assert!(matching(Path::new("a/[b")).unwrap_err().to_string().contains("not a glob"));
        assert!(matching(Path::new("a/b**")).unwrap_err().to_string().contains("not a glob"));
    }
}
