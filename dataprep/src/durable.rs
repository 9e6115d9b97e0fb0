//! The file operations that everything durable is written through, and how a file or folder is replaced as a whole.
//!
//! [`Files`] is the only way in which checkpoints, conversions, metrics, shards, task receipts and manifests reach
//! a disk. Its operations are as small as the system's, so a test can stop, fail or record each of them; what is built
//! of several is a function here. The product uses [`DISK`].
//!
//! A name outlives a power failure only after [`Files::sync_dir`] of its folder, contents only after a file's
//! [`sync`](DurableFile::sync), and nothing orders two operations but a sync between them:
//!
//! - a name that others rely on is given after the file was synced, and its folder is synced before anything is written
//!   that says it is there ([`replace`], [`create_dirs`]);
//! - what is to be removed loses, for good, the name by which it counts before the first of its files goes.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file being written.
pub trait DurableFile: Write + Seek + Send {
    /// Returns once everything written will survive a power failure. After an error nothing is known of what was
    /// written since the last sync, also if a later call succeeds: it has to be written again, to another file.
    ///
    /// # Errors
    /// Whatever the system says.
    fn sync(&mut self) -> io::Result<()>;
}

/// File operations. Every call may fail.
pub trait Files: Sync {
    /// Makes a folder in one that exists.
    ///
    /// # Errors
    /// Whatever the system says; that it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates a file, or empties it.
    ///
    /// # Errors
    /// Whatever the system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DurableFile>>;
    /// Opens a file to write at its end; creates it where it is not there.
    ///
    /// # Errors
    /// Whatever the system says.
    fn append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>>;
    /// Makes the names in a folder survive a power failure.
    ///
    /// # Errors
    /// Whatever the system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a file or folder another name, in one step.
    ///
    /// # Errors
    /// Whatever the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// Whatever the system says.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    ///
    /// # Errors
    /// Whatever the system says.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
}

/// A file to be written, and the operations to write it with; a plain path is one on [`DISK`].
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The operations.
    pub files: &'a dyn Files,
    /// The path.
    pub path: &'a Path,
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for Target<'a> {
    fn from(path: &'a P) -> Self {
        Self { files: &DISK, path: path.as_ref() }
    }
}

/// The real file system. A call that a signal interrupted is made again.
pub const DISK: Retry<System> = Retry(System);

/// The system's calls, each made once.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

/// Makes the calls of `F` again for as long as signals interrupt them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retry<F>(pub F);

struct RetryFile(Box<dyn DurableFile>);

fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl DurableFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Files for System {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(OpenOptions::new().create(true).append(true).open(path)?))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // A folder can be opened and synced on Unix only; elsewhere the rename has to do.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
}

impl<F: Files> Files for Retry<F> {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        again(|| self.0.create_dir(path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(RetryFile(again(|| self.0.create(path))?)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(RetryFile(again(|| self.0.append(path))?)))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        again(|| self.0.sync_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        again(|| self.0.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        again(|| self.0.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        again(|| self.0.remove_dir(path))
    }
}

impl Write for RetryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        again(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        again(|| self.0.flush())
    }
}

impl Seek for RetryFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        again(|| self.0.seek(to))
    }
}

impl DurableFile for RetryFile {
    fn sync(&mut self) -> io::Result<()> {
        again(|| self.0.sync())
    }
}

/// The folder that a path's last part is in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ if path.has_root() => path,
        _ => Path::new("."),
    }
}

/// Where a file is written before it takes the name `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".tmp");
    PathBuf::from(name)
}

/// Replaces a file in one step: writes beside it, syncs, renames, syncs the folder. Readers see the old or the new,
/// also after a power failure.
///
/// # Errors
/// Whatever the system says. The old file is then still there, unless only the last sync failed; nothing else is.
pub fn replace(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(files, path, |file| file.write_all(bytes))
}

/// As [`replace`], by what `fill` writes.
///
/// # Errors
/// As [`replace`], and those of `fill`.
pub fn replace_with<E: From<io::Error>>(
    files: &dyn Files,
    path: &Path,
    fill: impl FnOnce(&mut dyn DurableFile) -> Result<(), E>,
) -> Result<(), E> {
    let beside = beside(path);
    let written = (|| {
        let mut file = files.create(&beside)?;
        fill(file.as_mut())?;
        file.sync()?;
        drop(file);
        Ok(files.rename(&beside, path)?)
    })();
    if let Err(error) = written {
        // The error that led here matters more than one of cleaning up.
        let _ = files.remove_file(&beside);
        return Err(error);
    }
    Ok(files.sync_dir(folder_of(path))?)
}

/// Makes a folder and those above it that are missing, so that their names survive a power failure.
///
/// # Errors
/// Whatever the system says.
pub fn create_dirs(files: &dyn Files, path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    create_dirs(files, folder_of(path))?;
    match files.create_dir(path) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    files.sync_dir(folder_of(path))
}

/// Removes a folder and what is in it. What others remove meanwhile is no error, and links are not followed.
///
/// # Errors
/// Whatever the system says; that there is no such folder.
pub fn remove_tree(files: &dyn Files, path: &Path) -> io::Result<()> {
    let gone = |done: io::Result<()>| match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    for entry in again(|| fs::read_dir(path))? {
        let entry = entry?;
        gone(match entry.file_type() {
            Ok(found) if found.is_dir() => remove_tree(files, &entry.path()),
            Ok(_) => files.remove_file(&entry.path()),
            Err(error) => Err(error),
        })?;
    }
    files.remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Interrupts every other call, and notes which are made.
    #[derive(Default)]
    struct Interrupted(Mutex<Vec<&'static str>>);

    impl Interrupted {
        fn call(&self, name: &'static str) -> io::Result<()> {
            let mut calls = self.0.lock().unwrap();
            calls.push(name);
            if calls.len() % 2 == 1 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        }
    }

    impl Files for Interrupted {
        fn create_dir(&self, path: &Path) -> io::Result<()> {
            self.call("create_dir")?;
            System.create_dir(path)
        }
        fn create(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
            self.call("create")?;
            System.create(path)
        }
        fn append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
            self.call("append")?;
            System.append(path)
        }
        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            self.call("sync_dir")?;
            System.sync_dir(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.call("rename")?;
            System.rename(from, to)
        }
        fn remove_file(&self, path: &Path) -> io::Result<()> {
            self.call("remove_file")?;
            System.remove_file(path)
        }
        fn remove_dir(&self, path: &Path) -> io::Result<()> {
            self.call("remove_dir")?;
            System.remove_dir(path)
        }
    }

    #[test]
    fn interrupted_calls_are_made_again_and_new_folders_synced_into_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let files = Retry(Interrupted::default());
        let (a, b) = (folder.path().join("a"), folder.path().join("a/b"));
        create_dirs(&files, &b).unwrap();
        create_dirs(&files, &b).unwrap();
        replace(&files, &b.join("f"), b"1").unwrap();
        replace(&files, &b.join("f"), b"two").unwrap();
        files.append(&b.join("f")).unwrap().write_all(b"!").unwrap();
        assert_eq!(fs::read(b.join("f")).unwrap(), b"two!");
        remove_tree(&files, &a).unwrap();
        assert!(!a.exists());
        let calls: Vec<&str> = files.0.0.into_inner().unwrap().into_iter().step_by(2).collect();
        let new = ["create", "rename", "sync_dir"];
        let want: Vec<&str> = ["create_dir", "sync_dir", "create_dir", "sync_dir"]
            .into_iter()
            .chain(new.into_iter().chain(new))
            .chain(["append", "remove_file", "remove_dir", "remove_dir"])
            .collect();
        assert_eq!(calls, want);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        replace(&DISK, &path, b"old").unwrap();
        let failed: io::Result<()> = replace_with(&DISK, &path, |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_folder_of_a_path_can_be_opened() {
        for (path, folder) in [("a", "."), ("a/b", "a"), ("/a", "/"), ("/", "/"), ("./a", ".")] {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
    }
}
