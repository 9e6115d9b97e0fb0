//! A document in the pipeline: text, origin, scores and language.

use std::collections::BTreeMap;
use std::ops::Range;

/// Origin of a document: file and bytes, exactly enough to find it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Index of the input file, in the order of the walk.
    pub file: u32,
    /// Bytes of the record in that file: in the file itself where it can be read from the middle (plain files, and
    /// members of a gzip WARC), else in what it decompresses to.
    pub bytes: Range<u64>,
    /// The record's own identifier (`id` of a JSON record, `WARC-Record-ID`), where it has one.
    pub id: Option<String>,
}

/// A document on its way through the pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Origin of the document.
    pub origin: Origin,
    /// The address it was fetched from, where that is known.
    pub url: Option<String>,
    /// The text as it stands after the stages so far.
    pub text: String,
    /// Whether it breaks off: less of it was received than its server sent.
    pub broken_off: bool,
    /// What stages measured, by name (`language.confidence`, `gopher.words`, ...), for tracing and reports.
    pub scores: BTreeMap<&'static str, f64>,
    /// ISO 639-3 code of the language that was identified.
    pub language: Option<&'static str>,
}

impl Document {
    /// A document as a reader makes it.
    pub fn new(origin: Origin, text: String) -> Self {
        Self { origin, url: None, text, broken_off: false, scores: BTreeMap::new(), language: None }
    }
}

/// Reason why a document, or an item of evaluation data, was dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropped {
    /// The rule by its name in the configuration, such as `gopher.min_words`.
    pub rule: &'static str,
    /// Measured value.
    pub value: f64,
    /// Threshold of the rule.
    pub threshold: f64,
}
