//! `prep inspect`: counts, drop rules, distributions and examples of a prepared corpus.
//!
//! Counts come from `manifest.json`; what was measured of documents and the examples from the files beside it.

mod html;
mod report;

pub use report::{Distribution, Example, Inspection};

use crate::error::{Error, Result};
use crate::pipeline::{Lines, Provenance};
use crate::shard::{Manifest, ShardSet, Split, TokenPlace};
use crate::tokenizer::Tokenizer;
use report::{by_count, drop_rate, fixed};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Documents whose scores are looked at: enough for quantiles, few enough to read in a second.
const SAMPLED: usize = 200_000;
/// Examples of kept documents, and of dropped ones for each rule.
const EXAMPLES: usize = 4;
/// Characters of an example.
const EXCERPT: usize = 600;

/// A line of `dropped/*.jsonl.zst`.
#[derive(Deserialize)]
struct DroppedLine {
    stage: String,
    rule: String,
    value: Option<serde_json::Value>,
    threshold: Option<serde_json::Value>,
    duplicate_of: Option<u64>,
    #[serde(flatten)]
    provenance: Provenance<'static>,
    text: String,
}

/// Inspects the prepared folder `folder`.
///
/// # Errors
/// Those of reading it.
pub fn inspect(folder: &Path) -> Result<Inspection> {
    let manifest = Manifest::read(folder)?;
    let sources = fs::read_to_string(folder.join(crate::pipeline::SOURCES)).unwrap_or_default();
    let sources: Vec<&str> = sources.lines().collect();
    let mut inspection = Inspection {
        folder: folder.into(),
        scores: scores(folder, &manifest)?,
        kept: kept(folder, &manifest, &sources)?,
        dropped: dropped(folder, &sources)?,
        manifest,
    };
    // A document's lengths in tokens are in the manifest in full; they need no sample.
    inspection.scores.retain(|_, distribution| distribution.documents > 0);
    Ok(inspection)
}

fn scores(folder: &Path, manifest: &Manifest) -> Result<BTreeMap<String, Distribution>> {
    let shards: Vec<_> = manifest.train.shards.iter().filter(|shard| shard.docs.is_some()).collect();
    let each = SAMPLED.div_ceil(shards.len().max(1));
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for shard in shards {
        let path = folder.join(format!("{}.docs.jsonl.zst", shard.name));
        let mut lines = Lines::open(&path)?;
        for _ in 0..each {
            let Some(line) = lines.next_line()? else { break };
            let document: Provenance<'static> = serde_json::from_str(&line)
                .map_err(|e| Error::NoProvenance { path: path.clone(), what: e.to_string() })?;
            for (name, score) in document.scores {
                values.entry(name.into_owned()).or_default().push(score);
            }
        }
    }
    Ok(values.into_iter().map(|(name, values)| (name, Distribution::of(values))).collect())
}

fn kept(folder: &Path, manifest: &Manifest, sources: &[&str]) -> Result<Vec<Example>> {
    let set = ShardSet::open(folder, Split::Train)?;
    let tokenizer = Tokenizer::load(folder)?;
    let mut examples = Vec::new();
    for place in spread(&set, EXAMPLES.min(manifest.train.documents as usize) as u64)? {
        // A token stands for no more than a few characters, mostly; a few more do no harm.
        let mut tokens = vec![0; (place.end - place.start).min(EXCERPT as u64) as usize];
        set.read(place.start, &mut tokens)?;
        let found = crate::pipeline::trace(folder, Split::Train, place.start, 0);
        let text = excerpt(&tokenizer.decode(&tokens));
        examples.push(match found {
            Ok(trace) => Example::new(trace.provenance, sources, None, text),
            Err(Error::Io { .. } | Error::NoProvenance { .. }) => Example { text, ..Example::default() },
            Err(e) => return Err(e),
        });
    }
    Ok(examples)
}

/// The places of `n` documents, or of as many as there are: the first, and others that are spread evenly over the
/// tokens, each once.
fn spread(set: &ShardSet, n: u64) -> Result<Vec<TokenPlace>> {
    let mut places: Vec<TokenPlace> = Vec::new();
    for i in 0..n {
        // A long document may reach over the place of the next example: that is then the one behind it.
        let behind = places.last().map_or(0, |last| last.end);
        let token = (u128::from(set.tokens()) * u128::from(i) / u128::from(n)) as u64;
        places.extend(set.locate(token.max(behind))?);
    }
    // Documents before a long one were not looked at, where it is at the end.
    let mut before = 0;
    while (places.len() as u64) < n {
        let Some(place) = set.locate(before)? else { break };
        before = place.end;
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places.sort_by_key(|place| place.start);
    Ok(places)
}

fn dropped(folder: &Path, sources: &[&str]) -> Result<BTreeMap<String, Vec<Example>>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join(crate::pipeline::DROPPED))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    let mut examples: BTreeMap<String, Vec<Example>> = BTreeMap::new();
    for path in files {
        let mut lines = Lines::open(&path)?;
        // A task's first documents are as good as any.
        for _ in 0..2000 {
            let Some(line) = lines.next_line()? else { break };
            let line: DroppedLine = serde_json::from_str(&line)
                .map_err(|e| Error::NoProvenance { path: path.clone(), what: e.to_string() })?;
            let of_rule = examples.entry(format!("{}: {}", line.stage, line.rule)).or_default();
            if of_rule.len() < EXAMPLES {
                let note = match (&line.value, &line.threshold, line.duplicate_of) {
                    (.., Some(kept)) => {
                        format!("document {:?} is kept in place of this, {:?}", kept, line.provenance.document)
                    }
                    (Some(value), Some(threshold), _) => format!("{} = {value}, threshold {threshold}", line.rule),
                    _ => line.rule.clone(),
                };
                of_rule.push(Example::new(line.provenance, sources, Some(note), excerpt(&line.text)));
            }
        }
    }
    Ok(examples)
}

/// Its address, or its file and where in it.
fn origin(provenance: &Provenance<'_>, sources: &[&str]) -> String {
    if let Some(url) = &provenance.url {
        return url.to_string();
    }
    let source = sources.get(provenance.file as usize).and_then(|line| serde_json::from_str(line).ok());
    let path =
        source.map_or_else(|| format!("file {}", provenance.file), |source: crate::pipeline::SourceFile| source.path);
    format!("{path}, from byte {}", provenance.bytes[0])
}

impl Example {
    fn new(provenance: Provenance<'static>, sources: &[&str], dropped_by: Option<String>, text: String) -> Self {
        let language = provenance.language.as_ref().map(|language| format!("language {language}"));
        let note = dropped_by.into_iter().chain(language).collect::<Vec<_>>().join("; ");
        let origin = origin(&provenance, sources);
        let scores = provenance.scores.into_iter().map(|(name, score)| (name.into_owned(), score)).collect();
        Self { origin, note, scores, text }
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT).collect()
}

impl Inspection {
    /// The report as text for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let manifest = &self.manifest;
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", self.folder.display());
        for (name, side) in [("train", Some(&manifest.train)), ("validation", manifest.validation.as_ref())] {
            if let Some(side) = side {
                let (documents, tokens, megabytes) = (side.documents, side.tokens, side.text_bytes as f64 / 1e6);
                let shards = side.shards.len();
                let _ = writeln!(
                    out,
                    "  {name:<11} {documents:>10} documents  {tokens:>13} tokens  {megabytes:>10.1} MB  \
                     {shards:>5} shards"
                );
            }
        }
        out += "\nStages\n";
        for stage in &manifest.stages {
            let _ = writeln!(
                out,
                "  {:<16} {:>10} kept, {:.1} % dropped",
                stage.name,
                stage.kept,
                100.0 * drop_rate(stage)
            );
            let all = (stage.kept as f64 + stage.dropped.values().map(|n| *n as f64).sum::<f64>()).max(1.0);
            for (rule, n) in by_count(&stage.dropped) {
                let _ = writeln!(out, "    - {n:>10}  {:>5.1} %  {rule}", 100.0 * n as f64 / all);
            }
            for (what, n) in &stage.changed {
                let _ = writeln!(out, "    ~ {n:>10}           {what}");
            }
        }
        out += "\nTokens per document\n";
        let lengths = self.lengths();
        let most = lengths.iter().map(|(_, _, n)| *n).max().unwrap_or(1).max(1);
        for (from, to, n) in lengths {
            let bar = "#".repeat((n as f64 * 40.0 / most as f64).ceil() as usize);
            let _ = writeln!(out, "  {from:>9} to {to:<9} {n:>10}  {bar}");
        }
        if !manifest.languages.is_empty() {
            out += "\nLanguages\n";
            for (language, n) in by_count(&manifest.languages).into_iter().take(20) {
                let _ = writeln!(out, "  {language:<9} {n:>10}");
            }
        }
        if !self.scores.is_empty() {
            out += "\nScores (minimum, 5 %, 25 %, median, 75 %, 95 %, maximum)\n";
            for (name, distribution) in &self.scores {
                let quantiles = distribution.quantiles.map(|q| format!("{:>10}", fixed(q, 4))).join(" ");
                let _ = writeln!(out, "  {name:<45} {quantiles}");
            }
        }
        let line = |out: &mut String, example: &Example| {
            let text: String =
                example.text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect();
            let _ = writeln!(out, "  {}\n    {}\n    {text}", example.origin, example.note);
        };
        out += "\nExamples of kept documents\n";
        self.kept.iter().for_each(|example| line(&mut out, example));
        if !self.dropped.is_empty() {
            out += "\nExamples of dropped documents\n";
            self.dropped.values().filter_map(|examples| examples.first()).for_each(|example| line(&mut out, example));
        }
        out
    }

    /// A page that needs nothing else, with plots.
    pub fn html(&self) -> String {
        html::page(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_what_they_say() {
        let distribution = Distribution::of((0..=1000).map(f64::from).rev().collect());
        assert_eq!(distribution.quantiles, [0.0, 50.0, 250.0, 500.0, 750.0, 950.0, 1000.0]);
        assert_eq!((distribution.documents, distribution.range), (1001, [10.0, 990.0]));
        assert_eq!(distribution.histogram.iter().sum::<usize>(), 1001);
        assert!(distribution.histogram[5].abs_diff(41) <= 1, "{:?}", distribution.histogram);
        assert_eq!(Distribution::of(vec![2.0; 5]).histogram[0], 5);
        assert_eq!(Distribution::of(Vec::new()), Distribution::default());
        assert_eq!(
            [-0.0, -0.00004, -0.00006, 1.0].map(|value| fixed(value, 4)),
            ["0.0000", "0.0000", "-0.0001", "1.0000"]
        );
    }

    #[test]
    fn a_plain_corpus_can_be_looked_at() {
        let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let record = |i: usize| serde_json::json!({ "text": format!("<b>{i}</b> ").repeat(1 + i) }).to_string() + "\n";
        fs::write(input.path().join("a.jsonl"), (0..40).map(record).collect::<String>() + "bad\n").unwrap();
        let mut config = crate::PrepConfig::default();
        (config.input.paths, config.output.dir) = (vec![input.path().into()], output.path().into());
        config.output.validation_fraction = 0.2;
        crate::pipeline::run(&config, &mut crate::pipeline::Silent).unwrap();
        let inspection = inspect(output.path()).unwrap();
        assert_eq!(inspection.lengths().iter().map(|(_, _, n)| n).sum::<u64>(), 40);
        assert_eq!(inspection.kept.len(), 4);
        assert!(inspection.kept[0].text.starts_with("<b>"));
        let (text, html) = (inspection.text(), inspection.html());
        assert!(text.contains("2.4 % dropped") && text.contains("bad record"), "{text}");
        assert!(html.contains("&lt;b&gt;") && !html.contains("<b>0"), "text is text");
        assert!(html.contains("<svg") && html.trim_end().ends_with("</html>"));
    }

    #[test]
    fn every_example_is_another_document() {
        let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |texts: &[&str]| {
            let lines = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n");
            fs::write(input.path().join("a.jsonl"), lines.collect::<String>()).unwrap();
        };
        let mut config = crate::PrepConfig::default();
        (config.input.paths, config.output.dir) = (vec![input.path().into()], output.path().into());
        (config.output.validation_fraction, config.output.overwrite) = (0.0, true);
        let long = "long ".repeat(1000);
        for texts in [
            &["a", "b"][..],
            &["one"],
            &[&long, "b"],
            &["a", &long],
            &["a", "b", &long, "d"],
            &["a", "b", "c", "d", &long],
        ] {
            write(texts);
            crate::pipeline::run(&config, &mut crate::pipeline::Silent).unwrap();
            let inspection = inspect(output.path()).unwrap();
            let shown: Vec<_> = inspection.kept.iter().map(|example| example.text.as_str()).collect();
            let whole: Vec<String> = texts.iter().map(|text| excerpt(text)).collect();
            let mut expected = whole.iter().map(String::as_str);
            assert!(shown.iter().all(|text| expected.any(|other| other == *text)), "{shown:?}: once each, in order");
            assert_eq!(shown.len(), texts.len().min(EXAMPLES));
            assert!(inspection.text().contains(" kept, 0.0 % dropped") && !inspection.text().contains("-0.0"));
            assert!(!inspection.html().contains("-0.0"));
        }
    }
}
