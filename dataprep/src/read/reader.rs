//! The reader of one split, for every format.

use super::access::Access;
use super::decode::is_trailing;
use super::format::{Format, InputFile};
use super::record::{Context, ReadConfig, Record, Records, Site, uncounted};
use super::split::Split;
use super::stream::{Store, Stream};
#[cfg(feature = "parquet")]
use super::table;
use super::{csv, json, lines, members, warc, whole};
use crate::error::{Error, Result};
use crate::extract::Extractor;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Goes through the records of one split.
pub struct Reader {
    records: Box<dyn Records + Send>,
    site: Site,
    read: Arc<AtomicU64>,
    /// Bytes on disk of the split.
    length: u64,
    lost: u64,
    finished: bool,
}

impl Reader {
    /// Opens `file` at `split`, one of those that [`splits`](super::splits) gave for it.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened, [`Error::UnsupportedInput`] when its kind cannot be read at all.
    pub fn open(file: &InputFile, split: &Split, config: &ReadConfig) -> Result<Self> {
        Self::of_store(&Store::of(file), file, split, config)
    }

    pub(super) fn of_store(store: &Store, file: &InputFile, split: &Split, config: &ReadConfig) -> Result<Self> {
        let read = Arc::<AtomicU64>::default();
        let way = Access::of(store, file)?;
        let site = Site { path: file.path.clone(), unit: way.unit() };
        let context = Context {
            file: split.file,
            site: site.clone(),
            config: Arc::new(config.clone()),
            extractor: config.extract.clone().map(Extractor::new),
        };
        let records = records(store, file, way, split.bytes.clone(), context, &read)?;
        let length = split.bytes.end.saturating_sub(split.bytes.start);
        Ok(Self { records, site, read, length, lost: 0, finished: false })
    }

    /// Bytes on disk that lie behind damage after which nothing can be found, about.
    pub fn bytes_lost(&self) -> u64 {
        self.lost
    }

    /// Bytes read from disk, for progress.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

impl Iterator for Reader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        if self.finished {
            return None;
        }
        match self.records.next() {
            Ok(Some(record)) => Some(Ok(record)),
            Ok(None) => {
                self.finished = true;
                None
            }
            Err(e) => {
                self.finished = true;
                if is_trailing(&e) {
                    return Some(Ok(self.site.ignored(self.records.position(), e.to_string())));
                }
                self.lost = self.length.saturating_sub(self.bytes_read());
                let damaged = |e: io::Error| self.site.bad(self.records.position(), format!("damaged: {e}"));
                Some(match e.raw_os_error() {
                    Some(_) => Err(Error::io("read", &self.site.path)(e)),
                    // Errors of ours pass through; the decoders' end the stream, and what came before stands.
                    None => e.downcast::<Error>().map_or_else(|e| Ok(damaged(e)), Err),
                })
            }
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("path", &self.site.path).field("position", &self.records.position()).finish()
    }
}

fn records(
    store: &Store,
    file: &InputFile,
    way: Access,
    bytes: Range<u64>,
    context: Context,
    read: &Arc<AtomicU64>,
) -> Result<Box<dyn Records + Send>> {
    let end = if matches!(way, Access::Decoded(_)) { u64::MAX } else { bytes.end };
    let stream = match way {
        Access::Decoded(compression) => {
            Stream::open_within(store, compression, read.clone(), context.config.max_growth)
        }
        _ => Stream::plain(store, bytes.start, read.clone()),
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(e) => return Err(Error::io("read", &file.path)(e)),
    };
    Ok(match file.format {
        Format::Text => Box::new(whole::Whole::new(context, stream, false)),
        Format::Html => Box::new(whole::Whole::new(context, stream, true)),
        Format::Lines => Box::new(lines::Lines::new(context, stream, end, false)),
        Format::Json => Box::new(json::Json::new(context, stream)),
        Format::JsonLines => Box::new(lines::Lines::new(context, stream, end, true)),
        Format::Csv | Format::Tsv => {
            let delimiter = if file.format == Format::Csv { b',' } else { b'\t' };
            let middle = way == Access::Plain && bytes.start > 0;
            let csv = || {
                let header = middle.then(|| Stream::plain(store, 0, uncounted())).transpose()?;
                csv::Csv::new(context, stream, header, end, delimiter)
            };
            Box::new(csv().map_err(Error::io("read", &file.path))?)
        }
        Format::Warc if way == Access::Members => Box::new(members::Members::new(context, store.clone(), stream, end)),
        Format::Warc => {
            let length = (way == Access::Plain).then_some(file.bytes);
            Box::new(warc::Warc::new(context, stream, length, end))
        }
        #[cfg(feature = "parquet")]
        Format::Parquet | Format::Arrow => {
            Box::new(table::Table::new(context, store, file.format, bytes, read.clone()))
        }
        #[cfg(not(feature = "parquet"))]
        Format::Parquet | Format::Arrow => unreachable!("such files are refused when their way is chosen"),
    })
}
