//! The file-system operations that a checkpoint is written through; tests replace them by ones that fail.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// A file being written.
pub trait StoreFile: Write {
    /// Returns once everything written will survive a power failure.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file-system operations that a checkpoint is written through. Every call may fail.
pub trait Store {
    /// Creates a folder and those above it.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates a file, or empties it.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StoreFile>>;
    /// Makes a file that something else wrote survive a power failure.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder survive a power failure.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a file or folder another name, in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a folder and what is in it.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl StoreFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Store for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StoreFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // A folder can be opened and synced on Unix only; elsewhere the rename has to do.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
}

/// Replaces a file in one step: writes beside it, syncs, renames, syncs the folder. Readers see the old or the new.
///
/// # Errors
/// Whatever the store says; the old file is then still there.
pub fn replace(store: &dyn Store, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = Path::new(&beside);
    let mut file = store.create(beside)?;
    file.write_all(bytes)?;
    file.sync()?;
    drop(file);
    store.rename(beside, path)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => store.sync_dir(parent),
        None => store.sync_dir(Path::new(".")),
    }
}
