//! Tests of the readers.

use super::bytes::again;
use super::record::uncounted;
use super::stream::{Store, Stream};
use super::*;
use crate::error::Error;
use proptest::prelude::*;
use std::fs;
use std::io::Write;

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn read(bytes: &[u8], format: Format, compression: Compression) -> Vec<Record> {
    read_bytes(bytes, format, compression, u64::MAX, &ReadConfig::default()).unwrap()
}

/// One line a record: what it is, and its text, rule or reason.
pub(super) fn shown(records: &[Record]) -> Vec<String> {
    let show = |record: &Record| match record {
        Record::Document(document) | Record::Page(document) => document.text.clone(),
        Record::Bytes(document, bytes) => format!("{} of {} bytes", document.text, bytes.len()),
        Record::Dropped(document, dropped) => {
            format!("dropped {} {} at {:?}", dropped.rule, dropped.value, document.origin.bytes)
        }
        Record::Bad(bad) | Record::Ignored(bad) => bad.to_string(),
    };
    records.iter().map(show).collect()
}

/// Every split size gives the same records, and every document is where its origin says.
pub(super) fn check(bytes: &[u8], format: Format, reread: impl Fn(&[u8]) -> String) {
    let whole = read(bytes, format, Compression::None);
    for split_bytes in 1..bytes.len() as u64 + 1 {
        let parts = read_bytes(bytes, format, Compression::None, split_bytes, &ReadConfig::default()).unwrap();
        assert_eq!(shown(&whole), shown(&parts), "splits of {split_bytes} bytes");
        assert_eq!(whole, parts);
    }
    for record in &whole {
        if let Record::Document(document) = record {
            let record = again(bytes, format, Compression::None, &document.origin.bytes).unwrap();
            assert_eq!(reread(&record), document.text);
        }
    }
    // Compressed, the records are the same; only positions count something else, in messages alone.
    let gzipped = read(&gzip(bytes), format, Compression::Gzip);
    let zstandard = read(&zstd(bytes), format, Compression::Zstd);
    let plain: Vec<_> = shown(&whole);
    for compressed in [gzipped, zstandard] {
        let compressed: Vec<_> =
            shown(&compressed).iter().map(|line| line.replace("decompressed byte", "byte")).collect();
        assert_eq!(plain, compressed);
    }
}

#[test]
fn json_lines() {
    let lines = b"\xef\xbb\xbf{\"text\": \"one\", \"id\": 1, \"url\": \"http://a/\"}\r\n\n  \n{oops\n{\"text\": \"\"}\n{\"text\": \"tw\\no\"}\n{\"other\": 0}\n[3]\n\xff\n{\"text\": \"last\", \"id\": \"x\"}";
    check(lines, Format::JsonLines, |line| fields::of_json(line, &FieldNames::default()).unwrap().text);
    let records = read(lines, Format::JsonLines, Compression::None);
    let Record::Document(one) = &records[0] else { panic!("{records:?}") };
    assert_eq!(
        (one.origin.id.as_deref(), one.url.as_deref(), one.origin.bytes.start),
        (Some("1"), Some("http://a/"), 3)
    );
    let shown = shown(&records);
    assert_eq!((shown[2].as_str(), shown[3].as_str()), ("dropped input.empty 0 at 59..71", "tw\no"));
    assert!(shown[1].starts_with("memory: byte 53: not a JSON object: "), "{shown:?}");
    assert!(shown[4].ends_with("no field \"text\"") && shown[7] == "last" && shown.len() == 8, "{shown:?}");
}

#[test]
fn lines_of_text() {
    check(b"one\n\n two \r\n\xff\xfe\nthree", Format::Lines, |line| String::from_utf8(line.to_vec()).unwrap());
    let shown = shown(&read(b"one\n\n two \r\n\xff\xfe\nthree", Format::Lines, Compression::None));
    assert_eq!(shown, ["one", " two ", "memory: byte 12: not UTF-8, from byte 0 of the text on", "three"]);
}

#[test]
fn whole_files() {
    check(b"one\ntwo\n", Format::Text, |file| String::from_utf8(file.to_vec()).unwrap());
    check(b"\xef\xbb\xbfone", Format::Text, |file| String::from_utf8(file.to_vec()).unwrap());
    let shown = |bytes| shown(&read(bytes, Format::Text, Compression::None));
    assert_eq!(shown(b""), ["dropped input.empty 0 at 0..0"]);
    assert_eq!(shown(b"caf\xe9"), ["caf\u{fffd} of 4 bytes"]);
}

#[test]
fn separated_values() {
    let csv = b"id,\"text\",url\r\n1,\"a, \"\"quoted\"\"\nline\",http://a/\r\n\r\n2,plain\n3\n4,\"\",x\n5,\xff,\n6,\"open \" end\",u,more\n7,last";
    let reread = |record: &[u8]| {
        let mut parser = ::csv::ReaderBuilder::new().has_headers(false).from_reader(record);
        parser.records().next().unwrap().unwrap()[1].to_owned()
    };
    check(csv, Format::Csv, reread);
    let records = read(csv, Format::Csv, Compression::None);
    let expected = [
        "a, \"quoted\"\nline",
        "plain",
        "memory: byte 59: 1 fields, and column \"text\" is number 2",
        "dropped input.empty 0 at 61..67",
        "memory: byte 68: not UTF-8, from byte 0 of the text on",
        "open  end\"",
        "last",
    ];
    assert_eq!(shown(&records), expected);
    let Record::Document(first) = &records[0] else { panic!("{records:?}") };
    assert_eq!((first.origin.id.as_deref(), first.url.as_deref()), (Some("1"), Some("http://a/")));
    check(b"\xef\xbb\xbftext\tid\na,b\t1\n\"c\td\"\t2\n", Format::Tsv, |record| {
        let mut parser = ::csv::ReaderBuilder::new().has_headers(false).delimiter(b'\t').from_reader(record);
        parser.records().next().unwrap().unwrap()[0].to_owned()
    });
    let none = shown(&read(b"a,b\n1,2\n3,4\n", Format::Csv, Compression::None));
    assert_eq!(none, ["memory: byte 0: no column \"text\"; there are a, b"]);
    check(b"a,b\n1,2\n3,4\n", Format::Csv, |_| String::new());
    assert!(read(b"", Format::Csv, Compression::None).is_empty());
}

#[test]
fn absurd_separated_values_are_refused() {
    let commas = [b"text\n".to_vec(), vec![b','; 100_000], b"\nfine\n".to_vec()].concat();
    let shown = |bytes: &[u8], limit| {
        let config = ReadConfig { max_document_bytes: limit, ..ReadConfig::default() };
        shown(&read_bytes(bytes, Format::Csv, Compression::None, u64::MAX, &config).unwrap())
    };
    assert_eq!(shown(&commas, 1 << 20), ["memory: byte 5: more than 65536 fields", "fine"]);
    let open_quote = [b"text\ngood\n\"".to_vec(), vec![b'x'; 5000], b"\ngood\n".to_vec()].concat();
    assert_eq!(shown(&open_quote, 1000), ["good", "dropped input.max_document_bytes 5007 at 10..5017"]);
    let header = [vec![b'x'; 5000], b"\ntext\n".to_vec()].concat();
    assert_eq!(shown(&header, 1000), ["memory: byte 0: the header is longer than input.max_document_bytes"]);
}

#[test]
fn damage_ends_a_stream_and_keeps_what_came_before() {
    let text: Vec<u8> = (0..100_000_u32).flat_map(|i| format!("{{\"text\": \"{i}\"}}\n").into_bytes()).collect();
    let (gz, zst) = (gzip(&text), zstd(&text));
    let mut flipped = gz.clone();
    flipped[gz.len() / 2] ^= 0x55;
    let cases: [(&[u8], _, bool); 6] = [
        (&gz[..gz.len() / 2], Compression::Gzip, true),
        (&flipped, Compression::Gzip, true),
        (&[&gz[..], b"rubbish behind"].concat(), Compression::Gzip, true),
        (b"\xffnot gzip at all", Compression::Gzip, false),
        (&zst[..zst.len() / 2], Compression::Zstd, true),
        (b"\xffnot zstd at all", Compression::Zstd, false),
    ];
    for (bytes, compression, some) in cases {
        let records = read(bytes, Format::JsonLines, compression);
        let (last, before) =
            shown(&records).split_last().map(|(last, before)| (last.clone(), before.to_vec())).unwrap();
        let what = if bytes.ends_with(b"rubbish behind") { "which are ignored" } else { ": damaged: " };
        assert!(last.starts_with("memory: decompressed byte ") && last.contains(what), "{last}");
        assert_eq!(before.len() > 100, some, "{} before {last}", before.len());
        // A file that is one document is lost with its damage; bytes behind a complete stream cost nothing.
        let whole = read(bytes, Format::Text, compression);
        match whole.as_slice() {
            [Record::Document(document), Record::Ignored(_)] => assert_eq!(document.text.as_bytes(), text),
            [Record::Bad(_)] => assert!(!bytes.ends_with(b"rubbish behind")),
            other => panic!("{:?}", shown(other)),
        }
    }
}

#[test]
fn what_is_too_large_is_left_out_in_bounded_memory() {
    let zeros = vec![b'0'; 3_000_000];
    let record = [b"{\"text\": \"", &zeros[..], b"\"}\n{\"text\": \"small\"}\n"].concat();
    let config = ReadConfig { max_document_bytes: 1000, ..ReadConfig::default() };
    let shown =
        |bytes: &[u8], format, compression| shown(&read_bytes(bytes, format, compression, u64::MAX, &config).unwrap());
    let lines = shown(&zstd(&record), Format::JsonLines, Compression::Zstd);
    assert_eq!(lines, ["dropped input.max_document_bytes 3000012 at 0..3000012", "small"]);
    let whole = shown(&gzip(&zeros), Format::Text, Compression::Gzip);
    assert_eq!(whole, ["dropped input.max_document_bytes 1001 at 0..1001"]);
    let mut stream = Stream::open(&Store::Memory(record.into()), Compression::None, uncounted()).unwrap();
    let mut buffer = Vec::new();
    assert_eq!(stream.line(1000, &mut buffer).unwrap(), stream::Line::TooLong(3_000_012));
    assert!(buffer.len() == 1000 && stream.position() == 3_000_013);
}

#[test]
fn a_bomb_is_refused_and_repetitive_text_is_not() {
    // 400 MB of lines out of some 20 KB.
    let line = format!("{{\"text\": 0, \"more\": \"{}\"}}\n", "x".repeat(1 << 20));
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    (0..400).for_each(|_| encoder.write_all(line.as_bytes()).unwrap());
    let block = encoder.finish().unwrap();
    assert!((400 << 20) / block.len() > 3000, "{}", block.len());
    let read = |max_growth| {
        let config = ReadConfig { max_growth, ..ReadConfig::default() };
        let (store, file) = bytes::in_memory(&block, Format::JsonLines, Compression::Zstd);
        let all = Split { file: 0, bytes: 0..file.bytes };
        let (mut count, mut last) = (0, String::new());
        for record in Reader::of_store(&store, &file, &all, &config).unwrap() {
            let Record::Bad(bad) = record.unwrap() else { panic!("no line has a text") };
            count += 1;
            last = bad.why;
        }
        (count, last)
    };
    let (count, last) = read(ReadConfig::default().max_growth);
    assert!(count == 400 && last.contains("is a number"), "{count} {last}");
    let (count, last) = read(1000);
    assert!(count < 400 && last.contains("refused as a bomb"), "{count} {last}");
    assert!(last.contains("input.max_growth"), "{last}");
    // Layer upon layer.
    let layers = (0..6).fold(b"text".to_vec(), |inner, _| gzip(&inner));
    let records = shown(&super::tests::read(&layers, Format::Text, Compression::Gzip));
    assert!(records.len() == 1 && records[0].contains("times over: refused as a bomb"), "{records:?}");
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

#[test]
fn inputs_are_walked_in_the_order_of_their_names() {
    let dir = folder(&[
        ("b.txt", b"b"),
        ("a/z.rs", b"z"),
        ("a/y.jsonl.gz", b"y"),
        ("a.warc.wet.gz", b"a"),
        ("target/x.rs", b"x"),
        (".git/x.txt", b"x"),
        (".hidden.txt", b"x"),
        ("picture.png", b"x"),
        ("notes.json", b"{\"text\": 1}"),
        ("rows.json", b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n"),
        ("array.json.gz", &gzip(b"[{\"text\": \"a\"}]")),
        ("array.jsonl", b"[\n{\"text\": \"a\"}]"),
        ("part-0", b"{\"text\": \"a\"}\n"),
        ("saved", b"<!doctype html><p>x"),
    ]);
    let names = |inputs: &[&str], format| {
        let inputs: Vec<_> = inputs.iter().map(|input| dir.path().join(input)).collect();
        let files = walk(&inputs, format, &FieldNames::default());
        files.map(|walked| walked.files.into_iter().map(|file| file.name.display().to_string()).collect::<Vec<_>>())
    };
    let found = [
        "a/y.jsonl.gz",
        "a/z.rs",
        "a.warc.wet.gz",
        "array.json.gz",
        "array.jsonl",
        "b.txt",
        "part-0",
        "rows.json",
        "saved",
    ];
    assert_eq!(names(&[""], None).unwrap(), found);
    assert_eq!(names(&["picture.png", "b.txt"], None).unwrap(), ["picture.png", "b.txt"]);
    assert_eq!(names(&["*.txt", "a/*"], None).unwrap(), ["b.txt", "y.jsonl.gz", "z.rs"]);
    assert_eq!(names(&["**/*.jsonl.gz"], None).unwrap(), ["a/y.jsonl.gz"]);
    assert_eq!(names(&["**"], None).unwrap(), names(&["**/*"], None).unwrap());
    assert_eq!(names(&[""], Some(Format::Lines)).unwrap().len(), 11);
    assert!(names(&["none"], None).unwrap_err().to_string().contains("none"));
    assert!(names(&["*.none"], None).unwrap_err().to_string().contains("matches nothing"));
    assert!(names(&["[.none"], None).unwrap_err().to_string().contains("not a glob"));
    let Walked { files, passed_over, renamed } =
        walk(&[dir.path().to_path_buf()], None, &FieldNames::default()).unwrap();
    let kinds: Vec<_> = files.iter().map(|file| (file.format, file.compression)).collect();
    let expected = [
        (Format::JsonLines, Compression::None),
        (Format::Text, Compression::None),
        (Format::Warc, Compression::None),
        (Format::Json, Compression::Gzip),
        (Format::Json, Compression::None),
        (Format::Text, Compression::None),
        (Format::JsonLines, Compression::None),
        (Format::JsonLines, Compression::None),
        (Format::Html, Compression::None),
    ];
    assert_eq!(kinds, expected);
    let reasons: Vec<_> = passed_over.iter().map(|not| (not.path.file_name().unwrap(), not.why.as_str())).collect();
    let expected = [
        (".git", "hidden: the name begins with a dot"),
        (".hidden.txt", "hidden: the name begins with a dot"),
        ("notes.json", "JSON without the text field \"text\""),
        ("picture.png", "unknown suffix .png"),
        ("target", "a folder that is built or fetched"),
    ];
    assert_eq!(reasons, expected.map(|(name, why)| (std::ffi::OsStr::new(name), why)));
    let lines = by_reason(&passed_over, "not read");
    let hidden =
        format!("2 not read ({}): {}, {}", expected[0].1, passed_over[0].path.display(), passed_over[1].path.display());
    assert!(lines.len() == 4 && lines.contains(&hidden), "{lines:?}");
    assert_eq!(
        by_reason(&renamed, "read by content"),
        [format!("1 read by content (JSON under the suffix .jsonl): {}", dir.path().join("array.jsonl").display())]
    );
    // A file that is named is read, and says what it lacks.
    let named = walk(&[dir.path().join("notes.json")], None, &FieldNames::default()).unwrap().files;
    assert_eq!(named[0].format, Format::JsonLines);
}

#[test]
fn what_a_file_holds_is_told_by_its_content() {
    let lines = b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n";
    let utf16 = |text: &[u8]| -> Vec<u8> {
        let text = format!("\u{feff}{}", std::str::from_utf8(text).unwrap());
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    let warc = b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 1\r\n\r\na\r\n\r\n";
    let (json, jsonl) = (Format::Json, Format::JsonLines);
    // Bytes to be skipped, then a frame, as pzstd writes it.
    let skipped = [b"\x50\x2a\x4d\x18\x04\0\0\0abcd".to_vec(), zstd(lines)].concat();
    for (name, bytes, format) in [
        ("a.txt", lines.to_vec(), jsonl),
        ("a.txt.gz", gzip(lines), jsonl),
        ("a.txt", b"[{\"text\": \"a\"}, {\"text\": \"b\"}]".to_vec(), json),
        ("a.json.zst", zstd(lines), jsonl),
        ("a.ndjson", gzip(lines), jsonl),
        ("a.jl", lines.to_vec(), jsonl),
        ("a", skipped.clone(), jsonl),
        ("a.json", skipped, jsonl),
        ("a.gz", zstd(lines), jsonl),
        ("a.zst", gzip(lines), jsonl),
        ("a.jsonl.gz", lines.to_vec(), jsonl),
        ("a.jsonl.gz", utf16(lines), jsonl),
        ("a.json", utf16(lines), jsonl),
        ("a.csv", lines.to_vec(), jsonl),
        ("a.warc", lines.to_vec(), jsonl),
        ("a.jsonl.gz.gz", gzip(&gzip(lines)), jsonl),
        ("a.jsonl.zst", gzip(&zstd(lines)), jsonl),
        ("a.csv", b"id\ttext\n1\ta\n2\tb\n".to_vec(), Format::Tsv),
        ("a.tsv", b"id,text\n1,a\n2,b\n".to_vec(), Format::Csv),
        ("a.dat", utf16(b"id,text\n1,a\n2,b\n"), Format::Csv),
        ("part-0", b"id\ttext\n1\ta\n2\tb\n".to_vec(), Format::Tsv),
        ("a.jsonl", gzip(&[&warc[..], &warc[..]].concat()), Format::Warc),
    ] {
        let dir = folder(&[(name, &bytes)]);
        let walked = walk(&[dir.path().to_path_buf()], None, &FieldNames::default()).unwrap();
        assert_eq!(walked.passed_over, [], "{name}");
        assert_eq!(walked.files[0].format, format, "{name}");
        let all = Split { file: 0, bytes: 0..walked.files[0].bytes };
        let records: Vec<_> =
            Reader::open(&walked.files[0], &all, &ReadConfig::default()).unwrap().map(Result::unwrap).collect();
        let expected = if format == Format::Warc { ["a", "a"] } else { ["a", "b"] };
        assert_eq!(shown(&records), expected, "{name}");
    }
}

#[test]
fn what_is_not_read_is_named() {
    let text = "a text that is\nlong enough, to be one\n".repeat(20);
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
    for (name, bytes, words, is_lost) in [
        ("a.jsonl.xz", b"\xfd7zXZ\0\0\x04".to_vec(), "xz -d", true),
        ("a.jsonl", b"\xfd7zXZ\0\0\x04".to_vec(), "xz -d", true),
        ("a.txt", b"BZh91AY&SY\xc1\xc0".to_vec(), "bzip2 -d", true),
        ("a.gz", b"\x04\x22\x4d\x18\x64\x40\xa7".to_vec(), "lz4 -d", true),
        ("a.jsonl.gz", gzip(b"PK\x03\x04\x14\0\0\0\x08\0"), "unzip", true),
        ("a.jsonl.br", b"\x1b\x2a\x00\xf8\x8d".to_vec(), "brotli -d", true),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x01\x50\x07\0\0\0\0".to_vec(), "dictionary", true),
        ("a.jsonl.gz", lfs.to_vec(), "git lfs pull", true),
        ("a.parquet", lfs.to_vec(), "git lfs pull", true),
        ("a.csv", b"a,b\n1,2\n".to_vec(), "without the column \"text\"", true),
        ("a.csv", b"id;text\n1;a\n".to_vec(), "separated by ';'", true),
        ("a.json", b"{\"content\": \"a\"}\n".to_vec(), "without the text field", false),
        ("a.json", b"[1, 2]".to_vec(), "not made of objects", false),
        ("a.png", b"\x89PNG\r\n\x1a\n\0".to_vec(), "PNG", false),
        ("a.bak", text.into_bytes(), "unknown suffix .bak", false),
    ] {
        let dir = folder(&[(name, &bytes)]);
        let path = dir.path().join(name);
        for input in [dir.path().to_path_buf(), dir.path().join("a*")] {
            let walked = walk(std::slice::from_ref(&input), None, &FieldNames::default()).unwrap();
            let was_named = input != dir.path() && !is_lost && name != "a.png";
            assert_eq!(walked.files.len(), usize::from(was_named), "{name}");
            for not in walked.passed_over {
                assert!(not.path == path && not.why.contains(words), "{name}: {}", not.why);
            }
        }
        match walk(&[path], None, &FieldNames::default()) {
            Err(e) => assert!(is_lost && e.to_string().contains(words) && e.to_string().contains(name), "{e}"),
            Ok(_) => assert!(!is_lost, "{name}"),
        }
    }
}

#[cfg(unix)]
#[test]
fn links_pipes_and_names_in_other_encodings() {
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;
    let dir = folder(&[("a/b.txt", b"b")]);
    let odd = dir.path().join(std::ffi::OsString::from_vec(b"caf\xe9.txt".to_vec()));
    fs::write(&odd, "c").unwrap();
    symlink("..", dir.path().join("a/loop")).unwrap();
    symlink("self", dir.path().join("self")).unwrap();
    symlink("nothing", dir.path().join("gone.txt")).unwrap();
    symlink("a/b.txt", dir.path().join("link.txt")).unwrap();
    let pipe = dir.path().join("pipe.txt");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let walked = walk(&[dir.path().to_path_buf()], None, &FieldNames::default()).unwrap();
    let paths: Vec<_> = walked.files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(paths, [dir.path().join("a/b.txt"), odd.clone(), dir.path().join("link.txt")]);
    let names = ["loop", "gone.txt", "pipe.txt", "self"];
    assert_eq!(walked.passed_over.iter().map(|not| not.path.file_name().unwrap()).collect::<Vec<_>>(), names);
    for (not, words) in walked.passed_over.iter().zip(["to a folder", "leads nowhere", "a pipe", "leads nowhere"]) {
        assert!(not.why.contains(words), "{}", not.why);
    }
    let named = walk(&[pipe], None, &FieldNames::default()).unwrap_err().to_string();
    assert!(named.contains("pipe.txt") && named.contains("write its content to a file"), "{named}");
    let glob = walk(&[dir.path().join("**/*.txt")], None, &FieldNames::default()).unwrap();
    assert_eq!(glob.files.len(), 3, "{:?}", glob.files);
    let mut reader = Reader::open(&walked.files[1], &Split { file: 1, bytes: 0..1 }, &ReadConfig::default()).unwrap();
    assert!(matches!(reader.next(), Some(Ok(Record::Document(document))) if document.text == "c"));
}

#[test]
fn absurd_json_costs_no_more_than_its_bytes() {
    let deep = |open: &str, close: &str| [open.repeat(200_000), close.repeat(200_000)].concat();
    for (text, format) in [
        (format!("{{\"a\": {}, \"text\": \"x\"}}\n", deep("[", "]")), Format::JsonLines),
        (format!("{{\"a\":\n{}, \"text\": \"x\"}}\n", deep("{\"b\":[", "]}")), Format::Json),
    ] {
        let dir = folder(&[("a.json", text.as_bytes())]);
        let walked = walk(&[dir.path().to_path_buf()], None, &FieldNames::default()).unwrap();
        assert_eq!(walked.files[0].format, format);
        assert_eq!(shown(&read(text.as_bytes(), format, Compression::None)), ["x"]);
    }
    let open = deep("[", "");
    assert!(shown(&read(open.as_bytes(), Format::JsonLines, Compression::None))[0].contains("not a JSON object"));
    assert!(shown(&read(open.as_bytes(), Format::Json, Compression::None)).is_empty());
}

#[test]
fn json_over_many_lines_is_read_object_by_object() {
    let text = "\u{feff}[\n {\"text\": \"a } \\\" ] {\", \"id\": 1},\n {\n  \"text\": \"b\", \"more\": {\"text\": [1, {}]}\n },\n 5, \"x, y\", {\"no\": 1}\n]\n{\"text\": \"c\"";
    let records = read(text.as_bytes(), Format::Json, Compression::None);
    let texts: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Document(document) => {
                let again = again(text.as_bytes(), Format::Json, Compression::None, &document.origin.bytes).unwrap();
                assert!(again.starts_with(b"{") && again.ends_with(b"}"));
                Some(document.text.as_str())
            }
            _ => None,
        })
        .collect();
    assert_eq!(texts, ["a } \" ] {", "b"]);
    let bad: Vec<_> = shown(&records).into_iter().filter(|shown| shown.starts_with("memory")).collect();
    assert_eq!(bad.len(), 4, "{bad:?}");
    assert!(
        bad[0].ends_with("not a JSON object") && bad[2].contains("no field") && bad[3].contains("ends within"),
        "{bad:?}"
    );
    let config = ReadConfig { max_document_bytes: 20, ..ReadConfig::default() };
    let large = b"{\"text\": \"a text that is longer\"} {\"text\": \"b\"}";
    let records = read_bytes(large, Format::Json, Compression::None, u64::MAX, &config).unwrap();
    assert!(matches!(&records[..], [Record::Dropped(_, why), Record::Document(_)] if why.rule == TOO_LARGE));
}

#[test]
fn text_in_utf16_is_read_in_every_format() {
    let utf16 = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_be_bytes).collect() };
    for (format, text, expected) in [
        (Format::Text, "\u{feff}Köln\n", "Köln\n"),
        (Format::Lines, "\u{feff}Köln\r\n", "Köln"),
        (Format::JsonLines, "\u{feff}{\"text\": \"Köln\"}\n", "Köln"),
        (Format::Csv, "\u{feff}id,text\r\n1,Köln\r\n", "Köln"),
        (Format::Tsv, "\u{feff}text\tid\nKöln\t1\n", "Köln"),
    ] {
        for (bytes, compression) in [(utf16(text), Compression::None), (gzip(&utf16(text)), Compression::Gzip)] {
            assert_eq!(shown(&read(&bytes, format, compression)), [expected], "{format:?}");
            fuzz(&bytes, format, compression);
        }
    }
}

#[test]
fn what_is_compressed_is_told_by_its_bytes() {
    for (bytes, compression) in [
        (gzip(b"text"), Compression::None),
        (gzip(b"text"), Compression::Zstd),
        (zstd(b"text"), Compression::Gzip),
        (b"text".to_vec(), Compression::Gzip),
        ([gzip(b"te"), vec![0; 30], gzip(b"xt"), vec![0; 700]].concat(), Compression::Gzip),
    ] {
        assert_eq!(shown(&read(&bytes, Format::Text, compression)), ["text"]);
    }
}

#[test]
fn files_that_are_no_text_are_dropped_by_a_rule() {
    for bytes in [&b"t\0e\0x\0t\0"[..], b"\x89PNG\r\n\x1a\n\0\0\0\xff\xfe\xfd some text behind it"] {
        let records = read(bytes, Format::Text, Compression::None);
        assert!(matches!(&records[..], [Record::Dropped(_, why)] if why.rule == BINARY), "{:?}", shown(&records));
    }
}

#[test]
fn large_windows_of_zstd_are_read() {
    let text = b"{\"text\": \"a\"}\n";
    // A frame (RFC 8878) with a window of 2^28 bytes and one last, raw block.
    let block = (1 | (text.len() as u32) << 3).to_le_bytes();
    let frame = [b"\x28\xb5\x2f\xfd\x00\x90", &block[..3], text].concat();
    assert_eq!(shown(&read(&frame, Format::JsonLines, Compression::Zstd)), ["a"]);
}

#[test]
fn files_are_read_and_read_again() {
    let dir = folder(&[("a.jsonl", b"{\"text\":\"one\"}\n{\"text\":\"two\"}\n{bad\n"), ("b.txt.gz", &gzip(b"three"))]);
    let files = walk(&[dir.path().to_path_buf()], None, &FieldNames::default()).unwrap().files;
    let splits = splits(&files, 10).unwrap();
    let whole = |file, bytes| Split { file, bytes };
    assert_eq!(splits, [whole(0, 0..15), whole(0, 15..30), whole(0, 30..35), whole(1, 0..files[1].bytes)]);
    let mut texts = Vec::new();
    for split in &splits {
        let file = &files[split.file as usize];
        let mut reader = Reader::open(file, split, &ReadConfig::default()).unwrap();
        for record in reader.by_ref() {
            match record.unwrap() {
                Record::Document(document) => {
                    assert_eq!(document.origin.file, split.file);
                    let record = read_again(file, &document.origin.bytes).unwrap();
                    assert!(String::from_utf8(record).unwrap().contains(&document.text));
                    texts.push(document.text);
                }
                Record::Bad(bad) => assert_eq!(line_at(file, bad.place.at).unwrap(), 3),
                other => panic!("{other:?}"),
            }
        }
        assert!(reader.bytes_read() > 0);
    }
    assert_eq!(texts, ["one", "two", "three"]);
    let gone = read_again(&files[0], &(30..99)).unwrap_err();
    assert!(matches!(gone, Error::RecordGone { .. }), "{gone}");
    fs::remove_file(&files[0].path).unwrap();
    assert!(Reader::open(&files[0], &splits[0], &ReadConfig::default()).unwrap_err().to_string().contains("a.jsonl"));
}

proptest! {
    #[test]
    fn separated_values_are_those_of_the_csv_crate(bytes in "[a\",\n\r]{0,40}") {
        let bytes = [b"text,b\n", bytes.as_bytes()].concat();
        let mut parser = ::csv::ReaderBuilder::new().flexible(true).from_reader(&bytes[..]);
        let expected: Vec<String> = parser.records().map(|record| record.unwrap()[0].to_owned()).collect();
        let records = read(&bytes, Format::Csv, Compression::None);
        let found: Vec<String> = records.iter().map(|record| match record {
            Record::Document(document) => document.text.clone(),
            Record::Dropped(..) => String::new(),
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(found, expected);
        fuzz(&bytes, Format::Csv, Compression::None);
    }

    #[test]
    fn splits_do_not_matter(lines in "((\\{\"text\":\"[ab]{1,5}\"\\})?[x\r]?\n){0,12}x?", split_bytes in 1_u64..80) {
        for format in [Format::JsonLines, Format::Lines] {
            let config = ReadConfig { max_document_bytes: 14, ..ReadConfig::default() };
            let whole = read_bytes(lines.as_bytes(), format, Compression::None, u64::MAX, &config).unwrap();
            let parts = read_bytes(lines.as_bytes(), format, Compression::None, split_bytes, &config).unwrap();
            prop_assert_eq!(whole, parts);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..100) {
        let formats = [Format::Text, Format::Lines, Format::JsonLines, Format::Csv, Format::Tsv, Format::Html];
        for format in formats {
            fuzz(&bytes, format, Compression::None);
            fuzz(&bytes, format, Compression::Gzip);
            fuzz(&bytes, format, Compression::Zstd);
            let whole = gzip(&bytes);
            fuzz(&whole[..cut.min(whole.len())], format, Compression::Gzip);
        }
    }
}
