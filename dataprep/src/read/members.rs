//! WARC files whose records are compressed one by one, as the standard recommends (ISO 28500, annex D): each record is
//! a separate gzip member, so a record can be found by its place in the compressed file.

use super::record::{Context, Record, Records};
use super::stream::{Store, Stream};
use super::warc::{self, Item, Items};
use flate2::bufread::GzDecoder;
use memchr::memmem;
use std::io::{self, BufReader, Read};

/// What a gzip member begins with: its magic number, and deflate.
const MAGIC: &[u8] = b"\x1f\x8b\x08";
/// A member found in the middle of a file must hold, with those that follow, for more than this many bytes. Compressed
/// data can contain a compressed WARC file as it is, but never this much without a break: a stored block of deflate
/// ends after 65,535 bytes.
const CERTAIN: u64 = 1 << 16;
/// Decompressed bytes looked at to make sure of one member.
const MOST: u64 = 1 << 28;
/// Decompressed bytes that headers take at most beside the content of a record.
const HEADERS: u64 = 1 << 20;

/// Whether `store` holds one record a member, and so can be entered at members. Decided by its first member, or, where
/// that is damaged, by whether any is found after it.
pub(super) fn are_records(store: &Store) -> io::Result<bool> {
    let only_one = || -> io::Result<bool> {
        let compressed = Stream::plain(store, 0, super::record::uncounted())?;
        let first = GzDecoder::new(compressed).take(MOST);
        let mut items = Items::new(Stream::over(BufReader::new(first)), None, 0);
        Ok(matches!(items.next(u64::MAX)?, Item::Record { .. }) && matches!(items.next(u64::MAX)?, Item::End))
    };
    match only_one() {
        Err(e) if e.raw_os_error().is_none() => Ok(find(store, 1)?.is_some()),
        decided => decided,
    }
}

/// Finds, for each of `cuts` (rising), where the first member begins that does not begin before it.
pub(super) fn starts(store: &Store, cuts: &[u64]) -> io::Result<Vec<u64>> {
    let mut starts: Vec<u64> = Vec::new();
    for &cut in cuts {
        if starts.last().is_none_or(|&last| last < cut) {
            let Some(start) = find(store, cut)? else {
                break;
            };
            starts.push(start);
        }
    }
    Ok(starts)
}

/// The first place from `from` on where members with records begin.
fn find(store: &Store, from: u64) -> io::Result<Option<u64>> {
    let finder = memmem::Finder::new(MAGIC);
    let mut stream = Stream::plain(store, from, super::record::uncounted())?;
    // What was read and may hold the start of a magic number.
    let (mut window, mut window_start) = (Vec::new(), from);
    loop {
        let read = stream.read_up_to(1 << 16, &mut window)?;
        for at in finder.find_iter(&window) {
            let candidate = window_start + at as u64;
            if is_certain(store, candidate)? {
                return Ok(Some(candidate));
            }
        }
        if read == 0 {
            return Ok(None);
        }
        let done = window.len().saturating_sub(MAGIC.len() - 1);
        window.drain(..done);
        window_start += done as u64;
    }
}

/// Whether members with records follow one another from `start` to the end, or long enough. So records between two
/// places of damage that are closer than that are lost with the first.
fn is_certain(store: &Store, start: u64) -> io::Result<bool> {
    let mut stream = Stream::plain(store, start, super::record::uncounted())?;
    let mut left = MOST;
    while stream.position() - start <= CERTAIN && !stream.fill()?.is_empty() {
        match is_member(&mut stream, &mut left) {
            Ok(true) => stream.skip_zeros()?,
            Ok(false) => return Ok(false),
            Err(e) if e.raw_os_error().is_some() => return Err(e),
            Err(_) => return Ok(false),
        }
    }
    Ok(stream.position() > start)
}

/// Passes over a member and says whether it begins as a record does.
fn is_member(stream: &mut Stream, left: &mut u64) -> io::Result<bool> {
    let mut start = [0; 5];
    let mut member = GzDecoder::new(stream).take(*left);
    member.read_exact(&mut start)?;
    io::copy(&mut member, &mut io::sink())?;
    *left = member.limit();
    Ok(&start == b"WARC/" && *left > 0)
}

/// The documents of members that begin before `end`.
pub(super) struct Members {
    context: Context,
    store: Store,
    stream: Stream,
    end: u64,
}

impl Members {
    /// Reads on from where `stream`, the file as it lies on disk, is.
    pub(super) fn new(context: Context, store: Store, stream: Stream, end: u64) -> Self {
        Self { context, store, stream, end }
    }

    /// Reads the member that begins here; holds no more of it than a document may have.
    fn member(&mut self) -> io::Result<(Vec<u8>, u64)> {
        let limit = self.context.config.max_document_bytes.saturating_add(HEADERS);
        let mut bytes = Vec::new();
        let mut member = GzDecoder::new(&mut self.stream);
        member.by_ref().take(limit).read_to_end(&mut bytes)?;
        let more = io::copy(&mut member, &mut io::sink())?;
        let length = bytes.len() as u64 + more;
        Ok((bytes, length))
    }

    /// The record in a member, if it is wanted.
    fn record(&mut self, start: u64, bytes: Vec<u8>, length: u64) -> io::Result<Option<Record>> {
        let range = start..self.stream.position();
        // Where only the beginning was kept, the rest is content that is too long, whatever is put in its place.
        let kept = bytes.len() as u64;
        let rest = Box::new(io::repeat(b'\n').take(length - kept)) as Box<dyn Read + Send>;
        let stream = Stream::over(BufReader::new(io::Cursor::new(bytes).chain(rest)));
        let mut items = Items::new(stream, Some(length), self.context.config.max_document_bytes);
        Ok(match items.next(u64::MAX)? {
            Item::End => Some(self.context.bad(start, "an empty gzip member".into())),
            Item::Bad { why, .. } => Some(self.context.bad(start, why)),
            Item::Record { .. } if !matches!(items.next(u64::MAX)?, Item::End) => {
                Some(self.context.bad(start, "several records in one gzip member; compress them one by one".into()))
            }
            Item::Record { head, .. } if !head.is_wanted() => None,
            Item::Record { head, content, .. } => Some(warc::record(&mut self.context, head, range, content)?),
        })
    }
}

impl Records for Members {
    fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            // Members do not begin with zeros: these are padding.
            self.stream.skip_zeros()?;
            let start = self.stream.position();
            if start >= self.end || self.stream.fill()?.is_empty() {
                return Ok(None);
            }
            match self.member() {
                Ok((bytes, length)) => {
                    if let Some(record) = self.record(start, bytes, length)? {
                        return Ok(Some(record));
                    }
                }
                Err(e) if e.raw_os_error().is_some() => return Err(e),
                Err(e) => {
                    match find(&self.store, start + 1)? {
                        Some(next) => self.stream.go_to(next)?,
                        None => self.end = 0,
                    }
                    return Ok(Some(self.context.bad(start, format!("damaged: {e}"))));
                }
            }
        }
    }

    fn position(&self) -> u64 {
        self.stream.position()
    }
}
