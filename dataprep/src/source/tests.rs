use super::*;
use std::io::Write;

fn input() -> InputConfig {
    InputConfig::default()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
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

fn read(dir: &tempfile::TempDir, config: &InputConfig) -> Result<(Vec<String>, ReadCounts, Vec<String>)> {
    let files = walk(&[dir.path().to_path_buf()])?;
    let mut documents = Documents::new(&files, config.clone());
    let mut all = Vec::new();
    loop {
        let batch = documents.batch(10, 3)?;
        if batch.is_empty() {
            return Ok((all, documents.counts(), documents.take_warnings()));
        }
        all.extend(batch.into_iter().map(|(text, _)| String::from_utf8(text).unwrap()));
    }
}

#[test]
fn folders_are_walked_in_order_and_without_what_was_built() {
    let dir = folder(&[
        ("b.txt", b"b"),
        ("a/z.rs", b"z"),
        ("a/y.md", b"y"),
        ("a.txt", b"a"),
        ("target/x.rs", b"x"),
        (".git/x.txt", b"x"),
        ("node_modules/x.js", b"x"),
        (".hidden.txt", b"x"),
        ("picture.png", b"x"),
    ]);
    let (all, ..) = read(&dir, &input()).unwrap();
    assert_eq!(all, ["y", "z", "a", "b"]);
    let named = walk(&[dir.path().join("picture.png")]).unwrap();
    assert_eq!((named.len(), named[0].format), (1, Format::Text));
    let missing = walk(&[dir.path().join("none")]).unwrap_err();
    assert!(missing.to_string().contains("none"), "{missing}");
}

#[test]
fn compression_makes_no_difference() {
    let lines = b"{\"text\": \"one\"}\n\n{\"text\": \"two\\n\"}";
    let two_members = [gzip(b"{\"text\": \"one\"}\n"), gzip(b"{\"text\": \"two\\n\"}\n")].concat();
    let dir = folder(&[
        ("1.jsonl", lines),
        ("2.jsonl.gz", &gzip(lines)),
        ("3.jsonl.zst", &zstd::encode_all(&lines[..], 3).unwrap()),
        ("4.txt.gz", &gzip(b"one")),
        ("5.JSONL.GZ", &two_members),
    ]);
    let (all, counts, _) = read(&dir, &input()).unwrap();
    assert_eq!(all, ["one", "two\n", "one", "two\n", "one", "two\n", "one", "one", "two\n"]);
    assert_eq!((counts.documents, counts.bytes), (9, 31));
}

#[test]
fn bad_records_are_counted_named_and_limited() {
    let dir =
        folder(&[("x.jsonl", b"{\"text\": \"good\"}\n{oops\n{\"other\": 1}\n{\"text\": 5}\n[1]\n{\"text\": \"\"}\n")]);
    let (all, counts, warnings) = read(&dir, &input()).unwrap();
    assert_eq!(all, ["good"]);
    assert_eq!((counts.bad_records, counts.empty), (4, 1));
    assert!(warnings[0].contains("x.jsonl:2: not a JSON object"), "{warnings:?}");
    assert!(warnings[1].contains("x.jsonl:3: no field \"text\""), "{warnings:?}");
    let strict = InputConfig { max_bad_records: 1, ..input() };
    let error = read(&dir, &strict).unwrap_err();
    assert!(matches!(error, Error::TooManyBadRecords { line: 3, count: 2, limit: 1, .. }), "{error}");
    let field = InputConfig { text_field: "other".into(), ..input() };
    assert_eq!(read(&dir, &field).unwrap().1.bad_records, 6);
}

#[test]
fn a_bomb_is_left_out_in_bounded_memory() {
    let zeros = vec![b'0'; 3_000_000];
    let record = [b"{\"text\": \"", &zeros[..], b"\"}\n{\"text\": \"small\"}\n"].concat();
    let dir = folder(&[("a.txt.gz", &gzip(&zeros)), ("b.jsonl.zst", &zstd::encode_all(&record[..], 3).unwrap())]);
    let limit = InputConfig { max_document_bytes: 1000, ..input() };
    let (all, counts, warnings) = read(&dir, &limit).unwrap();
    assert_eq!(all, ["small"]);
    assert_eq!(counts.too_large, 2);
    assert!(warnings[1].contains("b.jsonl.zst:1: larger than"), "{warnings:?}");
    // What is read of a line beyond the limit is not kept.
    let files = walk(&[dir.path().join("b.jsonl.zst")]).unwrap();
    let mut reader = Reader::open(&files[0], Arc::default()).unwrap();
    assert!(matches!(reader.read_line(1000).unwrap(), Line::TooLong));
    assert_eq!(reader.offset, 3_000_013);
}

#[test]
fn damaged_archives_are_named() {
    let text: Vec<u8> = (0..100_000_u32).flat_map(|i| format!("{{\"text\": \"{i}\"}}\n").into_bytes()).collect();
    let (gz, zst) = (gzip(&text), zstd::encode_all(&text[..], 3).unwrap());
    let mut flipped = gz.clone();
    flipped[gz.len() / 2] ^= 0x55;
    let cases: [(&str, &[u8]); 5] = [
        ("a.jsonl.gz", &gz[..gz.len() / 2]),
        ("a.jsonl.gz", &flipped),
        ("a.jsonl.gz", b"not gzip at all"),
        ("a.jsonl.zst", &zst[..zst.len() / 2]),
        ("a.txt.zst", b"not zstd at all"),
    ];
    for (name, content) in cases {
        let error =
            read(&folder(&[(name, content)]), &InputConfig { max_bad_records: u64::MAX, ..input() }).unwrap_err();
        assert!(matches!(error, Error::BadArchive { .. }) && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn reading_stops_after_enough_text() {
    let dir = folder(&[("a.txt", b"aaaa"), ("b.txt", b"bbbb"), ("c.txt", b"cccc")]);
    let some = InputConfig { max_bytes: Some(5), ..input() };
    assert_eq!(read(&dir, &some).unwrap().0, ["aaaa", "bbbb"]);
}
