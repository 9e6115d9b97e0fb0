//! How fast text becomes tokens on one thread, beside `tokenizers` 1.0.0-rc.3 in the same minutes, and whether both
//! give the same ids. `examples/tokenize/` is the same with the released version.
//!
//! ```sh
//! cd dataprep/peer && cargo run --release -- TEXT TOKENIZER.json...
//! ```
//!
//! `TEXT` is a `.jsonl` file of `{"text": ...}`, or any file, which is then one document a kilobyte or so, cut at line
//! ends. Both take turns, a pass over all documents each; of five passes, the first, in which every word is new, and
//! the best, per second of processor time where Linux says, so that other programs on the machine matter less. Small
//! texts are repeated in a pass, since Linux counts that time in steps of some milliseconds.

#[path = "../../examples/tokenize/corpus.rs"]
mod corpus;

use corpus::{cpu_seconds, documents};
use fathom_dataprep::Tokenizer;
use std::error::Error;
use std::path::Path;
use tokenizers::pipeline::{EncodeOptions, PipelineTokenizer};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [text, tokenizers @ ..] = arguments.as_slice() else {
        return Err("usage: fathom-dataprep-peer TEXT TOKENIZER.json...".into());
    };
    let documents = documents(Path::new(text))?;
    let bytes: usize = documents.iter().map(String::len).sum();
    println!("{text}: {} documents, {:.1} MB", documents.len(), bytes as f64 / 1e6);
    println!("| tokenizer | first pass | best | tokenizers 1.0.0-rc.3, first pass | best | ratio | that differ |");
    println!("|---|---|---|---|---|---|---|");
    for path in tokenizers {
        row(path, &documents, bytes)?;
    }
    Ok(())
}

/// Bytes of a pass over a text that is too small for the clock, which ticks in hundredths of a second.
const LEAST_BYTES: usize = 32 << 20;
/// Bytes of a text that is not.
const LARGE: usize = 8 << 20;

/// Measures one tokenizer and compares it with its peer.
fn row(path: &str, documents: &[String], bytes: usize) -> Result<()> {
    let ours = Tokenizer::load(Path::new(path))?;
    let peer = tokenizers::from_json(&tokenizers::canonicalize_file(path).map_err(|e| e.to_string())?)
        .map_err(|e| e.to_string())?;
    let (mut encoder, mut ids, mut theirs) = (ours.encoder(), Vec::new(), Vec::new());
    let repeats = if bytes < LARGE { LEAST_BYTES.div_ceil(bytes.max(1)) } else { 1 };
    let speed = |start: f64| (bytes * repeats) as f64 / (cpu_seconds() - start) / 1e6;
    let (mut speeds, mut peer_speeds) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let start = cpu_seconds();
        for document in (0..repeats).flat_map(|_| documents) {
            ids.clear();
            encoder.encode_ordinary(document.as_bytes(), &mut ids)?;
        }
        speeds.push(speed(start));
        let start = cpu_seconds();
        for document in (0..repeats).flat_map(|_| documents) {
            theirs.clear();
            encode(&peer, document, &mut theirs)?;
        }
        peer_speeds.push(speed(start));
    }
    let mut differ = 0;
    for document in documents {
        theirs.clear();
        encode(&peer, document, &mut theirs)?;
        let ids = ours.encode_ordinary(document.as_bytes())?;
        differ += usize::from(!theirs.iter().map(|token| token.id()).eq(ids));
    }
    let best = |speeds: &[f64]| speeds.iter().copied().fold(0.0, f64::max);
    let (first, ours, peer_first, peer) = (speeds[0], best(&speeds), peer_speeds[0], best(&peer_speeds));
    println!("| {path} | {first:.0} | {ours:.0} | {peer_first:.0} | {peer:.0} | {:.2} | {differ} |", ours / peer);
    Ok(())
}

fn encode(peer: &PipelineTokenizer, text: &str, out: &mut Vec<tokenizers::pipeline::PipelineToken>) -> Result<()> {
    let options = EncodeOptions { add_special_tokens: false, encode_special_tokens: true, ..EncodeOptions::default() };
    peer.encode_into(text, &options, out).map_err(|e| e.to_string().into())
}
