//! File operations of which one fails, or all from one on.

use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fathom_dataprep::durable::{DurableFile, Files, System};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// That call fails; a write takes half of its bytes first.
    Once(ErrorKind),
    /// That call and all later ones fail.
    FromThenOn(ErrorKind),
    /// A signal interrupts every call once.
    Interrupted,
    /// Writes take three bytes at most.
    Short,
}

/// Operations without syncs, where call `number`, from 0, meets a fault.
#[derive(Clone)]
pub struct Faulty {
    fault: Fault,
    number: usize,
    calls: Arc<AtomicUsize>,
}

/// Operations without syncs.
pub const PLAIN: Plain = Plain;

#[derive(Clone, Copy)]
pub struct Plain;

impl Faulty {
    pub fn new(fault: Fault, number: usize) -> Self {
        Self { fault, number, calls: Arc::default() }
    }

    /// Whether the fault was met.
    pub fn met(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > self.number
    }

    fn check(&self) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Once(kind) if call == self.number => Err(kind.into()),
            Fault::FromThenOn(kind) if call >= self.number => Err(kind.into()),
            Fault::Interrupted if call.is_multiple_of(2) => Err(ErrorKind::Interrupted.into()),
            _ => Ok(()),
        }
    }

    fn file(&self, file: Box<dyn DurableFile>) -> Box<dyn DurableFile> {
        Box::new(FaultyFile { file, disk: self.clone() })
    }
}

struct FaultyFile {
    file: Box<dyn DurableFile>,
    disk: Faulty,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.disk.fault == Fault::Short {
            return self.file.write(&bytes[..bytes.len().min(3)]);
        }
        if let Err(error) = self.disk.check() {
            if error.kind() != ErrorKind::Interrupted {
                self.file.write_all(&bytes[..bytes.len() / 2])?;
            }
            return Err(error);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for FaultyFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl DurableFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.check()
    }
}

impl Files for Faulty {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        System.create_dir(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        self.check()?;
        Ok(self.file(System.create(path)?))
    }
    fn append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        self.check()?;
        Ok(self.file(System.append(path)?))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        std::fs::metadata(path).map(drop)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        System.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        System.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        System.remove_dir(path)
    }
}

struct PlainFile(Box<dyn DurableFile>);

impl Write for PlainFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for PlainFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl DurableFile for PlainFile {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Files for Plain {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        System.create_dir(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(PlainFile(System.create(path)?)))
    }
    fn append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(PlainFile(System.append(path)?)))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::metadata(path).map(drop)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        System.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        System.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        System.remove_dir(path)
    }
}
