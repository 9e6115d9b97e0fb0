//! Writes documents of tokens as a series of `.bin`/`.idx` pairs.

use super::index::{Dtype, HEADER, MAGIC};
use super::manifest::{FileEntry, ShardEntry, SplitEntry};
use crate::durable::{DISK, DurableFile, Files};
use crate::error::{Error, Result};
use crate::hash;
use sha2::{Digest, Sha256};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes the shards of one split, `NAME-00000`, `NAME-00001`, ..., a new one whenever the next document would make the
/// `.bin` file larger than the limit. A document always lies whole in one shard.
///
/// Files carry the suffix `.tmp` until [`WrittenShards::commit`].
pub struct ShardWriter {
    folder: PathBuf,
    name: String,
    dtype: Dtype,
    eos: u32,
    limit: u64,
    open: Option<OpenShard>,
    bytes: Vec<u8>,
    done: SplitEntry,
}

impl ShardWriter {
    /// Will write `FOLDER/NAME-*.bin` and `.idx` of at most `limit` bytes of tokens each, ending each document with
    /// `eos`.
    pub fn new(folder: &Path, name: &str, dtype: Dtype, eos: u32, limit: u64) -> Self {
        Self {
            folder: folder.into(),
            name: name.into(),
            dtype,
            eos,
            limit,
            open: None,
            bytes: Vec::new(),
            done: SplitEntry::default(),
        }
    }

    /// Appends a document of `tokens` that stand for `text_bytes` bytes of text, and the end-of-document token.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full or the folder not writable; [`Error::Tokenize`] when a document has more
    /// tokens than the format can say (2³¹ − 1) or a token does not fit the element type.
    pub fn push(&mut self, tokens: &[u32], text_bytes: u64) -> Result<()> {
        let too_long =
            || Error::Tokenize(format!("a document of {} tokens: shards hold at most 2^31 - 2", tokens.len()));
        let length = tokens.len().checked_add(1).and_then(|n| i32::try_from(n).ok()).ok_or_else(too_long)?;
        self.bytes.clear();
        for &token in tokens.iter().chain([&self.eos]) {
            let misfit = || Error::Tokenize(format!("token {token} does not fit {:?}", self.dtype));
            match self.dtype {
                Dtype::U16 => self.bytes.extend(u16::try_from(token).map_err(|_| misfit())?.to_le_bytes()),
                Dtype::I32 => self.bytes.extend(i32::try_from(token).map_err(|_| misfit())?.to_le_bytes()),
            }
        }
        let size = self.bytes.len() as u64;
        if self.open.as_ref().is_some_and(|open| open.written.saturating_add(size) > self.limit) {
            self.close()?;
        }
        if self.open.is_none() {
            let name = format!("{}-{:05}", self.name, self.done.shards.len());
            self.open = Some(OpenShard::create(&self.folder, name)?);
        }
        let open = self.open.as_mut().expect("opened above");
        open.append(&self.bytes, length)?;
        self.done.documents += 1;
        self.done.tokens += length as u64;
        self.done.text_bytes += text_bytes;
        Ok(())
    }

    /// Writes what is left and syncs every file. Nothing has its final name yet.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<WrittenShards> {
        self.close()?;
        Ok(WrittenShards { folder: self.folder, entry: self.done })
    }

    fn close(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.done.shards.push(open.close(&self.folder, self.dtype)?);
        }
        Ok(())
    }
}

/// Shards that are complete on disk under temporary names.
#[derive(Debug)]
pub struct WrittenShards {
    folder: PathBuf,
    entry: SplitEntry,
}

impl WrittenShards {
    /// Manifest entry of what was written.
    pub fn entry(&self) -> &SplitEntry {
        &self.entry
    }

    /// Gives every file its final name, for good.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit(self) -> Result<SplitEntry> {
        for shard in &self.entry.shards {
            for suffix in ["bin", "idx"] {
                let path = self.folder.join(format!("{}.{suffix}", shard.name));
                let temporary = self.folder.join(format!("{}.{suffix}.tmp", shard.name));
                DISK.rename(&temporary, &path).map_err(Error::io("rename a finished file to", &path))?;
            }
        }
        DISK.sync_dir(&self.folder).map_err(Error::io("sync", &self.folder))?;
        Ok(self.entry)
    }
}

struct OpenShard {
    name: String,
    path: PathBuf,
    file: BufWriter<Box<dyn DurableFile>>,
    hasher: Sha256,
    written: u64,
    lengths: Vec<i32>,
}

impl OpenShard {
    fn create(folder: &Path, name: String) -> Result<Self> {
        let path = folder.join(format!("{name}.bin.tmp"));
        let file = DISK.create(&path).map_err(Error::io("create", &path))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { name, path, file, hasher: Sha256::new(), written: 0, lengths: Vec::new() })
    }

    fn append(&mut self, bytes: &[u8], length: i32) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        self.lengths.push(length);
        Ok(())
    }

    fn close(mut self, folder: &Path, dtype: Dtype) -> Result<ShardEntry> {
        self.file.flush().map_err(Error::io("write", &self.path))?;
        self.file.get_mut().sync().map_err(Error::io("sync", &self.path))?;
        let idx_path = folder.join(format!("{}.idx.tmp", self.name));
        let idx = index_bytes(&self.lengths, dtype);
        let write = || {
            let mut file = DISK.create(&idx_path)?;
            file.write_all(&idx)?;
            file.sync()
        };
        write().map_err(Error::io("write", &idx_path))?;
        Ok(ShardEntry {
            name: self.name,
            documents: self.lengths.len() as u64,
            tokens: self.written / dtype.width(),
            bin: FileEntry { bytes: self.written, sha256: hash::hex(&self.hasher.finalize()) },
            idx: FileEntry { bytes: idx.len() as u64, sha256: hash::of_bytes(&idx) },
            docs: None,
        })
    }
}

/// The whole `.idx` file for documents of these lengths, one sequence each.
pub(crate) fn index_bytes(lengths: &[i32], dtype: Dtype) -> Vec<u8> {
    let n = lengths.len();
    let mut out = Vec::with_capacity(HEADER as usize + 20 * n + 8);
    out.extend(MAGIC);
    out.extend(1_u64.to_le_bytes());
    out.push(dtype.code());
    out.extend((n as u64).to_le_bytes());
    out.extend((n as u64 + 1).to_le_bytes());
    for length in lengths {
        out.extend(length.to_le_bytes());
    }
    let mut offset = 0_i64;
    for &length in lengths {
        out.extend(offset.to_le_bytes());
        offset += i64::from(length) * dtype.width() as i64;
    }
    for document in 0..=n as i64 {
        out.extend(document.to_le_bytes());
    }
    out
}
