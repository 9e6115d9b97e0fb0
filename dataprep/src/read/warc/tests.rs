//! Tests of the WARC reader.

use crate::read::bytes::{again, fuzz, read_bytes};
use crate::read::tests::{check, gzip, shown, zstd};
use crate::read::{Compression, Format, ReadConfig, Record};
use proptest::prelude::*;

/// A record with these headers beside the ones that all have.
fn record(kind: &str, media_type: &str, content: &[u8]) -> Vec<u8> {
    let head = format!(
        "WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{}>\r\nWARC-Target-URI: http://example.com/\r\n\
         Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
        content.len(),
        content.len()
    );
    [head.as_bytes(), content, b"\r\n\r\n"].concat()
}

fn wet(text: &str) -> Vec<u8> {
    record("conversion", "text/plain", text.as_bytes())
}

fn response(status: u16, media_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} OK\r\nContent-Type: {media_type}\r\n\r\n");
    record("response", "application/http; msgtype=response", &[head.as_bytes(), body].concat())
}

fn page(words: &str) -> Vec<u8> {
    let paragraph = format!("<p>{}</p>", format!("A sentence of some length with {words} in it. ").repeat(5));
    let body = format!("<html><body><article>{}</article></body></html>", paragraph.repeat(3));
    response(200, "text/html; charset=utf-8", body.as_bytes())
}

fn read(bytes: &[u8], compression: Compression) -> Vec<Record> {
    read_bytes(bytes, Format::Warc, compression, u64::MAX, &ReadConfig::default()).unwrap()
}

fn members(records: &[Vec<u8>]) -> Vec<u8> {
    records.iter().map(|record| gzip(record)).collect::<Vec<_>>().concat()
}

#[test]
fn wet_records_are_documents_and_others_are_passed_over() {
    let file = [
        record("warcinfo", "application/warc-fields", b"software: x\r\n"),
        wet("first\n\ntext\n"),
        record("metadata", "application/warc-fields", b"x: y"),
        wet(""),
        wet("second"),
        record("conversion", "text/plain", b"\xff"),
        record("conversion", "application/pdf", b"%PDF"),
    ]
    .concat();
    check(&file, Format::Warc, |record| {
        let start = record.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        String::from_utf8(record[start..].to_vec()).unwrap()
    });
    let records = read(&file, Compression::None);
    let Record::Document(first) = &records[0] else { panic!("{records:?}") };
    assert_eq!((first.text.as_str(), first.origin.id.as_deref()), ("first\n\ntext\n", Some("<urn:uuid:12>")));
    assert_eq!(first.url.as_deref(), Some("http://example.com/"));
    let lines = shown(&records);
    assert!(lines[1].starts_with("dropped input.empty") && lines[2] == "second" && lines.len() == 5, "{lines:?}");
    assert!(lines[3].contains("not UTF-8") && lines[4].starts_with("dropped warc.media_type"), "{lines:?}");
}

#[test]
fn responses_are_extracted() {
    let file = [
        record("request", "application/http; msgtype=request", b"GET / HTTP/1.1\r\n\r\n"),
        page("nouns"),
        response(404, "text/html", b"<html>"),
        response(200, "image/png", b"\x89PNG"),
        response(200, "text/plain; charset=latin1", b"caf\xe9"),
        response(200, "text/html", b"<html><body></body></html>"),
        record("response", "application/http", b"no status line"),
    ]
    .concat();
    let lines = shown(&read(&file, Compression::None));
    assert!(lines[0].contains("nouns") && !lines[0].contains('<') && lines[0].contains('\n'), "{lines:?}");
    assert!(lines[1].starts_with("dropped warc.status 404") && lines[2].starts_with("dropped warc.media_type"));
    assert_eq!(lines[3], "café");
    assert!(lines[4].starts_with("dropped extract.no_text"), "{lines:?}");
    assert!(lines[5].starts_with("dropped warc.media_type") && lines.len() == 6, "{lines:?}");
    let raw = ReadConfig { extract: None, ..ReadConfig::default() };
    let lines = shown(&read_bytes(&file, Format::Warc, Compression::None, u64::MAX, &raw).unwrap());
    assert!(lines[0].starts_with("<html>"), "{lines:?}");
}

#[test]
fn members_are_entered_and_found_again() {
    let records: Vec<_> = (0..40).map(|i| wet(&format!("text number {i}"))).collect();
    let file = members(&records);
    let whole = read(&file, Compression::Gzip);
    assert_eq!(whole.len(), 40);
    for split_bytes in [1, 100, 300, 1000, 5000] {
        let parts = read_bytes(&file, Format::Warc, Compression::Gzip, split_bytes, &ReadConfig::default()).unwrap();
        assert_eq!(whole, parts, "splits of {split_bytes} bytes");
    }
    for (document, record) in whole.iter().zip(&records) {
        let Record::Document(document) = document else { panic!("{document:?}") };
        assert_eq!(&again(&file, Format::Warc, Compression::Gzip, &document.origin.bytes).unwrap(), record);
    }
    // One stream for all records, or blocks that know nothing of records, are read from the start.
    let stream = gzip(&records.concat());
    assert_eq!(shown(&read(&stream, Compression::Gzip)), shown(&whole));
    let blocks: Vec<_> = records.concat().chunks(333).map(<[u8]>::to_vec).collect();
    assert_eq!(shown(&read(&members(&blocks), Compression::Gzip)), shown(&whole));
    assert_eq!(shown(&read(&zstd(&records.concat()), Compression::Zstd)), shown(&whole));
}

#[test]
fn a_compressed_warc_in_a_record_is_not_entered() {
    // Incompressible content that is itself a file of members: it lies as it is in the outer file.
    let inner = members(&(0..50).map(|i| wet(&format!("inner {i}"))).collect::<Vec<_>>());
    let store = |bytes: &[u8]| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let outer = [store(&wet("before")), store(&record("resource", "application/gzip", &inner)), store(&wet("after"))];
    let file = outer.concat();
    for split_bytes in [u64::MAX, 1000, 100, 10] {
        let records = read_bytes(&file, Format::Warc, Compression::Gzip, split_bytes, &ReadConfig::default()).unwrap();
        let lines = shown(&records);
        assert_eq!((lines.len(), lines[0].as_str(), lines[2].as_str()), (3, "before", "after"), "{lines:?}");
        assert!(lines[1].starts_with("dropped warc.media_type"), "splits of {split_bytes} bytes: {lines:?}");
    }
}

#[test]
fn damage_costs_a_record() {
    let broken: [(&str, Vec<u8>); 6] = [
        ("no Content-Length", b"WARC/1.0\r\nWARC-Type: conversion\r\n\r\nx\r\n\r\n".to_vec()),
        ("which no record has", b"WARC/1.0\r\nContent-Length: 99999999999999999\r\n\r\nx\r\n\r\n".to_vec()),
        ("no Content-Length", b"WARC/1.0\r\nContent-Length: -1\r\n\r\nx\r\n\r\n".to_vec()),
        ("does not end where", b"WARC/1.0\r\nContent-Length: 1\r\n\r\nlonger\r\n\r\n".to_vec()),
        ("begins with WARC/", b"rubbish\r\nmore rubbish\r\n\r\n".to_vec()),
        ("another record begins", b"WARC/1.0\r\nContent-Length: 1\r\n".to_vec()),
    ];
    for (why, bytes) in broken {
        let file = [wet("before"), bytes, wet("after")].concat();
        let lines = shown(&read(&file, Compression::None));
        assert_eq!((lines.len(), lines[0].as_str(), lines[2].as_str()), (3, "before", "after"), "{lines:?}");
        assert!(lines[1].starts_with("memory: byte ") && lines[1].contains(why), "{lines:?}");
        check(&file, Format::Warc, |record| shown(&read(record, Compression::None)).remove(0));
    }
}

#[test]
fn damage_costs_a_member() {
    let mut records: Vec<_> = (0..20).map(|i| gzip(&wet(&format!("text number {i} {}", "x".repeat(50))))).collect();
    let at = records[7].len() / 2;
    records[7][at] ^= 0x55;
    let file = records.concat();
    let whole = read(&file, Compression::Gzip);
    let lines = shown(&whole);
    assert_eq!(lines.iter().filter(|line| line.starts_with("text number")).count(), 19, "{lines:?}");
    assert!(lines[7].contains("memory: byte ") && lines[7].contains("damaged"), "{lines:?}");
    for split_bytes in [1, 50, 777, 1500] {
        let parts = read_bytes(&file, Format::Warc, Compression::Gzip, split_bytes, &ReadConfig::default()).unwrap();
        assert_eq!(whole, parts, "splits of {split_bytes} bytes");
    }
    // The first member of all, and the end of the file.
    records[7][at] ^= 0x55;
    let sound = records.concat();
    records[0].truncate(30);
    let lines = shown(&read(&records.concat(), Compression::Gzip));
    assert_eq!(lines.iter().filter(|line| line.starts_with("text number")).count(), 19, "{lines:?}");
    let cut = &sound[..sound.len() - 20];
    let lines = shown(&read(cut, Compression::Gzip));
    assert!(lines.last().is_some_and(|line| line.contains("damaged")) && lines.len() == 20, "{lines:?}");
    let short = [wet("before"), b"WARC/1.0\r\nContent-Length: 300\r\n\r\nx\r\n\r\n".to_vec(), wet("after")].concat();
    let lines = shown(&read(&short, Compression::None));
    assert!(lines[1].contains("Content-Length is 300, and") && lines[2] == "after", "{lines:?}");
}

#[test]
fn large_records_are_left_out_in_bounded_memory() {
    let config = ReadConfig { max_document_bytes: 1000, ..ReadConfig::default() };
    let large = wet(&"x".repeat(3_000_000));
    let other = record("resource", "image/png", &[0; 3_000_000]);
    let records = [wet("before"), large, other, wet("after")];
    let plain = read_bytes(&records.concat(), Format::Warc, Compression::None, 500, &config).unwrap();
    let gzipped = read_bytes(&members(&records), Format::Warc, Compression::Gzip, 500, &config).unwrap();
    for lines in [shown(&plain), shown(&gzipped)] {
        assert_eq!((lines.len(), lines[0].as_str(), lines[3].as_str()), (4, "before", "after"), "{lines:?}");
        assert!(lines[1].starts_with("dropped input.max_document_bytes 3000000 at"), "{lines:?}");
        assert!(lines[2].starts_with("dropped warc.media_type"), "{lines:?}");
    }
    let bomb = record("response", "application/http", &{
        let body = zstd(&vec![b'x'; 1 << 20]);
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: zstd\r\n\r\n".to_vec(), body].concat()
    });
    let lines = shown(&read_bytes(&bomb, Format::Warc, Compression::None, u64::MAX, &config).unwrap());
    assert!(lines[0].starts_with("dropped input.max_document_bytes 1001"), "{lines:?}");
}

/// The lines of pages as they are, without extraction.
fn raw(file: &[u8]) -> (Vec<String>, Vec<Record>) {
    let config = ReadConfig { extract: None, ..ReadConfig::default() };
    let records = read_bytes(file, Format::Warc, Compression::None, u64::MAX, &config).unwrap();
    (shown(&records), records)
}

#[test]
fn every_kind_of_record_that_stands_for_a_document_gives_one_or_a_rule() {
    let about = |uri: &str, kind: &str, media_type: &str, content: &[u8]| {
        let bytes = record(kind, media_type, content);
        String::from_utf8(bytes).unwrap().replace("http://example.com/", uri).into_bytes()
    };
    let media_type = "dropped warc.media_type";
    for (bytes, expected) in [
        (record("resource", "text/html; charset=latin1", b"<p>caf\xe9"), vec!["<p>café"]),
        (record("resource", "Text/Plain", b"text"), vec!["text"]),
        (record("resource", "", b"\xef\xbb\xbf <!doctype html>"), vec![" <!doctype html>"]),
        (record("resource", "image/png", b"\x89PNG"), vec![media_type]),
        (record("response", "text/html", b"<p>bare"), vec!["<p>bare"]),
        (record("response", "application/http", b"<p>HTTP 0.9"), vec!["<p>HTTP 0.9"]),
        (record("response", "application/http", b"HTTP/1.1 OK\r\n\r\n<p>"), vec!["dropped warc.status 0"]),
        (record("conversion", "TEXT/PLAIN; charset=utf-8", b"text"), vec!["text"]),
        (record("conversion", "text/html", b"<p>a"), vec!["<p>a"]),
        (
            record("revisit", "application/http; msgtype=response", b"HTTP/1.1 200 OK\r\n\r\n"),
            vec!["dropped warc.revisit"],
        ),
        (record("continuation", "", b"rest"), vec!["dropped warc.continuation"]),
        (about("dns:example.com", "response", "text/dns", b"20260101 IN A"), vec![]),
        (about("urn:pageinfo:http://a/", "resource", "application/json", b"{}"), vec![]),
        (about("metadata://gnu.org/software/wget/warc/MANIFEST.txt", "resource", "text/plain", b"x"), vec![]),
        (record("metadata", "text/plain", b"x: y"), vec![]),
    ] {
        let (lines, _) = raw(&bytes);
        let same = lines.len() == expected.len() && lines.iter().zip(&expected).all(|(a, b)| a.starts_with(b));
        assert!(same, "{lines:?}, expected {expected:?}");
    }
}

#[test]
fn pages_that_break_off_are_kept_and_counted() {
    let text: String = (0..300).map(|i| format!("Sentence number {i}. ")).collect();
    let page = gzip(text.as_bytes());
    let answer = |headers: &str, body: &[u8]| {
        record("response", "application/http", &[b"HTTP/1.1 200 OK\n", headers.as_bytes(), b"\n", body].concat())
    };
    let truncated = |bytes: Vec<u8>| {
        let head = b"WARC/1.0\r\nWARC-Truncated: length";
        [head, bytes.strip_prefix(b"WARC/1.0").unwrap()].concat()
    };
    let (plain, gzipped) = ("Content-Type: text/plain\n", "Content-Type: text/plain\nContent-Encoding: gzip\n");
    let chunked = "Content-Type: text/plain\nTransfer-Encoding: chunked\n";
    for (bytes, breaks_off) in [
        (answer(plain, text.as_bytes()), false),
        (answer(gzipped, &page), false),
        (answer(gzipped, &page[..page.len() - 8]), true),
        (answer(gzipped, &page[..page.len() / 2]), true),
        (answer(&format!("{plain}Content-Length: 10\n"), text.as_bytes()), false),
        (answer(&format!("{plain}Content-Length: 10000\n"), text.as_bytes()), true),
        (answer(chunked, format!("20\r\n{}\r\n0\r\n\r\n", &text[..32]).as_bytes()), false),
        (answer(chunked, format!("20\r\n{}\r\n", &text[..32]).as_bytes()), true),
        (answer(chunked, format!("ffff\r\n{text}").as_bytes()), true),
        (truncated(answer(plain, text.as_bytes())), true),
        (truncated(record("resource", "text/plain", text.as_bytes())), true),
        (truncated(record("conversion", "text/plain", &[text.as_bytes(), b"\xe4\xbb"].concat())), true),
    ] {
        let (lines, records) = raw(&bytes);
        let Record::Document(document) = &records[0] else { panic!("{lines:?}") };
        assert!(document.text.len() > 30 && text.starts_with(&document.text), "{lines:?}");
        assert_eq!(document.broken_off, breaks_off, "{}", String::from_utf8_lossy(&bytes[..300]));
    }
}

#[test]
fn the_type_of_a_page_is_the_servers_the_crawlers_or_that_of_its_first_bytes() {
    let typed = |sent: &str, identified: &str, body: &str| {
        let bytes = record("response", "application/http", format!("HTTP/1.1 200 OK\r\n{sent}\r\n{body}").as_bytes());
        let identified = format!("WARC/1.0\r\n{identified}");
        raw(&[identified.as_bytes(), bytes.strip_prefix(b"WARC/1.0\r\n").unwrap()].concat()).0
    };
    let of_crawler = "WARC-Identified-Payload-Type: text/html\r\n";
    for (sent, identified, body) in [
        ("Content-Type: text/html\r\nContent-Type: text/html; charset=utf-8\r\n", "", "a page"),
        ("Content-Type: application/octet-stream\r\n", of_crawler, "a page"),
        ("Content-Type: html\r\n", of_crawler, "a page"),
        ("", of_crawler, "a page"),
        ("", "", "<!-- comment -->"),
        ("Content-Type: */*\r\n", "", "\n\n<html>"),
        ("", "", "plain text"),
    ] {
        assert_eq!(typed(sent, identified, body), [body], "{sent}");
    }
    for (sent, identified, body) in [
        ("Content-Type: application/json\r\n", "", "{}"),
        ("Content-Type: text/html\r\n", "", "%PDF-1.4 and more"),
        ("", "", "<?xml version=\"1.0\"?><rss>"),
    ] {
        let lines = typed(sent, identified, body);
        assert!(lines.len() == 1 && lines[0].starts_with("dropped warc.media_type"), "{lines:?}");
    }
    let controls = typed("Content-Type: text/plain\r\n", "", &"\u{1}\u{2}x".repeat(20));
    assert!(controls[0].starts_with("dropped warc.media_type"), "{controls:?}");
}

#[test]
fn headers_of_records_may_go_over_several_lines() {
    let bytes =
        b"WARC/1.0\nWARC-Type: conversion\nWARC-Target-URI:\n http://example.com/\nContent-Length:\n\t4\n\ntext\n\n";
    let (_, records) = raw(bytes);
    let Record::Document(document) = &records[0] else { panic!("{records:?}") };
    assert_eq!((document.text.as_str(), document.url.as_deref()), ("text", Some("http://example.com/")));
}

proptest! {
    #[test]
    fn splits_do_not_matter(
        parts in proptest::collection::vec((0_usize..6, 0_usize..30), 0..12),
        split_bytes in 1_u64..400,
        flip in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let records: Vec<_> = parts.iter().map(|&(kind, length)| match kind {
            0 => record("metadata", "text/plain", &vec![b'm'; length]),
            1 => response(404, "text/html", b"none"),
            2 => b"WARC/1.0\r\nContent-Length: 5\r\n\r\nlonger\r\n\r\n".to_vec(),
            _ => wet(&"x".repeat(length)),
        }).collect();
        let config = ReadConfig { extract: None, max_document_bytes: 25, ..ReadConfig::default() };
        for (mut file, compression) in [(records.concat(), Compression::None), (members(&records), Compression::Gzip)] {
            if let (Some((index, byte)), false) = (&flip, file.is_empty()) {
                let at = index.index(file.len());
                file[at] ^= byte;
            }
            let whole = read_bytes(&file, Format::Warc, compression, u64::MAX, &config).unwrap();
            let parts = read_bytes(&file, Format::Warc, compression, split_bytes, &config).unwrap();
            prop_assert_eq!(whole, parts);
        }
    }

    #[test]
    fn no_bytes_panic(text in "(WARC/1.0|\r\n|Content-Length: |[0-9]|WARC-Type: conversion|x){0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
        let file = [text.as_bytes(), &bytes].concat();
        fuzz(&file, Format::Warc, Compression::None);
        fuzz(&gzip(&file), Format::Warc, Compression::Gzip);
        fuzz(&[gzip(&file), bytes, gzip(&file)].concat(), Format::Warc, Compression::Gzip);
    }
}
