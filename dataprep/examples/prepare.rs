//! Prepares files or folders as shards of bytes and prints the outcome of each stage.
//!
//! ```sh
//! cargo run --release --example prepare -- INPUT... OUTPUT
//! ```

use fathom_dataprep::pipeline::{self, PrepConfig, Progress};
use std::path::PathBuf;

/// Prints messages, but no progress.
struct Messages;

impl Progress for Messages {
    fn stage(&mut self, _name: &str, _total: u64) {}
    fn advance(&mut self, _done: u64, _documents: u64) {}
    fn message(&mut self, text: &str) {
        eprintln!("{text}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let mut config = PrepConfig::default();
    config.output.dir = paths.pop().ok_or("INPUT... OUTPUT")?;
    config.input.paths = paths;
    let summary = pipeline::run(&config, &mut Messages)?;
    println!("{} training tokens, {} documents", summary.manifest.train.tokens, summary.manifest.train.documents);
    for stage in &summary.manifest.stages {
        println!("{}: {} kept, dropped {:?}, changed {:?}", stage.name, stage.kept, stage.dropped, stage.changed);
    }
    Ok(())
}
