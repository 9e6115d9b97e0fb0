//! The folder of a run: its lock, and the checkpoint to go on from.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use fathom_dataprep::durable::{DISK, Files, create_dirs};

use crate::checkpoint;
use crate::error::{Error, Result};

pub(super) fn lock_path(output: &Path) -> PathBuf {
    output.join("run.lock")
}

/// Keeps a second run out of `output` for as long as the file is open.
pub(crate) fn lock(output: &Path) -> Result<File> {
    lock_on(&DISK, output)
}

/// As [`lock`], through the given file operations.
pub(super) fn lock_on(files: &dyn Files, output: &Path) -> Result<File> {
    create_dirs(files, output).map_err(Error::io("create", output))?;
    let path = lock_path(output);
    // Another run's mark stays in it.
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Run(format!(
            "{}: another run is writing there; wait for it, or choose another --output",
            output.display()
        ))),
        // A file system without locks: better to train without than not at all.
        Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Whether a run holds the lock of `output` now. Changes nothing there.
pub(crate) fn is_locked(output: &Path) -> bool {
    let file = File::options().write(true).open(lock_path(output));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// The checkpoint to go on from, if that is what is wanted.
pub(crate) fn newest(output: &Path, resume: bool, leads: bool) -> Result<Option<PathBuf>> {
    let found = checkpoint::survey(output)?;
    let Some(first) = found.first() else {
        if resume && leads {
            eprintln!("{}: no checkpoint to resume from; starting from the beginning", output.display());
        }
        return Ok(None);
    };
    if !resume {
        return Err(Error::Run(format!(
            "{} already holds a run ({}): add --resume to go on with it, or choose another --output",
            output.display(),
            first.folder.display()
        )));
    }
    let located = checkpoint::locate(output)?;
    for note in located.notes().into_iter().filter(|_| leads) {
        eprintln!("{note}");
    }
    Ok(Some(located.folder))
}
