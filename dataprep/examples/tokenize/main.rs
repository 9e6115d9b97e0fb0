//! How fast text becomes tokens on one thread, beside the `tokenizers` crate in the same minutes, and whether both give
//! the same ids for every document.
//!
//! ```sh
//! cargo run --release --example tokenize -- TEXT TOKENIZER.json... [--peer-bytes N]
//! ```
//!
//! `TEXT` is a `.jsonl` file of `{"text": ...}`, or any file, which is then one document a kilobyte or so, cut at line
//! ends. The peer is given the first `N` bytes (all unless said), document by document. Speeds are per second of
//! processor time, so that other programs on the machine matter less: the best of four passes of ours, and one of the
//! peer's.

mod corpus;

use corpus::{cpu_seconds, documents};
use fathom_dataprep::Tokenizer;
use std::error::Error;
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let (mut paths, mut peer_bytes) = (Vec::new(), usize::MAX);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--peer-bytes" => peer_bytes = arguments.next().ok_or("--peer-bytes needs a number")?.parse()?,
            path => paths.push(PathBuf::from(path)),
        }
    }
    let [text, tokenizers @ ..] = paths.as_slice() else {
        return Err("usage: tokenize TEXT TOKENIZER.json... [--peer-bytes N]".into());
    };
    let documents = documents(text)?;
    let bytes: usize = documents.iter().map(String::len).sum();
    println!("{}: {} documents, {:.1} MB", text.display(), documents.len(), bytes as f64 / 1e6);
    println!("| tokenizer | tokens | MB/s | MB/s, tokenizers 0.23 | ratio | documents compared | that differ |");
    println!("|---|---|---|---|---|---|---|");
    for tokenizer in tokenizers {
        row(tokenizer, &documents, bytes, peer_bytes)?;
    }
    Ok(())
}

/// Measures one tokenizer and compares it with its peer.
fn row(path: &Path, documents: &[String], bytes: usize, peer_bytes: usize) -> Result<()> {
    let ours = Tokenizer::load(path)?;
    let mut peer = tokenizers::Tokenizer::from_file(path).map_err(|e| e.to_string())?;
    peer.set_encode_special_tokens(true);
    let mut encoder = ours.encoder();
    let mut best = f64::INFINITY;
    let mut ids = Vec::with_capacity(bytes / 2);
    for _ in 0..4 {
        ids.clear();
        let start = cpu_seconds();
        for document in documents {
            encoder.encode_ordinary(document.as_bytes(), &mut ids)?;
        }
        best = best.min(cpu_seconds() - start);
    }
    let (mut compared, mut seen, mut differ, mut seconds) = (0, 0, 0, 0.0);
    for document in documents {
        if seen >= peer_bytes {
            break;
        }
        let start = cpu_seconds();
        let theirs = peer.encode_fast(document.as_str(), false).map_err(|e| e.to_string())?;
        seconds += cpu_seconds() - start;
        (compared, seen) = (compared + 1, seen + document.len());
        differ += usize::from(theirs.get_ids() != ours.encode_ordinary(document.as_bytes())?);
    }
    let (speed, peer_speed) = (bytes as f64 / best / 1e6, seen as f64 / seconds / 1e6);
    let ratio = speed / peer_speed;
    println!(
        "| {} | {} | {speed:.0} | {peer_speed:.1} | {ratio:.0} | {compared} | {differ} |",
        path.display(),
        ids.len()
    );
    Ok(())
}
