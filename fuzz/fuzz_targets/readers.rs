//! Arbitrary bytes as an input file of every format and compression.
//!
//! Each file is read whole and in splits, and each document again from the place where it was found.
#![no_main]

use fathom_dataprep::read::{Compression, Format, fuzz};
use libfuzzer_sys::fuzz_target;
use std::io::Write;
use std::panic;
use std::sync::{Mutex, PoisonError};

const FORMATS: [Format; 9] = [
    Format::Text,
    Format::Lines,
    Format::Html,
    Format::JsonLines,
    Format::Csv,
    Format::Tsv,
    Format::Warc,
    Format::Parquet,
    Format::Arrow,
];

/// The bytes in one gzip member, not made smaller: checksums are right, so that what is inside gets tried.
fn in_gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn read(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let Some(&format) = FORMATS.get(usize::from(choice & 15)) else {
        return;
    };
    match choice >> 4 & 3 {
        0 => fuzz(bytes, format, Compression::None),
        1 => fuzz(bytes, format, Compression::Gzip),
        2 => fuzz(bytes, format, Compression::Zstd),
        _ => fuzz(&in_gzip(bytes), format, Compression::Gzip),
    }
}

/// What the latest panic said. libFuzzer's own hook ends the process on every panic, but readers catch those of the
/// crates they call and go on: only what comes out of them is a finding.
static PANIC: Mutex<String> = Mutex::new(String::new());

fuzz_target!(
    init: panic::set_hook(Box::new(|info| *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string())),
    |data: &[u8]| {
        if panic::catch_unwind(|| read(data)).is_err() {
            eprintln!("{}", PANIC.lock().unwrap_or_else(PoisonError::into_inner));
            std::process::abort();
        }
    }
);
