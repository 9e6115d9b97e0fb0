//! Files and folders that are not read, or not as their names say, and why.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Places of one kind that are named as examples.
const EXAMPLES: usize = 3;

/// A file or folder, and why it is not read, or not as its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// The path.
    pub path: PathBuf,
    /// The reason, the same for all of its kind.
    pub why: String,
}

/// Reasons with the number of places of each and the first few of them, as one line each: `3 files not read (no
/// suffix): a, b, c`.
pub fn by_reason(all: &[PassedOver], what: &str) -> Vec<String> {
    let mut reasons: BTreeMap<&str, (u64, Vec<String>)> = BTreeMap::new();
    for PassedOver { path, why } in all {
        let (count, examples) = reasons.entry(why).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(path.display().to_string());
        }
    }
    let line = |(why, (count, examples)): (&str, (u64, Vec<String>))| {
        let such = if count > examples.len() as u64 { ", such as" } else { ":" };
        format!("{count} {what} ({why}){such} {}", examples.join(", "))
    };
    reasons.into_iter().map(line).collect()
}
