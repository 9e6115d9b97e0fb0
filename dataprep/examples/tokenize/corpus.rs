//! The documents that tokenizers are timed on, and the clock. `dataprep/peer` uses both too.

use std::error::Error;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

/// Processor time of this thread where Linux says, else the time of day.
pub fn cpu_seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let stated = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = stated.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.elapsed().as_secs_f64(), |ns| ns / 1e9)
}

/// The documents of a `.jsonl` file of `{"text": ...}`, or pieces of any other file: a kilobyte or so each, cut at line
/// ends.
pub fn documents(path: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
    if path.extension().is_some_and(|suffix| suffix == "jsonl") {
        let record = |line: &str| -> Result<String, Box<dyn Error>> {
            let value: serde_json::Value = serde_json::from_str(line)?;
            Ok(value["text"].as_str().ok_or("a record without text")?.to_owned())
        };
        return text.lines().map(record).collect();
    }
    let mut documents = vec![String::new()];
    for line in text.split_inclusive('\n') {
        match documents.last_mut() {
            Some(last) if last.len() < 1024 => last.push_str(line),
            _ => documents.push(line.to_owned()),
        }
    }
    Ok(documents)
}
