//! Data preparation with something to look at.

use std::fmt::Write;

use fathom_dataprep::{PrepConfig, Progress, Summary, prep};
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};

/// A bar on a terminal, a line a stage elsewhere.
struct Bars {
    bar: Option<ProgressBar>,
}

impl Progress for Bars {
    fn stage(&mut self, name: &str, total: u64) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let template =
            format!("{name}  {{wide_bar}} {{bytes}}/{{total_bytes}}  {{bytes_per_sec}}  {{msg}}  {{eta}} left");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style);
        if bar.is_hidden() {
            eprintln!("{name}: {:.1} MB", total as f64 / 1e6);
        }
        self.bar = Some(bar);
    }

    fn advance(&mut self, done: u64, documents: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(format!("{documents} documents"));
        }
    }

    fn message(&mut self, text: &str) {
        match &self.bar {
            Some(bar) if !bar.is_hidden() => bar.suspend(|| eprintln!("{text}")),
            _ => eprintln!("{text}"),
        }
    }
}

/// Prepares a corpus, showing progress on stderr.
///
/// # Errors
/// Those of [`prep::run`]; no input at all is a usage error.
pub fn run(config: &PrepConfig) -> Result<Summary> {
    if config.input.paths.is_empty() {
        return Err(Error::Usage("nothing to read: give --input PATH, or input.paths in the configuration".into()));
    }
    let mut bars = Bars { bar: None };
    let summary = prep::run(config, &mut bars)?;
    if let Some(bar) = &bars.bar {
        bar.finish_and_clear();
    }
    Ok(summary)
}

/// What was made, for a person to read.
pub fn describe(summary: &Summary) -> String {
    let manifest = &summary.manifest;
    let mut out = String::new();
    let what = if summary.reused { "already holds this preparation" } else { "prepared" };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}: {what}", summary.dir.display());
    for (name, side) in [("train", Some(&manifest.train)), ("validation", manifest.validation.as_ref())] {
        if let Some(side) = side {
            let per_token = side.text_bytes as f64 / side.tokens.max(1) as f64;
            let _ = writeln!(
                out,
                "  {name:<11} {:>12} tokens  {:>8} documents  {:>8.2} MB of text, {per_token:.2} bytes a token",
                side.tokens,
                side.documents,
                side.text_bytes as f64 / 1e6,
            );
        }
    }
    let entry = &manifest.tokenizer;
    let _ = writeln!(out, "  tokenizer   {} of {} tokens, {}", entry.kind, entry.vocab_size, short(&entry.fingerprint));
    for stage in &manifest.stages {
        for (why, count) in stage.dropped.iter().chain(&stage.changed) {
            let _ = writeln!(out, "  {}: {count} x {why}", stage.name);
        }
    }
    out
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}
