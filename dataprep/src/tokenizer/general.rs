//! The `tokenizers` crate behind checks, so that a damaged `tokenizer.json` is an error and not a panic.

use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::Tokenizer;

/// Reads a `tokenizer.json`, which `value` is the content of. The error says what is wrong with it.
pub(super) fn load(bytes: &[u8], value: &Value) -> std::result::Result<Tokenizer, String> {
    check_merges(&value["model"])?;
    guarded(|| {
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())?;
        // Limits meant for inference; a corpus is neither cut nor padded.
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        tokenizer.with_padding(None);
        Ok(tokenizer)
    })
}

/// The same tokenizer, but blind to added tokens that are written out in a text, unless they stand for text. `value` is
/// the content of its `tokenizer.json`.
pub(super) fn blind(value: &Value) -> std::result::Result<Tokenizer, String> {
    let hidden = hidden(value);
    let mut value = value.clone();
    for token in value["added_tokens"].as_array_mut().into_iter().flatten() {
        let is_text = is_text(token);
        // The crate looks for all tokens or for those that are not special, whatever they are for.
        token["special"] = Value::Bool(!is_text);
        rename(token.get_mut("content"), &hidden);
    }
    rename(value.pointer_mut("/model/unk_token"), &hidden);
    match value.pointer_mut("/model/vocab") {
        Some(Value::Object(vocab)) => {
            let renamed = std::mem::take(vocab).into_iter().map(|(token, id)| (new_name(&token, &hidden), id));
            *vocab = renamed.collect();
        }
        Some(Value::Array(pieces)) => pieces.iter_mut().for_each(|piece| rename(piece.get_mut(0), &hidden)),
        _ => {}
    }
    let mut tokenizer = load(value.to_string().as_bytes(), &value)?;
    tokenizer.set_encode_special_tokens(true);
    Ok(tokenizer)
}

/// A character that no text is to have, by which tokens are hidden from a model.
pub(super) const HIDING: char = '\u{fdd0}';

fn rename(token: Option<&mut Value>, hidden: &HashSet<String>) {
    if let Some(Value::String(name)) = token {
        *name = new_name(name, hidden);
    }
}

fn new_name(token: &str, hidden: &HashSet<String>) -> String {
    if hidden.contains(token) { format!("{HIDING}{token}{HIDING}") } else { token.to_owned() }
}

/// Added tokens that stand for structure and that the model would make of a text which spells them, since they are
/// words of its vocabulary too: whole words of a word list or of BPE with `ignore_merges`, pieces of a unigram model.
/// Words that merges make, or take, are a text's own, as are single characters and the bytes of `byte_fallback`.
pub(super) fn hidden(value: &Value) -> HashSet<String> {
    let model = &value["model"];
    let is_word = |token: &str| match &model["vocab"] {
        Value::Object(vocab) => vocab.contains_key(token),
        Value::Array(pieces) => pieces.iter().any(|piece| piece[0] == token),
        _ => false,
    };
    let is_byte = |token: &str| token.strip_prefix("<0x").is_some_and(|rest| rest.len() == 3 && rest.ends_with('>'));
    let added = value["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let structure = added.iter().filter(|token| !is_text(token)).filter_map(|token| token["content"].as_str());
    let mut hidden: HashSet<String> = structure
        .filter(|token| token.chars().nth(1).is_some() && !is_byte(token) && is_word(token))
        .map(str::to_owned)
        .collect();
    for merge in model["merges"].as_array().map(Vec::as_slice).unwrap_or_default() {
        if hidden.is_empty() {
            break;
        }
        if let Some((left, right)) = parts(merge) {
            hidden.remove(left);
            hidden.remove(right);
            merged(model, left, right).map(|whole| hidden.remove(&whole));
        }
    }
    hidden
}

/// Whether an added token stands for text rather than structure: some vocabularies hold runs of white space so.
pub(super) fn is_text(added_token: &Value) -> bool {
    let content = added_token["content"].as_str().unwrap_or_default();
    added_token["special"] != true && content.chars().all(|c| c.is_whitespace() || c == '\u{2581}')
}

/// Appends the ids of `text`.
pub(super) fn encode(tokenizer: &Tokenizer, text: &str, out: &mut Vec<u32>) -> Result<()> {
    let encoding = guarded(|| tokenizer.encode_fast(text, false).map_err(|e| e.to_string()));
    out.extend_from_slice(encoding.map_err(Error::Tokenize)?.get_ids());
    Ok(())
}

/// The text of `ids`; where the decoder fails, their contents one after the other.
pub(super) fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let text = guarded(|| tokenizer.decode(ids, true).map_err(|e| e.to_string()));
    text.unwrap_or_else(|_| ids.iter().filter_map(|&id| tokenizer.id_to_token(id)).collect())
}

/// Makes a panic an error.
fn guarded<T>(call: impl FnOnce() -> std::result::Result<T, String>) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("the tokenizers crate cannot cope with it ({})", said.unwrap_or("no reason given")))
    })
}

/// Every merge must give a token: the crate writes both parts into a buffer as long as the longest token there is, and
/// takes what follows the prefix of the second for text.
fn check_merges(model: &Value) -> std::result::Result<(), String> {
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else {
        return Ok(()); // Another kind of model, or one that is refused with a reason.
    };
    let tokens: HashSet<&str> = vocab.keys().map(String::as_str).collect();
    for (i, merge) in merges.iter().enumerate() {
        let whole = parts(merge).and_then(|(left, right)| merged(model, left, right));
        if !whole.is_some_and(|whole| tokens.contains(whole.as_str())) {
            return Err(format!("model.merges[{i}] = {merge} does not give a token of model.vocab"));
        }
    }
    Ok(())
}

/// The two tokens that a merge joins.
fn parts(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(both) => both.split_once(' '),
        pair => pair[0].as_str().zip(pair[1].as_str()),
    }
}

/// The token that a merge gives.
fn merged(model: &Value, left: &str, right: &str) -> Option<String> {
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    Some(format!("{left}{}", right.get(prefix.len()..)?))
}
