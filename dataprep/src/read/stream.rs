//! A decompressed byte stream that knows the position of each byte in the file.

use super::decode::{Gzip, Transcoded, Wide, compressed, zstd};
use super::format::{Compression, InputFile};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes read from disk at a time.
const BUFFER: usize = 1 << 16;
/// A stream may grow by this factor when it is decompressed, beyond [`GROWTH_FLOOR`], where nothing else is asked for.
/// gzip reaches 1032 at most, and a zstd block of four bytes stands for 128 KiB, which is 32,768: so a file that is
/// compressed once is never refused. The length of a record is bounded apart from this.
pub(crate) const GROWTH: u64 = 40_000;
/// Decompressed bytes below which growth is of no concern.
const GROWTH_FLOOR: u64 = 1 << 28;
/// Times that a file may be compressed over and over.
const LAYERS: usize = 4;

/// Where a reader's bytes are: in a file, or in memory for tests and fuzzing.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    File(PathBuf),
    Memory(Arc<[u8]>),
}

impl Store {
    pub(crate) fn of(file: &InputFile) -> Self {
        Self::File(file.path.clone())
    }

    /// The bytes as they lie there, from the start.
    pub(crate) fn open(&self) -> io::Result<Raw> {
        Ok(match self {
            Self::File(path) => Raw::File(File::open(path)?),
            Self::Memory(bytes) => Raw::Memory(Cursor::new(bytes.clone())),
        })
    }

    /// How many there are.
    #[cfg(feature = "parquet")]
    pub(crate) fn length(&self) -> io::Result<u64> {
        Ok(match self {
            Self::File(path) => std::fs::metadata(path)?.len(),
            Self::Memory(bytes) => bytes.len() as u64,
        })
    }
}

/// An open [`Store`].
#[derive(Debug)]
pub(crate) enum Raw {
    File(File),
    Memory(Cursor<Arc<[u8]>>),
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Memory(bytes) => bytes.read(buffer),
        }
    }
}

impl Seek for Raw {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File(file) => file.seek(to),
            Self::Memory(bytes) => bytes.seek(to),
        }
    }
}

/// Counts the bytes that pass, for progress and for the limit on growth.
#[derive(Debug)]
pub(crate) struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    pub(crate) fn new(inner: R, read: Arc<AtomicU64>) -> Self {
        Self { inner, read }
    }
}

impl<R: Seek> Seek for Counted<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A decoder that stops when it makes too much out of too little.
struct Guarded<R> {
    inner: R,
    read: Arc<AtomicU64>,
    made: u64,
    growth: u64,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.made = self.made.saturating_add(n as u64);
        let most = GROWTH_FLOOR.saturating_add(self.read.load(Ordering::Relaxed).saturating_mul(self.growth));
        if self.made > most {
            let what = format!(
                "refused as a bomb: more than {} times as large as what it was made of (input.max_growth)",
                self.growth
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(n)
    }
}

/// Gives an error where a decoder met it, and then nothing.
struct Failed(Option<io::Error>);

impl Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// All bytes of a stream, for a decoder.
struct Whole(Stream);

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.inner().read(buffer)?;
        self.0.position += n as u64;
        Ok(n)
    }
}

impl BufRead for Whole {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill()
    }

    fn consume(&mut self, n: usize) {
        self.0.consume(n);
    }
}

/// The outcome of reading a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// It is in the buffer, without its end.
    Whole,
    /// It has this many bytes, more than the limit; the buffer holds its beginning.
    TooLong(u64),
    /// There was none.
    End,
}

/// Decompressed bytes, read forward.
pub(crate) struct Stream {
    inner: Inner,
    position: u64,
}

enum Inner {
    /// A file as it lies on disk, in which one can jump.
    Plain(BufReader<Counted<Raw>>),
    Decoded(Box<dyn BufRead + Send>),
}

impl Stream {
    /// All bytes of `store`, decompressed, and as UTF-8 where a byte order mark declares UTF-16 or UTF-32. What is read
    /// from disk is added to `read`.
    pub(crate) fn open(store: &Store, compression: Compression, read: Arc<AtomicU64>) -> io::Result<Self> {
        Self::open_within(store, compression, read, GROWTH)
    }

    /// The same, where no more than `growth` bytes may come of a compressed one.
    pub(crate) fn open_within(
        store: &Store,
        compression: Compression,
        read: Arc<AtomicU64>,
        growth: u64,
    ) -> io::Result<Self> {
        let raw = BufReader::with_capacity(BUFFER, Counted::new(store.open()?, read.clone()));
        let mut stream = Self { inner: Inner::Plain(raw), position: 0 };
        let mut layer = Some(compression).filter(|&compression| compression != Compression::None);
        for depth in 0.. {
            let Some(compression) = layer else { break };
            if depth == LAYERS {
                let what = format!("compressed more than {LAYERS} times over: refused as a bomb");
                return Ok(Self::over(BufReader::new(Failed(Some(io::Error::other(what))))));
            }
            let inner: Box<dyn Read + Send> = match compression {
                Compression::Zstd => Box::new(zstd(Whole(stream))?),
                _ => Box::new(Gzip::new(Whole(stream))),
            };
            let guarded = Guarded { inner, read: read.clone(), made: 0, growth };
            stream = Self::over(BufReader::with_capacity(BUFFER, guarded));
            layer = match stream.fill() {
                Ok(start) => compressed(start),
                Err(e) if e.raw_os_error().is_some() => return Err(e),
                // The reader meets the damage.
                Err(e) => return Ok(Self::over(BufReader::new(Failed(Some(e))))),
            };
        }
        Ok(match Wide::declared(stream.fill()?) {
            Some(wide) => Self::over(BufReader::with_capacity(BUFFER, Transcoded::new(Whole(stream), wide))),
            None => stream,
        })
    }

    /// The bytes of `store` as they are, from `start` on.
    pub(crate) fn plain(store: &Store, start: u64, read: Arc<AtomicU64>) -> io::Result<Self> {
        let mut raw = store.open()?;
        raw.seek(SeekFrom::Start(start))?;
        Ok(Self { inner: Inner::Plain(BufReader::with_capacity(BUFFER, Counted::new(raw, read))), position: start })
    }

    /// What another reader gives, counted from 0.
    pub(crate) fn over(reader: impl BufRead + Send + 'static) -> Self {
        Self { inner: Inner::Decoded(Box::new(reader)), position: 0 }
    }

    fn inner(&mut self) -> &mut dyn BufRead {
        match &mut self.inner {
            Inner::Plain(reader) => reader,
            Inner::Decoded(reader) => reader,
        }
    }

    /// Decompressed bytes before the next one, from the start of the file.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Buffered bytes; none at the end.
    pub(crate) fn fill(&mut self) -> io::Result<&[u8]> {
        // Asking twice costs nothing: what is there is not read again.
        while let Err(e) = self.inner().fill_buf() {
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
        self.inner().fill_buf()
    }

    /// Skips `n` buffered bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        self.inner().consume(n);
        self.position += n as u64;
    }

    /// Passes over zero bytes.
    pub(crate) fn skip_zeros(&mut self) -> io::Result<()> {
        loop {
            let chunk = self.fill()?;
            let zeros = chunk.iter().take_while(|&&byte| byte == 0).count();
            if zeros == 0 {
                return Ok(());
            }
            self.consume(zeros);
        }
    }

    /// Goes to byte `to` of a file as it lies on disk, which other streams cannot.
    pub(crate) fn go_to(&mut self, to: u64) -> io::Result<()> {
        let Inner::Plain(reader) = &mut self.inner else {
            return Err(io::Error::other("a decompressed stream cannot be entered in the middle"));
        };
        reader.seek(SeekFrom::Start(to))?;
        self.position = to;
        Ok(())
    }

    /// Appends the next `n` bytes to `buffer`, or the rest if it is shorter; gives their number.
    pub(crate) fn read_up_to(&mut self, n: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
        let mut read = 0;
        while read < n {
            let chunk = self.fill()?;
            let part = chunk.len().min(usize::try_from(n - read).unwrap_or(usize::MAX));
            let Some(bytes) = chunk.get(..part).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            buffer.extend_from_slice(bytes);
            self.consume(part);
            read += part as u64;
        }
        Ok(read)
    }

    /// Passes over `n` bytes, or the rest if it is shorter; gives their number. In a file on disk that is a jump when
    /// it is far, and the caller knows that it does not lead over the end.
    pub(crate) fn skip(&mut self, n: u64) -> io::Result<u64> {
        if n > BUFFER as u64 && matches!(self.inner, Inner::Plain(_)) {
            self.go_to(self.position.saturating_add(n))?;
            return Ok(n);
        }
        let mut skipped = 0;
        while skipped < n {
            let part = self.fill()?.len().min(usize::try_from(n - skipped).unwrap_or(usize::MAX));
            if part == 0 {
                break;
            }
            self.consume(part);
            skipped += part as u64;
        }
        Ok(skipped)
    }

    /// Reads a line into `buffer`, without its `\n`, holding no more than `limit` bytes of it.
    pub(crate) fn line(&mut self, limit: u64, buffer: &mut Vec<u8>) -> io::Result<Line> {
        buffer.clear();
        let (start, mut length) = (self.position, 0);
        loop {
            let chunk = self.fill()?;
            if chunk.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', chunk);
            let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            let room = usize::try_from(limit.saturating_sub(length)).unwrap_or(usize::MAX);
            buffer.extend_from_slice(part.get(..room).unwrap_or(part));
            length += part.len() as u64;
            let used = part.len() + usize::from(end.is_some());
            self.consume(used);
            if end.is_some() {
                break;
            }
        }
        Ok(match length > limit {
            _ if self.position == start => Line::End,
            true => Line::TooLong(length),
            false => Line::Whole,
        })
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner().read(buffer)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.fill()
    }

    fn consume(&mut self, n: usize) {
        Stream::consume(self, n);
    }
}
