//! The byte-level alphabet: one printable character for each byte, as GPT-2 introduced it.

use serde_json::{Value, json};

/// The content of the byte tokenizer's only special token.
pub(super) const END_OF_TEXT: &str = "<|endoftext|>";
/// Its id; ids below are the bytes themselves.
pub(super) const END_OF_TEXT_ID: u32 = 256;

/// The character that stands for each byte: itself where it is printable and no space, else the next free one from
/// U+0100 on (Radford et al., *Language Models are Unsupervised Multitask Learners*, `bytes_to_unicode`).
pub(super) fn alphabet() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let code = if printable {
            byte as u32
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).expect("all codes are below U+0144")
    })
}

/// The bytes in the order of their characters: those that stand for themselves, then the others.
pub(super) fn order() -> [u8; 256] {
    let alphabet = alphabet();
    let mut bytes: [u8; 256] = std::array::from_fn(|byte| byte as u8);
    bytes.sort_unstable_by_key(|&byte| alphabet[usize::from(byte)]);
    bytes
}

/// Writes bytes in the alphabet.
pub(super) fn to_text(bytes: &[u8], alphabet: &[char; 256]) -> String {
    bytes.iter().map(|&b| alphabet[usize::from(b)]).collect()
}

/// Reads a token written in the alphabet. `None` when a character does not belong to it.
pub(super) fn to_bytes(token: &str) -> Option<Box<[u8]>> {
    token.chars().map(byte_of).collect()
}

fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (33..=126 | 161..=172 | 174..=255) => Some(code as u8),
        code @ 256..=288 => Some((code - 256) as u8),
        code @ 289..=322 => Some((code - 289 + 127) as u8),
        323 => Some(173),
        _ => None,
    }
}

/// The byte tokenizer as a `tokenizer.json`: a BPE model of 256 symbols and no merges.
pub(super) fn byte_tokenizer_json() -> Value {
    let vocab: serde_json::Map<String, Value> =
        alphabet().iter().zip(0..).map(|(c, id): (&char, u32)| (c.to_string(), id.into())).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special_token(END_OF_TEXT_ID, END_OF_TEXT)],
        "normalizer": null,
        "pre_tokenizer": byte_level_part(),
        "post_processor": null,
        "decoder": byte_level_part(),
        "model": bpe_model(Value::Object(vocab), Vec::new()),
    })
}

/// Whether a `tokenizer.json` maps every byte to itself and knows one more token, 256.
pub(super) fn is_byte_tokenizer(json: &Value) -> bool {
    let expected = byte_tokenizer_json();
    let same = |path: &str| json.pointer(path) == expected.pointer(path);
    let added = json["added_tokens"].as_array();
    same("/model/vocab")
        && json["model"]["type"] == "BPE"
        && json["model"]["merges"].as_array().is_some_and(Vec::is_empty)
        && json["normalizer"].is_null()
        && json["pre_tokenizer"]["type"] == "ByteLevel"
        && json["pre_tokenizer"]["add_prefix_space"] == false
        && json["decoder"]["type"] == "ByteLevel"
        && added.is_some_and(|a| a.len() == 1 && a[0]["id"] == END_OF_TEXT_ID && a[0]["content"] == END_OF_TEXT)
}

/// An entry of `added_tokens`.
pub(super) fn special_token(id: u32, content: &str) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true
    })
}

/// The `ByteLevel` pre-tokenizer, which is also the decoder.
pub(super) fn byte_level_part() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false })
}

/// The `model` of a byte-level `tokenizer.json`.
pub(super) fn bpe_model(vocab: Value, merges: Vec<Value>) -> Value {
    json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": vocab, "merges": merges
    })
}

/// Appends the ids of bytes in which [`END_OF_TEXT`] stands for its token.
pub(super) fn encode_parsed(text: &[u8], out: &mut Vec<u32>) {
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, END_OF_TEXT.as_bytes()) {
        out.extend(rest[..at].iter().map(|&byte| u32::from(byte)));
        out.push(END_OF_TEXT_ID);
        rest = &rest[at + END_OF_TEXT.len()..];
    }
    out.extend(rest.iter().map(|&byte| u32::from(byte)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_and_its_inverse_agree() {
        let alphabet = alphabet();
        for byte in 0..=255_u8 {
            assert_eq!(byte_of(alphabet[usize::from(byte)]), Some(byte));
        }
        assert_eq!(alphabet[usize::from(b' ')], 'Ġ');
        assert_eq!(byte_of('\u{144}'), None);
        assert_eq!(to_bytes("<｜"), None);
    }
}
