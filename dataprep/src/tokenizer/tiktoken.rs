//! Vocabularies in tiktoken's format, as Moonshot publishes them, made into a `tokenizer.json` that gives the same ids.
//!
//! A line is a token in base64 and its rank, which is its id too. Of two neighbours the pair is merged first whose
//! result has the lowest rank, so every way to divide a token into two others is a merge. The pattern that cuts words
//! and the names of special tokens are not in the file: the pattern is that of `tokenization_kimi.py`, the names come
//! from `tokenizer_config.json`.

use super::byte_level::{alphabet, bpe_model, byte_level_part, special_token, to_text};
use super::{TOKENIZER_CONFIG, token_name};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// File name of such a vocabulary.
pub const TIKTOKEN: &str = "tiktoken.model";
/// The `tokenizer_class` of the vocabularies whose pattern is known.
const CLASS: &str = "TikTokenTokenizer";
/// Bytes of a token, at most: each is divided in every way.
const MAX_TOKEN: usize = 512;
/// Tokens, special ones included, at most.
const MAX_TOKENS: u32 = 1 << 24;

/// The pattern of Kimi and Moonlight: runs of Chinese characters, words with a capital only at their beginning, groups
/// of up to three digits, punctuation, white space.
const PATTERN: &str = concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The `tokenizer.json` of a vocabulary. `config` is the `tokenizer_config.json` beside the vocabulary, `model` the
/// model's `config.json`: it has the ids of special tokens where the other does not list them.
///
/// # Errors
/// Says what is wrong, with the line.
pub(super) fn convert(vocabulary: &[u8], config: &Value, model: &Value) -> Result<Value, String> {
    if config["tokenizer_class"] != CLASS {
        return Err(format!(
            "a tiktoken vocabulary is cut into words by a pattern that its code has; it is known where \
             {TOKENIZER_CONFIG} says \"tokenizer_class\": \"{CLASS}\" (here {}): make a tokenizer.json of it with \
             transformers.integrations.tiktoken.convert_tiktoken_to_fast",
            config["tokenizer_class"]
        ));
    }
    let tokens = read(vocabulary)?;
    let alphabet = alphabet();
    let vocab: Map<String, Value> =
        tokens.iter().zip(0_u32..).map(|(token, id)| (to_text(token, &alphabet), id.into())).collect();
    let merges = merges(&tokens).map(|(left, right)| json!([to_text(left, &alphabet), to_text(right, &alphabet)]));
    let mut bpe = bpe_model(Value::Object(vocab), merges.collect());
    // A word that is a token is taken whole.
    bpe["ignore_merges"] = true.into();
    let split = json!({ "type": "Split", "pattern": { "Regex": PATTERN }, "behavior": "Isolated", "invert": false });
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special_tokens(tokens.len() as u32, config, model)?,
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, byte_level_part()] },
        "post_processor": null,
        "decoder": byte_level_part(),
        "model": bpe,
    });
    Ok(json)
}

/// The tokens in the order of their ranks, which count from 0 without gaps; every byte is one of them.
fn read(vocabulary: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut by_rank: BTreeMap<u32, (Vec<u8>, usize)> = BTreeMap::new();
    for (line, number) in vocabulary.split(|&byte| byte == b'\n').zip(1_usize..) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let bad = |what: &str| format!("line {number}: {what}; a line is a token in base64, a space, and its rank");
        let text = std::str::from_utf8(line).map_err(|_| bad("is not text"))?;
        let (token, rank) = text.split_once(' ').ok_or_else(|| bad("has no rank"))?;
        let token = STANDARD.decode(token).map_err(|error| bad(&format!("{token:?}: {error}")))?;
        let rank: u32 = rank.trim().parse().map_err(|_| bad(&format!("{rank:?} is no rank")))?;
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(bad(&format!("a token of {} bytes, where 1 to {MAX_TOKEN} are read", token.len())));
        }
        if let Some((_, first)) = by_rank.insert(rank, (token, number)) {
            return Err(bad(&format!("rank {rank} is that of line {first} too")));
        }
    }
    let mut known: FxHashMap<&[u8], usize> = FxHashMap::default();
    for ((rank, (token, line)), want) in by_rank.iter().zip(0_u32..) {
        if *rank != want {
            return Err(format!(
                "line {line}: rank {rank} comes after rank {}: the file is not whole",
                want.wrapping_sub(1)
            ));
        }
        if let Some(first) = known.insert(token, *line) {
            return Err(format!("line {line}: the token is that of line {first} too"));
        }
    }
    match (0..=255_u8).find(|byte| !known.contains_key(&[*byte][..])) {
        Some(byte) => Err(format!("byte {byte} is no token: the file is not whole")),
        None => Ok(by_rank.into_values().map(|(token, _)| token).collect()),
    }
}

/// Every pair of tokens that makes a token, by the rank of what it makes.
fn merges(tokens: &[Vec<u8>]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let known: FxHashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    tokens.iter().flat_map(move |token| {
        let halves = (1..token.len()).map(|at| token.split_at(at));
        let both = halves.filter(|(left, right)| known.contains_key(left) && known.contains_key(right));
        both.collect::<Vec<_>>()
    })
}

/// The special tokens as `added_tokens`, whose ids follow those of the vocabulary without gaps: `first` is the lowest.
fn special_tokens(first: u32, config: &Value, model: &Value) -> Result<Vec<Value>, String> {
    let mut named: BTreeMap<u32, (String, bool)> = BTreeMap::new();
    if let Some(listed) = config["added_tokens_decoder"].as_object() {
        for (id, token) in listed {
            let bad = |what: &str| format!("{TOKENIZER_CONFIG}: added_tokens_decoder: {id}: {what}");
            let name = token_name(token).ok_or_else(|| bad("has no content"))?;
            let id: u32 = id.parse().map_err(|_| bad("is no token id"))?;
            if !(first..MAX_TOKENS).contains(&id) {
                return Err(bad(&format!("must be from {first} on, where the vocabulary ends")));
            }
            named.insert(id, (name.to_owned(), token["special"] != false));
        }
    } else {
        for kind in ["bos", "eos", "pad", "unk"] {
            let id = &model[format!("{kind}_token_id")];
            let id = id.as_array().map_or(id, |ids| ids.first().unwrap_or(&Value::Null));
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.filter(|id| (first..MAX_TOKENS).contains(id));
            if let (Some(name), Some(id)) = (token_name(&config[format!("{kind}_token")]), id) {
                named.entry(id).or_insert_with(|| (name.to_owned(), true));
            }
        }
    }
    let end = named.keys().next_back().map_or(first, |last| last + 1);
    let token = |id: u32| {
        let (name, special) = named.get(&id).cloned().unwrap_or_else(|| (format!("<|reserved_token_{id}|>"), true));
        let mut token = special_token(id, &name);
        token["special"] = special.into();
        token
    };
    Ok((first..end).map(token).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;
    use std::path::Path;

    const VOCABULARY: &[u8] = include_bytes!("testdata/tiktoken.model");
    const CONFIG: &str = include_str!("testdata/tiktoken_config.json");

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, content)| std::fs::write(folder.path().join(name), content).unwrap());
        folder
    }

    /// The ids are those of the Python package tiktoken 0.14 with these ranks and the pattern.
    #[test]
    fn ids_are_those_of_tiktoken() {
        let folder = folder(&[(TIKTOKEN, VOCABULARY), (TOKENIZER_CONFIG, CONFIG.as_bytes())]);
        let again = tempfile::tempdir().unwrap();
        for path in [folder.path().to_path_buf(), folder.path().join(TIKTOKEN)] {
            let tokenizer = Tokenizer::load(&path).unwrap();
            tokenizer.save(again.path()).unwrap();
            let saved = Tokenizer::load(again.path()).unwrap();
            assert_eq!(saved.fingerprint(), tokenizer.fingerprint());
            assert_eq!((tokenizer.vocab_size(), tokenizer.bos_id(), tokenizer.eos_id()), (424, Some(416), 417));
            for line in include_str!("testdata/tiktoken.jsonl").lines() {
                let (text, ids): (String, Vec<u32>) = serde_json::from_str(line).unwrap();
                assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
                assert_eq!(saved.encode(&text).unwrap(), ids, "{text:?}");
                let plain = text.replace("<|im_end|>", "").replace("[EOS]", "");
                assert_eq!(tokenizer.decode(&ids), plain);
            }
        }
        assert_eq!(Tokenizer::load(folder.path()).unwrap().added_token("<|reserved_token_420|>"), Some(420));
    }

    #[test]
    fn ids_of_special_tokens_come_from_the_model_where_no_list_has_them() {
        let config = br#"{"tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]"}"#;
        let model = br#"{"eos_token_id": [417, 3], "bos_token_id": null}"#;
        let folder = folder(&[(TIKTOKEN, VOCABULARY), (TOKENIZER_CONFIG, config), ("config.json", model)]);
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_eq!((tokenizer.eos_id(), tokenizer.bos_id(), tokenizer.vocab_size()), (417, None, 418));
        assert_eq!(tokenizer.encode("a[EOS]").unwrap(), [97, 417]);
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        let error = Tokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(TIKTOKEN) && error.contains("no end-of-document token \"[EOS]\""), "{error}");
    }

    #[test]
    fn damaged_vocabularies_are_named_by_line() {
        let config: Value = serde_json::from_str(CONFIG).unwrap();
        let text = String::from_utf8(VOCABULARY.to_vec()).unwrap();
        for (from, to, words) in [
            ("AQ== 1\n", "AQ==\n", "line 2: has no rank"),
            ("AQ== 1\n", "A!== 1\n", "line 2: \"A!==\""),
            ("AQ== 1\n", "AQ== x\n", "line 2: \"x\" is no rank"),
            ("AQ== 1\n", "AQ== 0\n", "line 2: rank 0 is that of line 1 too"),
            ("AQ== 1\n", "AA== 1\n", "line 2: the token is that of line 1 too"),
            ("AQ== 1\n", "", "line 2: rank 2 comes after rank 0"),
            ("AQ== 1\n", "QUJD 1\n", "byte 1 is no token"),
            ("AQ== 1\n", " 1\n", "line 2: has no rank"),
        ] {
            let error = convert(text.replacen(from, to, 1).as_bytes(), &config, &Value::Null).unwrap_err();
            assert!(error.contains(words), "{to:?}: {error}");
        }
        let long = format!("{} 416\n", STANDARD.encode([b'x'; MAX_TOKEN + 1]));
        let error = convert(format!("{text}{long}").as_bytes(), &config, &Value::Null).unwrap_err();
        assert!(error.contains("line 417: a token of 513 bytes"), "{error}");
        let other = json!({ "tokenizer_class": "QWenTokenizer" });
        let error = convert(VOCABULARY, &other, &Value::Null).unwrap_err();
        assert!(error.contains("\"QWenTokenizer\"") && error.contains("convert_tiktoken_to_fast"), "{error}");
        for (listed, words) in [
            (json!({ "7": { "content": "x" } }), "must be from 416 on"),
            (json!({ "4294967295": { "content": "x" } }), "must be from 416 on"),
            (json!({ "x": { "content": "x" } }), "is no token id"),
            (json!({ "416": {} }), "has no content"),
        ] {
            let config = json!({ "tokenizer_class": CLASS, "added_tokens_decoder": listed });
            let error = convert(VOCABULARY, &config, &Value::Null).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(Tokenizer::load(Path::new("/nowhere")).is_err());
    }
}
