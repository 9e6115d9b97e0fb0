//! The file system of an output folder: what a run does there is tried out.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use super::Finding;
use crate::run::space;

const SUBJECT: &str = "file system";

/// Tries, in a separate folder that is removed again, what a run does in `output`: files, locks, syncs and renames.
/// Where `output` is not there yet, the nearest folder above it is tried.
pub(super) fn folder(output: &Path) -> Vec<Finding> {
    let Some(place) = space::nearest(output) else {
        return vec![Finding::misfit(SUBJECT, format!("{}: has no folder above it", output.display()), OTHER)];
    };
    if output.exists() && !output.is_dir() {
        return vec![Finding::misfit(SUBJECT, format!("{} is no folder", output.display()), OTHER)];
    }
    let trial = place.join(format!(".fathom-check-{}", std::process::id()));
    let tried = fs::create_dir(&trial).and_then(|()| {
        let tried = attempt(&trial);
        // What cannot be removed is empty, or was found to be wanting.
        let removed = fs::remove_dir_all(&trial);
        tried.and_then(|locks| removed.map(|()| locks))
    });
    let place = place.display();
    match tried {
        Err(error) => vec![Finding::misfit(SUBJECT, format!("{place}: {error}"), OTHER)],
        Ok(Locks::Kept) => vec![Finding::fine(SUBJECT, format!("{place}: writes, locks, syncs and renames"))],
        Ok(Locks::None) => vec![Finding::warning(
            SUBJECT,
            format!("{place}: has no locks, so a second run in the same folder is not refused"),
            "start one run for each --output",
        )],
        Ok(Locks::Ignored) => vec![Finding::warning(
            SUBJECT,
            format!("{place}: gives one lock to two, so a second run in the same folder is not refused"),
            "start one run for each --output",
        )],
    }
}

const OTHER: &str = "choose another --output";

/// How the file system keeps locks.
#[derive(Debug, PartialEq, Eq)]
enum Locks {
    Kept,
    None,
    Ignored,
}

fn attempt(folder: &Path) -> io::Result<Locks> {
    let doing = |what: &'static str| move |error: io::Error| io::Error::other(format!("cannot {what}: {error}"));
    let (first, second) = (folder.join("a"), folder.join("b"));
    let mut file = File::create(&first).map_err(doing("create a file"))?;
    file.write_all(&[0x5a; 4096]).map_err(doing("write a file"))?;
    file.sync_all().map_err(doing("sync a file"))?;
    let other = File::options().write(true).open(&first).map_err(doing("open a file"))?;
    let locks = match file.try_lock() {
        Ok(()) => match other.try_lock() {
            Err(TryLockError::WouldBlock) => Locks::Kept,
            _ => Locks::Ignored,
        },
        Err(_) => Locks::None,
    };
    drop((file, other));
    // As a checkpoint takes the place of another, and as its folder gets its name.
    fs::write(&second, b"old").map_err(doing("write a file"))?;
    fs::rename(&first, &second).map_err(doing("rename a file over another"))?;
    let (aside, named) = (folder.join("aside"), folder.join("named"));
    fs::create_dir(&aside).map_err(doing("create a folder"))?;
    fs::rename(&aside, &named).map_err(doing("rename a folder"))?;
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(doing("sync a folder"))?;
    }
    match fs::read(&second).map_err(doing("read a file"))?.len() {
        4096 => Ok(locks),
        found => Err(io::Error::other(format!("a file of 4096 bytes has {found} after it was renamed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn what_a_run_does_is_tried_and_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        let found = folder(&root.path().join("runs/new"));
        assert_eq!(found.len(), 1);
        assert_ne!(found[0].verdict, Verdict::Misfit, "{found:?}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        let file = root.path().join("file");
        fs::write(&file, b"x").unwrap();
        let found = folder(&file);
        assert!(found[0].verdict == Verdict::Misfit && found[0].text.contains("no folder"), "{found:?}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_place_that_takes_no_files_does_not_fit() {
        // Nobody can create anything there, root included.
        let found = folder(Path::new("/proc/self/run"));
        assert!(found[0].verdict == Verdict::Misfit && found[0].text.contains("/proc/self"), "{found:?}");
    }
}
