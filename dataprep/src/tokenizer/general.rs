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

/// The same tokenizer, but blind to added tokens that are written out in a text, unless they are white space. `value`
/// is the content of its `tokenizer.json`.
pub(super) fn blind(value: &Value) -> std::result::Result<Tokenizer, String> {
    let mut value = value.clone();
    for token in value["added_tokens"].as_array_mut().into_iter().flatten() {
        let is_text = token["content"].as_str().is_some_and(is_text);
        // The crate looks for all tokens or for those that are not special, whatever they are for.
        token["special"] = Value::Bool(!is_text);
    }
    let mut tokenizer = load(value.to_string().as_bytes(), &value)?;
    tokenizer.set_encode_special_tokens(true);
    Ok(tokenizer)
}

/// Whether an added token stands for text rather than structure: some vocabularies hold runs of white space so.
pub(super) fn is_text(added_token: &str) -> bool {
    added_token.chars().all(|c| c.is_whitespace() || c == '\u{2581}')
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
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    for (i, merge) in merges.iter().enumerate() {
        let parts = match merge {
            Value::String(both) => both.split_once(' '),
            pair => pair[0].as_str().zip(pair[1].as_str()),
        };
        let whole = parts.and_then(|(left, right)| Some(format!("{left}{}", right.get(prefix.len()..)?)));
        if !whole.is_some_and(|whole| tokens.contains(whole.as_str())) {
            return Err(format!("model.merges[{i}] = {merge} does not give a token of model.vocab"));
        }
    }
    Ok(())
}
