//! Tests of the filters.

use super::*;
use crate::document::Origin;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn document(text: &str) -> Document {
    Document::new(Origin { file: 0, bytes: 0..text.len() as u64, id: None }, text.to_owned())
}

proptest! {
    #[test]
    fn any_text_gets_a_verdict(text in any::<String>(), url in any::<Option<String>>()) {
        let mut config = FilterConfig::default();
        let all = Filters::new(&config).unwrap();
        config.language.enabled = false;
        config.gopher_quality.enabled = false;
        config.c4.min_sentences = Limit::Off;
        config.fineweb.min_terminal_lines = Limit::Off;
        let some = Filters::new(&config).unwrap();
        for filters in [all, some] {
            let mut first = document(&text);
            first.url = url.clone();
            let mut second = first.clone();
            prop_assert_eq!(filters.apply(&mut first), filters.apply(&mut second));
            prop_assert_eq!(first, second);
        }
    }
}

#[test]
fn every_rule_can_be_turned_off_and_is_checked() {
    let off: FilterConfig = serde_json::from_str(r#"{"c4": {"min_sentences": false}, "max_bytes": false}"#).unwrap();
    assert_eq!((off.c4.min_sentences, off.max_bytes), (Limit::Off, Limit::Off));
    let back: FilterConfig = serde_json::from_str(&serde_json::to_string(&off).unwrap()).unwrap();
    assert_eq!(off, back);
    let at: FilterConfig =
        serde_json::from_str(r#"{"gopher_quality": {"min_words": 3, "max_hash_ratio": 1}}"#).unwrap();
    assert_eq!((at.gopher_quality.min_words, at.gopher_quality.max_hash_ratio), (Limit::At(3), Limit::At(1.0)));
    for bad in [
        r#"{"c4": {"min_sentences": true}}"#,
        r#"{"c4": {"min_sentences": -1}}"#,
        r#"{"c4": {"min_sentence": 1}}"#,
        r#"{"c5": {}}"#,
        r#"{"fineweb": {"max_short_lines": "0.5"}}"#,
    ] {
        assert!(serde_json::from_str::<FilterConfig>(bad).is_err(), "{bad}");
    }
    for (field, value) in [("max_short_lines", 1.5), ("max_short_lines", -0.1), ("max_newlines_per_word", -1.0)] {
        let config = serde_json::from_value(serde_json::json!({"fineweb": {field: value}})).unwrap();
        let field = format!("filter.fineweb.{field}");
        match Filters::new(&config) {
            Err(crate::Error::Config { field: found, .. }) => assert_eq!(found, field),
            _ => panic!("{field} = {value} was taken"),
        }
    }
}

#[test]
fn a_document_passes_or_says_why() {
    let filters = Filters::new(&FilterConfig::default()).unwrap();
    let prose = "The harbour was quiet that morning, and the boats lay still on the grey water. A woman came down the \
                 steps with a basket, and she looked for a long time at the sea. Nobody had come back from the island \
                 since the storm. She sat down on a crate to wait with the others, who had been there for hours. They \
                 talked about the price of fish, and of the winter that would have to be endured.";
    let mut good = document(prose);
    assert_eq!(filters.apply(&mut good), Ok(()));
    assert_eq!((good.language, good.text.as_str()), (Some("eng"), prose));
    assert_eq!((good.scores["c4.min_sentences"], good.scores["c4.lines_removed"]), (5.0, 0.0));
    assert!(good.scores.contains_key("gopher_repetition.dup_10_gram") && good.scores.contains_key("pii.emails"));
    let rule = |text: &str| filters.apply(&mut document(text)).unwrap_err().rule;
    assert_eq!(rule(""), "language.keep");
    assert_eq!(rule(&prose[..230]), "gopher_quality.min_words");
    assert_eq!(rule(&[prose, prose].join("\n\n")), "gopher_repetition.dup_paragraph_fraction");
    assert_eq!(rule(&"a ".repeat((8 << 20) + 1)), "max_bytes");
}

/// Each rule on its own drops what datatrove 0.10.1 drops by it; made by `tests/python/filter_parity.py`, of documents
/// in which both find the same words.
#[test]
fn drops_as_datatrove_does() {
    let mut lines = include_str!("testdata/datatrove.jsonl").lines();
    let rules: BTreeMap<String, FilterConfig> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let filters: Vec<_> = rules.iter().map(|(rule, config)| (rule, Filters::new(config).unwrap())).collect();
    for line in lines {
        let golden: Golden = serde_json::from_str(line).unwrap();
        for (rule, filters) in &filters {
            let dropped = filters.apply(&mut document(&golden.text)).is_err();
            assert_eq!(dropped, golden.dropped.contains(rule), "{rule} of {:?}", golden.text);
        }
    }
}

#[derive(serde::Deserialize)]
struct Golden {
    text: String,
    dropped: Vec<String>,
}
