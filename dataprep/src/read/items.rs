//! Items of a file with all of their fields, as evaluation tasks need them: lines, records or rows as JSON objects.

use super::access::Access;
use super::again::line_at;
use super::csv::{Frame, Framer, Row};
use super::format::{Compression, Format, InputFile};
use super::json::Json;
use super::record::{BYTE_ORDER_MARK, uncounted};
use super::stream::{Line, Store, Stream};
#[cfg(feature = "parquet")]
use super::table;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::io;
use std::path::Path;

/// The most bytes that a file of items may hold, decompressed: they are all kept in memory.
const MAX_BYTES: u64 = 4 << 30;
/// The most bytes of one item.
const MAX_ITEM: u64 = 256 << 20;

/// A record with its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its position in the file, for [`ItemFile::line`].
    pub at: u64,
    /// The fields by name.
    pub fields: Map<String, Value>,
}

/// A problem of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadItem {
    /// Position of the item, for [`ItemFile::line`].
    pub at: u64,
    /// Problem and remedy.
    pub why: String,
}

/// A file of items: JSON Lines, JSON, CSV, TSV, Parquet, Arrow, or a text, which is one item with the field `text`.
#[derive(Clone, Debug)]
pub struct ItemFile {
    file: InputFile,
    store: Store,
}

/// The outcome of reading a file: its items, or what is wrong with the first bad one.
pub type Items = std::result::Result<Vec<Item>, BadItem>;

impl ItemFile {
    /// Opens a file. Its suffix and its content say what it is.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::UnsupportedInput`] for web pages and archives.
    pub fn open(path: &Path) -> Result<Self> {
        let unsupported = |what: &str| Error::UnsupportedInput { path: path.into(), what: what.into() };
        if path.is_dir() {
            return Err(unsupported("one file is needed, not a folder of files"));
        }
        let file = super::walk::file(path)?;
        if matches!(file.format, Format::Html | Format::Warc) {
            return Err(unsupported("items come from JSON, CSV, TSV, Parquet, Arrow or text files"));
        }
        Ok(Self { store: Store::of(&file), file })
    }

    /// The line of an item, from 1; of a table the row, from 1.
    ///
    /// # Errors
    /// As for [`items`](Self::items).
    pub fn line(&self, at: u64) -> Result<u64> {
        if matches!(self.file.format, Format::Parquet | Format::Arrow) { Ok(at + 1) } else { line_at(&self.file, at) }
    }

    /// All items in order. `columns` names the fields of CSV and TSV files that have no header.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::UnsupportedInput`] for tables in a program without the feature `parquet`. Damage in the
    /// file is a [`BadItem`].
    pub fn items(&self, columns: Option<&[String]>) -> Result<Items> {
        let compression = match Access::of(&self.store, &self.file)? {
            Access::Plain | Access::Rows => Compression::None,
            Access::Members => Compression::Gzip,
            Access::Decoded(compression) => compression,
        };
        let mut reading = Reading { items: Vec::new(), bytes: 0 };
        let mut read = || match self.file.format {
            #[cfg(feature = "parquet")]
            Format::Parquet | Format::Arrow => reading.rows(&self.store, self.file.format),
            format => {
                let stream = Stream::open(&self.store, compression, uncounted())?;
                match format {
                    Format::JsonLines => reading.lines(stream),
                    Format::Json => reading.json(stream),
                    Format::Csv => reading.records(stream, b',', columns),
                    Format::Tsv => reading.records(stream, b'\t', columns),
                    _ => reading.text(stream),
                }
            }
        };
        match read() {
            Ok(done) => Ok(done.map(|()| reading.items)),
            Err(e) if e.raw_os_error().is_some() => Err(Error::io("read", &self.file.path)(e)),
            Err(e) => {
                let at = reading.items.last().map_or(0, |item| item.at);
                Ok(Err(BadItem { at, why: format!("damaged from here on: {e}") }))
            }
        }
    }
}

/// What was read so far.
struct Reading {
    items: Vec<Item>,
    bytes: u64,
}

/// Goes on with the next item, or not.
type Taken = std::result::Result<(), BadItem>;

impl Reading {
    /// Takes an item, or what is wrong with it.
    fn take(&mut self, at: u64, fields: std::result::Result<Map<String, Value>, String>) -> Taken {
        match fields {
            Ok(fields) => self.items.push(Item { at, fields }),
            Err(why) => return Err(BadItem { at, why }),
        }
        Ok(())
    }

    fn count(&mut self, at: u64, length: u64) -> Taken {
        self.bytes = self.bytes.saturating_add(length);
        let why = match () {
            () if length > MAX_ITEM => format!("an item of more than {MAX_ITEM} bytes"),
            () if self.bytes > MAX_BYTES => format!("the items have more than {MAX_BYTES} bytes: take fewer"),
            () => return Ok(()),
        };
        Err(BadItem { at, why })
    }

    fn object(&mut self, at: u64, bytes: &[u8]) -> Taken {
        self.take(at, serde_json::from_slice(bytes).map_err(|e| format!("not a JSON object: {e}")))
    }

    fn lines(&mut self, mut stream: Stream) -> io::Result<Taken> {
        let mut buffer = Vec::new();
        loop {
            let at = stream.position();
            let length = match stream.line(MAX_ITEM, &mut buffer)? {
                Line::End => return Ok(Ok(())),
                Line::TooLong(length) => length,
                Line::Whole => buffer.len() as u64,
            };
            let bytes = if at == 0 { buffer.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&buffer) } else { &buffer };
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if let Err(bad) = self.count(at, length).and_then(|()| self.object(at, bytes)) {
                return Ok(Err(bad));
            }
        }
    }

    fn json(&mut self, stream: Stream) -> io::Result<Taken> {
        let mut objects = Json::objects(stream);
        while let Some((at, object)) = objects.next_object(MAX_ITEM)? {
            let taken = match object {
                Err(why) => Err(BadItem { at, why }),
                Ok(bytes) => self.count(at, bytes.len() as u64).and_then(|()| self.object(at, &bytes)),
            };
            if taken.is_err() {
                return Ok(taken);
            }
        }
        Ok(Ok(()))
    }

    fn records(&mut self, stream: Stream, delimiter: u8, columns: Option<&[String]>) -> io::Result<Taken> {
        let mut framer = Framer::open(stream, delimiter)?;
        let mut parser = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        let (mut buffer, mut row) = (Vec::new(), Row::default());
        let mut names: Option<Vec<String>> = columns.map(<[String]>::to_vec);
        loop {
            let range = match framer.next(MAX_ITEM, &mut buffer)? {
                Frame::End => return Ok(Ok(())),
                Frame::Whole(range) | Frame::TooLong(range) => range,
            };
            let at = range.start;
            let mut record = || {
                self.count(at, range.end - at)?;
                let bad = |why: String| BadItem { at, why };
                row.parse(&mut parser, &buffer).map_err(bad)?;
                let text = |value: &[u8]| String::from_utf8(value.to_vec()).map_err(|_| bad("not UTF-8".into()));
                let values = row.iter().map(text).collect::<std::result::Result<Vec<_>, _>>()?;
                let Some(names) = &names else {
                    if let Some(twice) = values.iter().enumerate().find(|(i, name)| values[..*i].contains(name)) {
                        return Err(bad(format!("two columns are called {:?}: rename one", twice.1)));
                    }
                    names = Some(values);
                    return Ok(());
                };
                if values.len() != names.len() {
                    let (have, need) = (values.len(), names.len());
                    return Err(bad(format!("{have} fields, where the columns are {need}: {}", names.join(", "))));
                }
                let values = values.into_iter().map(Value::String);
                self.take(at, Ok(names.iter().cloned().zip(values).collect()))
            };
            if let Err(bad) = record() {
                return Ok(Err(bad));
            }
        }
    }

    /// Takes a row of a table.
    #[cfg_attr(not(feature = "parquet"), allow(dead_code))]
    fn row(&mut self, at: u64, fields: std::result::Result<Map<String, Value>, String>) -> Taken {
        let length = fields.as_ref().map_or(0, |fields| fields.iter().map(|(name, value)| size(name, value)).sum());
        self.count(at, length).and_then(|()| self.take(at, fields))
    }

    #[cfg(feature = "parquet")]
    fn rows(&mut self, store: &Store, format: Format) -> io::Result<Taken> {
        let mut taken = Ok(());
        table::rows(store, format, &mut |at, fields| {
            taken = self.row(at, fields);
            taken.is_ok()
        })?;
        Ok(taken)
    }

    fn text(&mut self, mut stream: Stream) -> io::Result<Taken> {
        let mut bytes = Vec::new();
        let length = stream.read_up_to(MAX_ITEM + 1, &mut bytes)?;
        let text = String::from_utf8(bytes).map_err(|_| "not UTF-8, and no known kind of file".to_owned());
        let fields = text.map(|text| Map::from_iter([("text".to_owned(), Value::String(text))]));
        Ok(self.count(0, length).and_then(|()| self.take(0, fields)))
    }
}

/// Bytes of a field, about: its texts, and eight for each other value.
fn size(name: &str, value: &Value) -> u64 {
    let inside = match value {
        Value::String(text) => text.len() as u64,
        Value::Array(values) => values.iter().map(|value| size("", value)).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| size(name, value)).sum(),
        _ => 0,
    };
    8 + name.len() as u64 + inside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, bytes: &[u8], columns: Option<&[String]>) -> (ItemFile, Items) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let file = ItemFile::open(&path).unwrap();
        let items = file.items(columns).unwrap();
        // Lines are counted in the file.
        if let Err(bad) = &items {
            assert!(file.line(bad.at).unwrap() > 0);
        }
        (file, items)
    }

    fn fields(items: Items) -> Vec<Value> {
        items.unwrap().into_iter().map(|item| Value::Object(item.fields)).collect()
    }

    #[test]
    fn every_kind_of_file_gives_the_same_items() {
        let want: Vec<Value> = serde_json::from_str(r#"[{"q":"a,\nb","n":"1"},{"q":"“c”","n":"2"}]"#).unwrap();
        let lines = "\u{feff}{\"q\":\"a,\\nb\",\"n\":\"1\"}\r\n\n{\"q\":\"“c”\",\"n\":\"2\"}";
        assert_eq!(fields(read("a.jsonl", lines.as_bytes(), None).1), want);
        let array = serde_json::to_vec_pretty(&want).unwrap();
        assert_eq!(fields(read("a.json", &array, None).1), want);
        assert_eq!(fields(read("a.jsonl", &array, None).1), want, "an array under another name");
        assert_eq!(fields(read("a.csv", "q,n\n\"a,\nb\",1\r\n“c”,2\n".as_bytes(), None).1), want);
        let columns = ["q".to_owned(), "n".to_owned()];
        assert_eq!(fields(read("a.tsv", "\"a,\nb\"\t1\n“c”\t2".as_bytes(), Some(&columns)).1), want);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, lines.as_bytes()).unwrap();
        assert_eq!(fields(read("a.jsonl.gz", &gzip.finish().unwrap(), None).1), want);
        assert_eq!(fields(read("a.txt", b"one\ntwo", None).1), [serde_json::json!({"text": "one\ntwo"})]);
    }

    #[test]
    fn rows_of_tables_have_the_limits_of_lines() {
        let fields = |bytes: usize| match serde_json::json!({"a": {"b": ["x".repeat(bytes), 7, null]}}) {
            Value::Object(fields) => Ok(fields),
            _ => unreachable!(),
        };
        let mut reading = Reading { items: Vec::new(), bytes: 0 };
        reading.row(0, fields(10)).unwrap();
        assert_eq!((reading.items.len(), reading.bytes), (1, 5 * 8 + 2 + 10));
        reading.bytes = MAX_BYTES - 100;
        let bad = reading.row(1, fields(100)).unwrap_err();
        assert!(bad.at == 1 && bad.why.contains("take fewer"), "{}", bad.why);
        assert!(reading.count(2, MAX_ITEM + 1).unwrap_err().why.contains("an item of more than"));
    }

    #[test]
    fn a_bad_item_has_its_line() {
        for (name, bytes, line, words) in [
            ("a.jsonl", &b"{\"a\":1}\n\n{\"a\":\n"[..], 3, "not a JSON object"),
            ("a.jsonl", b"{\"a\":1}\n7\n", 2, "not a JSON object"),
            ("a.csv", b"a,b\n\"x\ny\",2\n1,2,3\n", 4, "3 fields, where the columns are 2: a, b"),
            ("a.csv", b"a\n\xff\n", 2, "not UTF-8"),
            ("a.csv", b"a,b,a\n1,2,3\n", 1, "two columns are called \"a\""),
            ("a.json", b"[{\"a\":1},\n{\"a\":2", 2, "ends within"),
            ("a.txt", b"\xff\xfb", 1, "not UTF-8"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let file = ItemFile::open(&path).unwrap();
            let bad = file.items(None).unwrap().unwrap_err();
            assert!(bad.why.contains(words), "{name}: {}", bad.why);
            assert_eq!(file.line(bad.at).unwrap(), line, "{name}");
        }
    }
}
