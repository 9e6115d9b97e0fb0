//! The readers of Parquet and Arrow files, which are built only with the feature `parquet`:
//! `cargo test --release --workspace --features fathom-dataprep/parquet --test tables`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Int64Array, LargeStringArray, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field};
use fathom_dataprep::read::{
    Compression, FieldNames, Format, InputFile, ItemFile, ReadConfig, Record, fuzz, read_again, read_bytes, splits,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;

/// One line a record: what it is, and its text, rule or reason.
fn shown(records: &[Record]) -> Vec<String> {
    let show = |record: &Record| match record {
        Record::Document(document) => document.text.clone(),
        Record::Dropped(document, dropped) => {
            format!("dropped {} {} at {:?}", dropped.rule, dropped.value, document.origin.bytes)
        }
        Record::Bad(bad) | Record::Ignored(bad) => bad.to_string(),
        other => format!("{other:?}"),
    };
    records.iter().map(show).collect()
}

/// A table as a file of `folder`.
fn on_disk(folder: &Path, bytes: &[u8], format: Format) -> InputFile {
    let name = PathBuf::from("table");
    let path = folder.join(&name);
    fs::write(&path, bytes).unwrap();
    InputFile { path, name, bytes: bytes.len() as u64, format, compression: Compression::None }
}

/// `rows` rows from `first` on: a text, a number, and an address inside a structure; text 3 is null and text 5 is
/// empty.
fn batch(first: i64, rows: i64) -> RecordBatch {
    let text = |i| match i {
        3 => None,
        5 => Some(String::new()),
        i => Some(format!("text number {i}")),
    };
    let texts: ArrayRef = Arc::new((first..first + rows).map(text).collect::<StringArray>());
    let ids: ArrayRef = Arc::new((first..first + rows).collect::<Int64Array>());
    let urls: ArrayRef =
        Arc::new((first..first + rows).map(|i| Some(format!("http://{i}/"))).collect::<LargeStringArray>());
    let url = Arc::new(Field::new("url", DataType::LargeUtf8, true));
    let meta: ArrayRef = Arc::new(StructArray::from(vec![(url, urls)]));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("meta", meta, true), ("text", texts, true)]).unwrap()
}

fn parquet_file(codec: Codec) -> Vec<u8> {
    let properties = WriterProperties::builder().set_compression(codec).set_max_row_group_row_count(Some(10)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch(0, 0).schema(), Some(properties)).unwrap();
    writer.write(&batch(0, 35)).unwrap();
    writer.into_inner().unwrap()
}

fn arrow_file(compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &batch(0, 0).schema(), options).unwrap();
    for first in [0, 10, 20, 30] {
        writer.write(&batch(first, 10.min(35 - first))).unwrap();
    }
    writer.into_inner().unwrap()
}

fn arrow_stream() -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch(0, 0).schema()).unwrap();
    for first in [0, 10, 20, 30] {
        writer.write(&batch(first, 10.min(35 - first))).unwrap();
    }
    writer.into_inner().unwrap()
}

fn read(bytes: &[u8], format: Format, split_bytes: u64) -> Vec<Record> {
    let fields = FieldNames { url: Some("meta.url".into()), ..FieldNames::default() };
    let config = ReadConfig { fields, ..ReadConfig::default() };
    read_bytes(bytes, format, Compression::None, split_bytes, &config).unwrap()
}

fn files() -> [(Vec<u8>, Format); 7] {
    [
        (parquet_file(Codec::UNCOMPRESSED), Format::Parquet),
        (parquet_file(Codec::SNAPPY), Format::Parquet),
        (parquet_file(Codec::ZSTD(ZstdLevel::default())), Format::Parquet),
        (arrow_file(None), Format::Arrow),
        (arrow_file(Some(CompressionType::ZSTD)), Format::Arrow),
        (arrow_file(Some(CompressionType::LZ4_FRAME)), Format::Arrow),
        (arrow_stream(), Format::Arrow),
    ]
}

#[test]
fn rows_are_documents() {
    for (file, format) in files() {
        let whole = read(&file, format, u64::MAX);
        assert_eq!(whole.len(), 35, "{format:?}");
        for split_bytes in [1, 100, 500, 1000, 2000] {
            assert_eq!(whole, read(&file, format, split_bytes), "{format:?}, splits of {split_bytes} bytes");
        }
        let lines = shown(&whole);
        assert_eq!(lines[3], "memory: row 3: field \"text\" is null, not a string");
        assert_eq!(lines[5], "dropped input.empty 0 at 5..6");
        let Record::Document(document) = &whole[34] else { panic!("{whole:?}") };
        assert_eq!((document.text.as_str(), document.origin.id.as_deref()), ("text number 34", Some("34")));
        assert_eq!((document.url.as_deref(), document.origin.bytes.clone()), (Some("http://34/"), 34..35));
        let folder = tempfile::tempdir().unwrap();
        let file = on_disk(folder.path(), &file, format);
        let row = read_again(&file, &document.origin.bytes).unwrap();
        assert_eq!(row, b"{\"id\":\"34\",\"text\":\"text number 34\"}");
        assert!(read_again(&file, &(35..36)).is_err());
    }
}

/// Files that pyarrow wrote, which are the seeds of the fuzz target: after a byte that chooses the format.
#[test]
fn rows_of_another_program_are_documents() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/readers");
    for name in
        ["parquet-plain", "parquet-snappy", "parquet-zstd", "arrow-file", "arrow-stream", "arrow-lz4", "arrow-zstd"]
    {
        let file = fs::read(folder.join(name)).unwrap();
        let format = if name.starts_with("arrow") { Format::Arrow } else { Format::Parquet };
        let records = read(&file[1..], format, 500);
        let null = "memory: row 1: field \"text\" is null, not a string";
        let empty = "dropped input.empty 0 at 2..3";
        assert_eq!(shown(&records), ["one", null, empty, "four", "five", "six", "six", "six", "nine"], "{name}");
        let Some(Record::Document(last)) = records.last() else { panic!("{records:?}") };
        assert_eq!((last.origin.id.as_deref(), last.url.as_deref()), (Some("8"), Some("http://8/")), "{name}");
    }
}

#[test]
fn a_table_is_cut_into_its_groups() {
    for (file, format) in files() {
        let folder = tempfile::tempdir().unwrap();
        let splits = splits(&[on_disk(folder.path(), &file, format)], 1).unwrap();
        assert!(splits.len() >= 4, "{format:?} {splits:?}");
    }
}

#[test]
fn a_missing_column_is_said_once() {
    let fields = FieldNames { text: "body".into(), ..FieldNames::default() };
    let config = ReadConfig { fields, ..ReadConfig::default() };
    for (file, format) in files() {
        for split_bytes in [1, u64::MAX] {
            let records = read_bytes(&file, format, Compression::None, split_bytes, &config).unwrap();
            assert_eq!(shown(&records), ["memory: row 0: no column \"body\""], "{format:?}");
        }
    }
}

#[test]
fn damage_is_a_bad_record() {
    for (file, format) in files() {
        for cut in [0, 3, 8, file.len() / 3, file.len() / 2, file.len() - 5] {
            let records = read(&file[..cut], format, u64::MAX);
            assert_eq!(records, read(&file[..cut], format, 300), "{format:?} cut at {cut}");
        }
        let mut damaged = file.clone();
        for at in (0..file.len()).step_by(7) {
            damaged[at] ^= 0xff;
            let whole = read(&damaged, format, u64::MAX);
            assert!(whole.len() <= 1000, "{format:?} at {at}");
            damaged[at] ^= 0xff;
        }
    }
    assert!(shown(&read(b"not a table at all", Format::Parquet, 1))[0].contains("not a Parquet file"));
    assert!(shown(&read(b"not a table at all", Format::Arrow, 1))[0].contains("damaged"));
}

#[test]
fn absurd_lengths_are_refused() {
    // A message that says it has 2 GB of header.
    assert!(shown(&read(b"\xff\xff\xff\xff\xff\xff\xff\x7f", Format::Arrow, 1))[0].contains("2147483647 bytes"));
    fuzz(b"PAR1\xff\xff\xff\x7fPAR1", Format::Parquet, Compression::None);
}

#[test]
fn lists_and_structures_become_json() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let offsets = OffsetBuffer::new(vec![0, 2, 3].into());
    let field = Arc::new(Field::new("item", DataType::Utf8, true));
    let list: ArrayRef = Arc::new(ListArray::new(field, offsets, texts, None));
    let structure: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("text", list.data_type().clone(), true)), list),
        (Arc::new(Field::new("n", DataType::Int64, true)), Arc::new(Int64Array::from(vec![Some(-4), None]))),
        (Arc::new(Field::new("b", DataType::Boolean, true)), Arc::new(BooleanArray::from(vec![true, false]))),
    ]));
    let batch = RecordBatch::try_from_iter_with_nullable([("answers", structure, true)]).unwrap();
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("questions.arrow");
    fs::write(&path, writer.into_inner().unwrap()).unwrap();
    let items = ItemFile::open(&path).unwrap().items(None).unwrap().unwrap();
    let answers: Vec<_> = items.iter().map(|item| item.fields["answers"].clone()).collect();
    assert_eq!(
        answers,
        [json!({"text": ["a", "b"], "n": -4, "b": true}), json!({"text": ["c"], "n": null, "b": false})]
    );
}
