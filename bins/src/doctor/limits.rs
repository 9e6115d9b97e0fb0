//! Limits that the system sets a process: open files, memory, lengths of files.

use super::Finding;
use crate::device::limits_of_groups;
use crate::units::size;

/// Files that a run has open at a time, data of some sources and its own, with room for those of libraries.
#[cfg(unix)]
const FILES: u64 = 256;

/// Limits by resource and by control group. The largest file that a run would write has `file` bytes, where that is
/// known.
pub(super) fn limits(file: Option<u64>) -> Vec<Finding> {
    let mut findings = resources(file);
    findings.extend(limits_of_groups().into_iter().map(|(group, limit, used)| {
        let text = format!("{} at most in {group}, {} in use", size(limit), size(used));
        Finding::fine("memory limit", text)
    }));
    findings
}

#[cfg(unix)]
fn resources(file: Option<u64>) -> Vec<Finding> {
    use rustix::process::{Resource, getrlimit};
    let current = |resource| getrlimit(resource).current;
    let (files, space, length) = (current(Resource::Nofile), current(Resource::As), current(Resource::Fsize));
    let mut findings = vec![open_files(files)];
    if let Some(limit) = space {
        findings.push(Finding::warning(
            "memory limit",
            format!("{} of address space (ulimit -v), in which mapped data counts too", size(limit)),
            "raise it: ulimit -v unlimited",
        ));
    }
    findings.extend(length.map(|limit| file_length(limit, file)));
    findings
}

#[cfg(not(unix))]
fn resources(_: Option<u64>) -> Vec<Finding> {
    Vec::new()
}

#[cfg(unix)]
fn open_files(limit: Option<u64>) -> Finding {
    let subject = "open files";
    match limit {
        Some(limit) if limit < FILES => {
            Finding::warning(subject, format!("{limit} at most"), format!("raise the limit: ulimit -n {}", 4 * FILES))
        }
        Some(limit) => Finding::fine(subject, format!("{limit} at most")),
        None => Finding::fine(subject, "no limit"),
    }
}

#[cfg(unix)]
fn file_length(limit: u64, file: Option<u64>) -> Finding {
    let (subject, remedy) = ("file length", "raise the limit: ulimit -f unlimited");
    let text = format!("{} at most (ulimit -f)", size(limit));
    match file {
        Some(file) if file > limit => {
            Finding::misfit(subject, format!("{text}, and a checkpoint has a file of {}", size(file)), remedy)
        }
        Some(_) => Finding::fine(subject, text),
        None => Finding::warning(subject, text, remedy),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn limits_that_are_too_low_are_told() {
        let verdicts = [open_files(Some(64)), open_files(Some(1024)), open_files(None)].map(|found| found.verdict);
        assert_eq!(verdicts, [Verdict::Warning, Verdict::Fine, Verdict::Fine]);
        let verdicts = [Some(11), Some(10), None].map(|file| file_length(10, file).verdict);
        assert_eq!(verdicts, [Verdict::Misfit, Verdict::Fine, Verdict::Warning]);
        assert!(limits(None).iter().any(|found| found.subject == "open files"));
    }
}
