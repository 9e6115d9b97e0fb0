//! Runs a data preparation with progress, and describes its result.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use fathom_dataprep::pipeline::Rank;
use fathom_dataprep::{PrepConfig, Progress, ShardSet, Split, Summary, pipeline};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{self, signals};
use crate::error::{Error, INTERRUPTED, Result};

/// The sections of the configuration that preparation reads.
pub const SECTIONS: &[&str] =
    &["input", "extract", "filter", "dedup", "decontaminate", "tokenizer", "fim", "output", "prep"];

/// Time between lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A bar on a terminal, elsewhere a line when a stage begins and another now and then.
struct Bars {
    stage: Option<Shown>,
}

struct Shown {
    name: String,
    bar: ProgressBar,
    total: u64,
    since: Instant,
    line: Instant,
}

impl Shown {
    /// Documents a second so far.
    fn rate(&self, documents: u64) -> f64 {
        documents as f64 / self.since.elapsed().as_secs_f64().max(1e-3)
    }

    /// How far it is, how fast, and how long the rest takes if it goes on like that.
    fn line(&self, done: u64, documents: u64) -> String {
        let share = done as f64 / self.total.max(1) as f64;
        let left = self.since.elapsed().as_secs_f64() * (1.0 / share.max(1e-6) - 1.0).max(0.0);
        let (name, rate) = (&self.name, self.rate(documents));
        format!("{name}: {:.0} %, {documents} documents, {rate:.0} documents/s, {left:.0} s left", share * 100.0)
    }
}

impl Progress for Bars {
    fn stage(&mut self, name: &str, total: u64) {
        if let Some(shown) = &self.stage {
            shown.bar.finish_and_clear();
        }
        let template =
            format!("{name}  {{wide_bar}} {{bytes}}/{{total_bytes}}  {{bytes_per_sec}}  {{msg}}  {{eta}} left");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style);
        if bar.is_hidden() {
            // A stage that has little to read is over before a size tells anything.
            let size = if total < 50_000 { String::new() } else { format!(": {:.1} MB", total as f64 / 1e6) };
            eprintln!("{name}{size}");
        }
        let now = Instant::now();
        self.stage = Some(Shown { name: name.into(), bar, total, since: now, line: now });
    }

    fn advance(&mut self, done: u64, documents: u64) {
        let Some(shown) = &mut self.stage else { return };
        shown.bar.set_position(done);
        if !shown.bar.is_hidden() {
            shown.bar.set_message(format!("{documents} documents, {:.0}/s", shown.rate(documents)));
        } else if shown.line.elapsed() >= LINE_EVERY {
            shown.line = Instant::now();
            eprintln!("{}", shown.line(done, documents));
        }
    }

    fn message(&mut self, text: &str) {
        match &self.stage {
            Some(shown) if !shown.bar.is_hidden() => shown.bar.suspend(|| eprintln!("{text}")),
            _ => eprintln!("{text}"),
        }
    }
}

/// Rank of this process among several: as `--rank` and `--world` say, otherwise as a launcher does.
///
/// # Errors
/// One of them without the other where no launcher says it, and ranks that cannot be.
pub fn rank(rank: Option<usize>, world: Option<usize>) -> Result<Rank> {
    let usage = |error: fathom_dataprep::Error| Error::Usage(error.to_string());
    if let (Some(rank), Some(world)) = (rank, world) {
        return Rank::new(rank, world).map_err(usage);
    }
    if let Some(rank) = rank {
        return Err(Error::Usage(format!("--rank {rank} without --world; give both")));
    }
    match Rank::detect(|name| std::env::var(name).ok(), world).map_err(usage)? {
        Some((found, launcher)) => {
            if let Some(world) = world.filter(|&world| world != found.world()) {
                let known = found.world();
                return Err(Error::Usage(format!("--world {world}, but {launcher} says {known}; leave it out")));
            }
            eprintln!("rank {} of {} ({launcher})", found.index(), found.world());
            Ok(found)
        }
        None if world.is_none_or(|world| world == 1) => Ok(Rank::default()),
        None => Err(Error::Usage("--world without --rank, and no launcher says which rank this is; give both".into())),
    }
}

/// Prepares a corpus, showing progress on stderr.
///
/// # Errors
/// Those of [`pipeline::run`]; no input at all is a usage error.
pub fn run(config: &PrepConfig) -> Result<Summary> {
    if config.input.paths.is_empty() {
        return Err(Error::Usage("nothing to read: give --input PATH, or input.paths in the configuration".into()));
    }
    let mut bars = Bars { stage: None };
    let summary = pipeline::run(config, &mut bars)?;
    if let Some(shown) = &bars.stage {
        shown.bar.finish_and_clear();
    }
    Ok(summary)
}

/// Ends the program on Ctrl-C (or SIGTERM) at once and says how to continue: at any moment, finished tasks are kept and
/// the same command does the rest.
pub fn leave_on_interrupt(output: &Path) {
    let work = output.join("work");
    // Where the system does not let signals be handled, they end the program without a word.
    let _ = signals::handle(move |_| {
        eprintln!("\n{}", stopped(&work));
        std::process::exit(INTERRUPTED.into());
    });
}

/// What an interrupted preparation says; its finished tasks are in `work`.
fn stopped(work: &Path) -> String {
    if work.is_dir() {
        let work = work.display();
        format!("stopped; run the same command again to go on: finished tasks are kept in {work}")
    } else {
        "stopped before the first task; nothing was written".into()
    }
}

/// Opens the validation split of prepared data, or the training split where nothing was held out; and says which.
///
/// # Errors
/// Those of [`ShardSet::open`]: a validation split that is there but damaged is not passed over.
pub fn validation_or_train(path: &Path) -> Result<(ShardSet, Split)> {
    match ShardSet::open(path, Split::Validation) {
        Err(fathom_dataprep::Error::NoShards { .. }) => Ok((ShardSet::open(path, Split::Train)?, Split::Train)),
        other => Ok((other?, Split::Validation)),
    }
}

/// Summary of a preparation, as text for a person.
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

/// Prints a report on a prepared folder, and writes the same as an HTML page.
///
/// # Errors
/// A folder that cannot be read, a page that cannot be written.
pub fn inspect(folder: &Path, html: Option<&Path>, json: bool) -> Result<()> {
    let inspection = fathom_dataprep::inspect::inspect(folder)?;
    let path = html.map_or_else(|| folder.join("report.html"), Path::to_path_buf);
    std::fs::write(&path, inspection.html()).map_err(Error::io("write", &path))?;
    eprintln!("{} has the plots", path.display());
    cli::print(&if json { as_json(&inspection)? } else { inspection.text() })
}

/// Prints the document that a token of a prepared folder came from.
///
/// # Errors
/// A folder that cannot be read, a token that is not there.
pub fn trace(folder: &Path, split: &str, token: u64, around: u64, json: bool) -> Result<()> {
    let split = match split {
        "train" => Split::Train,
        "validation" => Split::Validation,
        other => return Err(Error::Usage(format!("--split {other}: must be train or validation"))),
    };
    let trace = pipeline::trace(folder, split, token, around)?;
    if json {
        return cli::print(&as_json(&trace)?);
    }
    let (document, from) = (&trace.provenance, trace.provenance.bytes);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "token {token} of {split}: id {}, {:?}", trace.id, trace.text);
    let (place, tokens, shard) = (trace.place, trace.tokens, &trace.shard);
    let _ = writeln!(out, "  shard     {shard}, document {}, token {place} of its {tokens}", trace.document);
    let _ = writeln!(out, "  source    {}, bytes {} to {}", trace.source.path, from[0], from[1]);
    let known = [("record", document.id.as_deref()), ("address", document.url.as_deref())];
    for (name, value) in known.into_iter().chain([("language", document.language.as_deref())]) {
        if let Some(value) = value {
            let _ = writeln!(out, "  {name:<9} {value}");
        }
    }
    for (name, score) in &document.scores {
        let _ = writeln!(out, "  {name:<45} {score:.4}");
    }
    let _ = writeln!(out, "\n{}[[{}]]{}", trace.before, trace.text, trace.after);
    cli::print(&out)
}

fn as_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| Error::Run(format!("cannot be written as JSON: {e}")))
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_preparation_says_what_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        assert_eq!(stopped(&work), "stopped before the first task; nothing was written");
        std::fs::create_dir(&work).unwrap();
        assert!(stopped(&work).ends_with(&format!("finished tasks are kept in {}", work.display())));
    }
}
