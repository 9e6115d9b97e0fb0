//! The origin of a document and the outcome for it, as lines of JSON.

use crate::document::{Document, Dropped};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Origin and scores of a document: a line of `NAME.docs.jsonl.zst`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance<'a> {
    /// The file, by its line in `sources.jsonl`, from 0.
    pub file: u32,
    /// First byte of the record there, and the byte after its last.
    pub bytes: [u64; 2],
    /// Its number in the order of the corpus, where documents were compared: its task's in the upper 32 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<u64>,
    /// The record's own identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// URL that it was fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Cow<'a, str>>,
    /// ISO 639-3 code of its language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<Cow<'a, str>>,
    /// Whether its tokens were rearranged to fill in the middle.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fim: bool,
    /// Scores by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<Cow<'a, str>, f64>,
}

impl<'a> Provenance<'a> {
    /// Of `document`. Scores that are no number (0 words of 0) are left out: JSON cannot say them.
    pub(super) fn of(document: &'a Document) -> Self {
        let scores = document.scores.iter().filter(|(_, score)| score.is_finite());
        Self {
            file: document.origin.file,
            bytes: [document.origin.bytes.start, document.origin.bytes.end],
            document: None,
            fim: false,
            id: document.origin.id.as_deref().map(Cow::Borrowed),
            url: document.url.as_deref().map(Cow::Borrowed),
            language: document.language.map(Cow::Borrowed),
            scores: scores.map(|(name, score)| (Cow::Borrowed(*name), *score)).collect(),
        }
    }

    /// As one line of JSON.
    pub(super) fn line(&self) -> String {
        serde_json::to_string(self).expect("keys are strings and scores finite")
    }
}

/// The line of a document whose tokens were rearranged.
pub(super) fn rearranged(mut line: String) -> String {
    line.truncate(line.len().saturating_sub(1));
    line + ",\"fim\":true}"
}

/// A document that was dropped, as a line of `dropped/*.jsonl.zst`: why, its [`Provenance`], its text.
pub(super) fn dropped_line(stage: &str, header: &str, text: &str, why: &Dropped) -> String {
    let finite = |x: f64| if x.is_finite() { json!(x) } else { json!(x.to_string()) };
    joined(
        &json!({ "stage": stage, "rule": why.rule, "value": finite(why.value), "threshold": finite(why.threshold) }),
        header,
        text,
    )
}

/// The same of a document that another is kept in place of.
pub(super) fn duplicate_line(stage: &str, header: &str, text: &str, rule: &str, kept: u64) -> String {
    joined(&json!({ "stage": stage, "rule": rule, "duplicate_of": kept }), header, text)
}

/// Puts together what is JSON already.
fn joined(why: &serde_json::Value, header: &str, text: &str) -> String {
    let (why, text) = (why.to_string(), serde_json::Value::from(text));
    let inside = |object: &str| object.get(1..object.len().saturating_sub(1)).unwrap_or_default().to_owned();
    format!("{{{},{},\"text\":{text}}}", inside(&why), inside(header))
}
