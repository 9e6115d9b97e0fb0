//! The inspection report as an HTML page: tables, and plots as inline SVG, in one file.

use super::report::{Distribution, Example, Inspection, by_count, drop_rate, fixed};
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:right}\
td:first-child,th:first-child{text-align:left}svg{display:block;max-width:100%}rect{fill:#3b7dd8}\
text{font-size:12px;fill:currentColor}pre{white-space:pre-wrap;background:#8881;padding:.6rem;margin:.2rem 0 1rem}\
.note{color:#777;font-size:13px}.plots{display:flex;flex-wrap:wrap;gap:1rem}\
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}rect{fill:#6aa5f0}}";

/// The whole page.
pub(super) fn page(inspection: &Inspection) -> String {
    let manifest = &inspection.manifest;
    let title = escape(&inspection.folder.display().to_string());
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<p class=\"note\">fingerprint {} · {} files, {:.1} MB · tokenizer {} of {} tokens</p>",
        escape(&manifest.fingerprint),
        manifest.inputs.files,
        manifest.inputs.bytes as f64 / 1e6,
        escape(&manifest.tokenizer.kind),
        manifest.tokenizer.vocab_size
    );
    out += "<table><tr><th></th><th>documents</th><th>tokens</th><th>MB of text</th><th>bytes per token</th>\
            <th>shards</th></tr>\n";
    for (name, side) in [("train", Some(&manifest.train)), ("validation", manifest.validation.as_ref())] {
        if let Some(side) = side {
            let (megabytes, ratio) = (side.text_bytes as f64 / 1e6, side.text_bytes as f64 / side.tokens.max(1) as f64);
            let (documents, tokens, shards) = (side.documents, side.tokens, side.shards.len());
            let _ = writeln!(
                out,
                "<tr><td>{name}</td><td>{documents}</td><td>{tokens}</td><td>{megabytes:.1}</td><td>{ratio:.2}</td>\
                 <td>{shards}</td></tr>"
            );
        }
    }
    out += "</table>\n";
    stages(inspection, &mut out);
    let lengths: Vec<(String, f64)> =
        inspection.lengths().into_iter().map(|(from, _, n)| (format!("{from} +"), n as f64)).collect();
    let _ = writeln!(out, "<h2>Tokens a document</h2>\n{}", bars(&lengths));
    if !manifest.languages.is_empty() {
        let languages = by_count(&manifest.languages).into_iter().take(20);
        let languages: Vec<(String, f64)> = languages.map(|(name, n)| (name.to_owned(), n as f64)).collect();
        let _ = writeln!(out, "<h2>Languages</h2>\n{}", bars(&languages));
    }
    if !inspection.scores.is_empty() {
        out += "<h2>What was measured of documents that were kept</h2>\n<div class=\"plots\">\n";
        inspection.scores.iter().for_each(|(name, distribution)| out += &histogram(name, distribution));
        out += "</div>\n";
    }
    out += "<h2>Kept, for example</h2>\n";
    inspection.kept.iter().for_each(|example| show(example, &mut out));
    if !inspection.dropped.is_empty() {
        out += "<h2>Dropped, for example</h2>\n";
        for (rule, examples) in &inspection.dropped {
            let _ = writeln!(out, "<h3>{}</h3>", escape(rule));
            examples.iter().for_each(|example| show(example, &mut out));
        }
    }
    let pipeline = serde_json::to_string_pretty(&manifest.pipeline).unwrap_or_default();
    let _ = writeln!(out, "<h2>Settings</h2>\n<pre>{}</pre>\n</body></html>", escape(&pipeline));
    out
}

fn stages(inspection: &Inspection, out: &mut String) {
    let mut rules: Vec<(String, f64)> = Vec::new();
    *out += "<h2>Stages</h2>\n<table><tr><th>stage</th><th>kept</th><th>dropped</th></tr>\n";
    for stage in &inspection.manifest.stages {
        let (name, rate) = (escape(&stage.name), 100.0 * drop_rate(stage));
        let _ = writeln!(*out, "<tr><td>{name}</td><td>{}</td><td>{rate:.1} %</td></tr>", stage.kept);
        rules.extend(
            by_count(&stage.dropped).into_iter().map(|(rule, n)| (format!("{}: {rule}", stage.name), n as f64)),
        );
        for (what, n) in &stage.changed {
            let _ = writeln!(*out, "<tr class=\"note\"><td>&nbsp; {}</td><td>{n}</td><td></td></tr>", escape(what));
        }
    }
    *out += "</table>\n";
    if !rules.is_empty() {
        let _ = writeln!(*out, "<h3>Documents dropped by each rule</h3>\n{}", bars(&rules));
    }
}

fn show(example: &Example, out: &mut String) {
    let (origin, note) = (escape(&example.origin), escape(&example.note));
    let _ = write!(*out, "<div>{origin}<div class=\"note\">{note}");
    if !example.scores.is_empty() {
        let scores = example.scores.iter().map(|(name, score)| format!("{} {}", escape(name), short(*score)));
        let scores = scores.collect::<Vec<_>>().join(", ");
        let _ = write!(*out, "<details><summary>scores</summary>{scores}</details>");
    }
    let _ = writeln!(*out, "</div><pre>{}</pre></div>", escape(&example.text));
}

/// A horizontal bar for each entry.
fn bars(entries: &[(String, f64)]) -> String {
    let most = entries.iter().map(|(_, n)| *n).fold(1.0, f64::max);
    let height = entries.len() * 20;
    let mut out = format!("<svg viewBox=\"0 0 860 {height}\" width=\"860\" height=\"{height}\" role=\"img\">");
    for (i, (label, n)) in entries.iter().enumerate() {
        let (y, width) = (i * 20, n / most * 460.0);
        let (label, text_y, value_x) = (escape(label), y + 14, 308.0 + width);
        let _ = write!(
            out,
            "<text x=\"296\" y=\"{text_y}\" text-anchor=\"end\">{label}</text>\
             <rect x=\"302\" y=\"{}\" width=\"{width:.1}\" height=\"14\"/>\
             <text x=\"{value_x:.1}\" y=\"{text_y}\">{n}</text>",
            y + 3
        );
    }
    out + "</svg>"
}

/// A small histogram with its ends and its median.
fn histogram(name: &str, distribution: &Distribution) -> String {
    let most = distribution.histogram.iter().copied().max().unwrap_or(1).max(1) as f64;
    let mut out = format!(
        "<figure style=\"margin:0\"><svg viewBox=\"0 0 264 96\" width=\"264\" height=\"96\" role=\"img\">\
         <text x=\"2\" y=\"12\">{}</text>",
        escape(name)
    );
    for (i, n) in distribution.histogram.iter().enumerate() {
        let height = *n as f64 / most * 60.0;
        let _ =
            write!(out, "<rect x=\"{}\" y=\"{:.1}\" width=\"10\" height=\"{height:.1}\"/>", 2 + i * 11, 78.0 - height);
    }
    let [low, high] = distribution.range.map(short);
    let median = short(distribution.quantiles[3]);
    let _ = writeln!(
        out,
        "<text x=\"2\" y=\"92\">{low}</text><text x=\"132\" y=\"92\" text-anchor=\"middle\">median {median}</text>\
         <text x=\"264\" y=\"92\" text-anchor=\"end\">{high}</text></svg></figure>"
    );
    out
}

/// Four digits that matter.
fn short(value: f64) -> String {
    fixed(value, if value == 0.0 || value.abs() >= 1000.0 { 0 } else { 4 })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
