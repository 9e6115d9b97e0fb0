//! Prints the verdicts of several filter configurations on many documents, for comparison with another tool.
//!
//! ```text
//! cargo run --release --example filter_verdicts -- CONFIGS.json DOCUMENTS.jsonl > VERDICTS.jsonl
//! cargo run --release --example filter_verdicts -- --words DOCUMENTS.jsonl > WORDS.jsonl
//! ```
//!
//! CONFIGS.json is an object of filter configurations by name. DOCUMENTS.jsonl has an object with `text` and perhaps
//! `url` a line. A line of VERDICTS.jsonl maps each name to `[rule, value]` where the document was dropped and to the
//! SHA-256 of the text that remains where it was not. How much time each configuration took of one processor goes to
//! standard error. With `--words`, a line has the words of a document.

use fathom_dataprep::filter::{FilterConfig, Filters, split_words};
use fathom_dataprep::{Document, Origin};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::sync::LazyLock;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [configs, documents] = args.as_slice() else {
        return Err("usage: filter_verdicts (CONFIGS.json | --words) DOCUMENTS.jsonl".into());
    };
    let documents = read_documents(documents)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if configs == "--words" {
        for document in &documents {
            writeln!(out, "{}", json!(split_words(&document.text)))?;
        }
        return Ok(out.flush()?);
    }
    let configs: BTreeMap<String, FilterConfig> = serde_json::from_slice(&fs::read(configs)?)?;
    let bytes: usize = documents.iter().map(|document| document.text.len()).sum();
    let mut verdicts = vec![Map::new(); documents.len()];
    for (name, config) in &configs {
        let filters = Filters::new(config)?;
        let mut copies = documents.clone();
        let start = seconds();
        let results: Vec<_> = copies.iter_mut().map(|document| filters.apply(document)).collect();
        let seconds = seconds() - start;
        eprintln!(
            "{name}: {} documents of {} bytes in {seconds:.3} s, {:.0} documents/s, {:.1} MB/s",
            documents.len(),
            bytes / documents.len().max(1),
            documents.len() as f64 / seconds,
            bytes as f64 / seconds / 1e6
        );
        for ((verdict, result), copy) in verdicts.iter_mut().zip(results).zip(&copies) {
            let said = match result {
                Err(dropped) => json!([dropped.rule, dropped.value]),
                Ok(()) => Value::from(hex(&Sha256::digest(&copy.text))),
            };
            verdict.insert(name.clone(), said);
        }
    }
    for verdict in verdicts {
        writeln!(out, "{}", Value::Object(verdict))?;
    }
    Ok(out.flush()?)
}

/// Seconds of processor time of this thread, which other programs do not lengthen; of the clock where the system (not
/// Linux) does not say.
fn seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let ran = || fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse::<f64>().ok();
    ran().map_or_else(|| START.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

fn read_documents(path: &str) -> Result<Vec<Document>, Box<dyn Error>> {
    let mut documents = Vec::new();
    for line in fs::read_to_string(path)?.lines() {
        let record: Value = serde_json::from_str(line)?;
        let text = record["text"].as_str().ok_or("a record without text")?;
        let origin = Origin { file: 0, bytes: 0..line.len() as u64, id: None };
        let mut document = Document::new(origin, text.to_owned());
        document.url = record["url"].as_str().map(str::to_owned);
        documents.push(document);
    }
    Ok(documents)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
