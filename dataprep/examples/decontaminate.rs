//! Which evaluation items occur in a corpus, and which of its documents hold them.
//!
//! ```text
//! cargo run --release --example decontaminate -- DOCUMENTS.jsonl EVALUATION_FILE...
//! ```
//!
//! DOCUMENTS.jsonl has an object with `text` a line. Prints a line of JSON for every file, and for every item that was
//! hit with the number of documents it occurs in.

use fathom_dataprep::dedup::{DecontaminateConfig, DecontaminateScratch, Decontaminator, ItemHits};
use serde_json::{Value, json};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).map(PathBuf::from);
    let documents = args.next().ok_or("usage: decontaminate DOCUMENTS.jsonl EVALUATION_FILE...")?;
    let config = DecontaminateConfig { files: args.collect(), ..DecontaminateConfig::default() };
    let evaluations = Decontaminator::new(&config)?;
    for file in evaluations.files() {
        println!("{}", serde_json::to_string(file)?);
    }
    let (mut scratch, mut hits) = (DecontaminateScratch::default(), ItemHits::default());
    let (mut count, mut dropped) = (0_u64, 0_u64);
    for line in BufReader::new(File::open(documents)?).lines() {
        let record: Value = serde_json::from_str(&line?)?;
        let shared = evaluations.shared(record["text"].as_str().unwrap_or_default(), &mut scratch);
        dropped += u64::from(evaluations.judge(&shared).is_err());
        count += 1;
        hits.add(&shared);
    }
    for item in hits.report(&evaluations) {
        println!("{}", serde_json::to_string(&item)?);
    }
    println!("{}", json!({"documents": count, "dropped": dropped}));
    Ok(())
}
