//! File operations that are made in a folder, without syncs, and recorded.

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use fathom_dataprep::durable::{DurableFile, Files, System};

/// The number of a file or folder; names may change.
pub type Id = usize;

/// A recorded operation.
#[derive(Clone, Debug)]
pub enum Op {
    /// The folder gets an entry: a new file or folder, which `Id` is.
    Link(Id, String, Id),
    /// An entry moves, its folder and name before and after.
    Rename((Id, String), (Id, String), Id),
    /// The folder loses an entry.
    Unlink(Id, String, Id),
    /// The file is emptied.
    Truncate(Id),
    /// Bytes are written at a place of the file.
    Write(Id, u64, Vec<u8>),
    /// The file is synced.
    SyncFile(Id),
    /// The folder is synced.
    SyncDir(Id),
}

/// Names in a folder; the root is number 0. Files have no entry.
pub type Folders = BTreeMap<Id, BTreeMap<String, Id>>;

/// What was done, in order.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The operations.
    pub ops: Vec<Op>,
    folders: Folders,
    ids: usize,
}

/// Operations below `root`, which is empty at first. Those elsewhere are made and not recorded.
pub struct Recorder {
    root: PathBuf,
    trace: Arc<Mutex<Trace>>,
}

impl Recorder {
    pub fn new(root: &Path) -> Self {
        let trace = Trace { folders: BTreeMap::from([(0, BTreeMap::new())]), ids: 1, ..Trace::default() };
        Self { root: root.into(), trace: Arc::new(Mutex::new(trace)) }
    }

    pub fn trace(&self) -> Trace {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap()
    }

    /// Folder and name of a path, as it is called in the trace.
    fn place(&self, trace: &Trace, path: &Path) -> Option<(Id, String)> {
        let name = path.file_name()?.to_str()?.to_owned();
        Some((trace.find(path.parent()?.strip_prefix(&self.root).ok()?)?, name))
    }

    fn file(&self, path: &Path, file: Box<dyn DurableFile>, empty: bool) -> Box<dyn DurableFile> {
        let mut trace = self.lock();
        let Some((folder, name)) = self.place(&trace, path) else { return file };
        let known = trace.folders[&folder].get(&name).copied();
        let id = known.unwrap_or_else(|| trace.link(folder, name));
        if empty && known.is_some() {
            trace.ops.push(Op::Truncate(id));
        }
        drop(trace);
        let at = if empty { 0 } else { std::fs::metadata(path).map_or(0, |found| found.len()) };
        Box::new(Recorded { file, id, at, trace: self.trace.clone() })
    }
}

impl Trace {
    /// All folders that there ever were.
    pub fn folders(&self) -> impl Iterator<Item = Id> {
        self.folders.keys().copied()
    }

    fn find(&self, path: &Path) -> Option<Id> {
        path.components().try_fold(0, |folder, part| match part {
            Component::Normal(name) => self.folders.get(&folder)?.get(name.to_str()?).copied(),
            _ => None,
        })
    }

    fn link(&mut self, folder: Id, name: String) -> Id {
        let id = self.ids;
        self.ids += 1;
        self.folders.get_mut(&folder).unwrap().insert(name.clone(), id);
        self.ops.push(Op::Link(folder, name, id));
        id
    }
}

impl Files for Recorder {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        System.create_dir(path)?;
        let mut trace = self.lock();
        if let Some((folder, name)) = self.place(&trace, path) {
            let id = trace.link(folder, name);
            trace.folders.insert(id, BTreeMap::new());
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(self.file(path, System.create(path)?, true))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(self.file(path, System.append(path)?, false))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut trace = self.lock();
        if let Some(id) = path.strip_prefix(&self.root).ok().and_then(|path| trace.find(path)) {
            trace.ops.push(Op::SyncDir(id));
        }
        std::fs::metadata(path).map(drop)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        System.rename(from, to)?;
        let mut trace = self.lock();
        if let (Some(from), Some(to)) = (self.place(&trace, from), self.place(&trace, to)) {
            let id = trace.folders.get_mut(&from.0).unwrap().remove(&from.1).unwrap();
            trace.folders.get_mut(&to.0).unwrap().insert(to.1.clone(), id);
            trace.ops.push(Op::Rename(from, to, id));
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        System.remove_file(path)?;
        let mut trace = self.lock();
        // Scratch files, which need not outlive anything, are not recorded.
        if let Some((folder, name)) = self.place(&trace, path)
            && let Some(id) = trace.folders.get_mut(&folder).unwrap().remove(&name)
        {
            trace.ops.push(Op::Unlink(folder, name, id));
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        System.remove_dir(path)?;
        let mut trace = self.lock();
        if let Some((folder, name)) = self.place(&trace, path)
            && let Some(id) = trace.folders.get_mut(&folder).unwrap().remove(&name)
        {
            trace.ops.push(Op::Unlink(folder, name, id));
        }
        Ok(())
    }
}

struct Recorded {
    file: Box<dyn DurableFile>,
    id: Id,
    at: u64,
    trace: Arc<Mutex<Trace>>,
}

impl Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.trace.lock().unwrap().ops.push(Op::Write(self.id, self.at, bytes[..written].to_vec()));
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Recorded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

impl DurableFile for Recorded {
    fn sync(&mut self) -> io::Result<()> {
        self.trace.lock().unwrap().ops.push(Op::SyncFile(self.id));
        Ok(())
    }
}
