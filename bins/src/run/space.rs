//! Room on the disk for the checkpoints of a run.

use std::path::Path;

use crate::checkpoint::{self, CheckpointError, Manifest};
use crate::settings::{KeepBest, Settings};
use crate::units::size;

/// Bytes that this user may still write on the disk of `folder`, or of the nearest folder above it that is there.
/// `None` where the system does not say.
pub(crate) fn free(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let found = rustix::fs::statvfs(nearest(folder)?).ok()?;
        // Some network and user-space file systems have no such numbers.
        (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// `folder`, or the nearest one above it that is there.
pub(crate) fn nearest(folder: &Path) -> Option<std::path::PathBuf> {
    let whole = std::path::absolute(folder).ok()?;
    whole.ancestors().find(|folder| folder.is_dir()).map(Path::to_path_buf)
}

/// Checks that a checkpoint of `needed` bytes fits into the run's folder `output`.
///
/// # Errors
/// [`CheckpointError::Space`].
pub(crate) fn check(output: &Path, needed: u64) -> Result<(), CheckpointError> {
    fits(output, needed, free(output))
}

fn fits(output: &Path, needed: u64, free: Option<u64>) -> Result<(), CheckpointError> {
    match free {
        Some(free) if free < needed => Err(CheckpointError::Space { path: output.into(), needed, free }),
        _ => Ok(()),
    }
}

/// How many checkpoints a run has on the disk at a time: those that it keeps, and the one that it writes. Those that
/// are kept for good come on top.
pub(crate) fn at_once(settings: &Settings) -> u64 {
    let best = u64::from(settings.checkpoint.keep_best != KeepBest::None && settings.train.eval_every > 0);
    (settings.checkpoint.keep as u64).saturating_add(best).saturating_add(1)
}

/// What is to be said where one checkpoint of `needed` bytes fits into `output`, but not all that the run will have
/// there at a time. Checkpoints that are there already, and will be removed, make room.
pub(crate) fn warning(output: &Path, settings: &Settings, steps: u64, needed: u64) -> Option<String> {
    let there: u64 = checkpoint::list(output).unwrap_or_default().iter().map(|(_, folder)| bytes_of(folder)).sum();
    shortage(output, (at_once(settings), for_good(settings, steps)), needed, there, free(output)?)
}

/// How many checkpoints are kept for good.
fn for_good(settings: &Settings, steps: u64) -> u64 {
    steps.checked_div(settings.checkpoint.keep_every).unwrap_or(0)
}

fn shortage(output: &Path, (at_once, for_good): (u64, u64), needed: u64, there: u64, free: u64) -> Option<String> {
    let count = at_once.saturating_add(for_good);
    let all = needed.saturating_mul(count);
    let room = free.saturating_add(there);
    (all > room).then(|| {
        let kept = if for_good > 0 { " and checkpoint.keep_every" } else { "" };
        format!(
            "{}: the run may have {count} checkpoints there at a time (checkpoint.keep{kept}), {} of {} each, and the \
             disk has room for {}: free some, or keep fewer; a checkpoint that does not fit is a failed save",
            output.display(),
            size(all),
            size(needed),
            size(room)
        )
    })
}

fn bytes_of(folder: &Path) -> u64 {
    Manifest::read(folder).map_or(0, |manifest| manifest.files.iter().map(|file| file.bytes).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_does_not_fit_is_refused_with_both_sizes_and_the_place() {
        let output = Path::new("runs/a");
        assert!(fits(output, 10, Some(10)).is_ok() && fits(output, u64::MAX, None).is_ok());
        let error = fits(output, 3 << 30, Some(1 << 20)).unwrap_err().to_string();
        for word in ["runs/a", "needs 3.00 GiB", "1.00 MiB free", "checkpoint.keep"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(check(folder.path(), 1).is_ok());
        if free(folder.path()).is_some() {
            assert!(matches!(check(folder.path(), u64::MAX), Err(CheckpointError::Space { .. })));
            assert!(free(&folder.path().join("not/there/yet")).is_some());
        }
    }

    #[test]
    fn kept_checkpoints_that_do_not_fit_are_told() {
        let output = Path::new("runs/a");
        assert_eq!(shortage(output, (3, 0), 100, 100, 200), None);
        assert_eq!(shortage(output, (3, 0), 100, 0, 300), None);
        let said = shortage(output, (3, 0), 1 << 20, 0, 2 << 20).unwrap();
        assert!(said.contains("3 checkpoints") && said.contains("3.00 MiB of 1.00 MiB each"), "{said}");
        assert!(said.contains("room for 2.00 MiB"), "{said}");
        let said = shortage(output, (3, 20), 1 << 20, 0, 22 << 20).unwrap();
        assert!(said.contains("23 checkpoints") && said.contains("checkpoint.keep_every"), "{said}");
    }

    #[test]
    fn the_settings_say_how_many_checkpoints_there_are_at_a_time() {
        let of = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
            let settings = Settings::load(None, &sets).unwrap();
            (at_once(&settings), for_good(&settings, 100))
        };
        assert_eq!(of(&["checkpoint.keep=2", "checkpoint.keep_best=none"]), (3, 0));
        assert_eq!(of(&["checkpoint.keep=2", "checkpoint.keep_every=30"]), (4, 3));
        assert_eq!(of(&["checkpoint.keep=1", "train.eval_every=0"]), (2, 0));
    }
}
