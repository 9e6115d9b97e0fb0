//! A `tokenizer.json` and a text: what both we and the `tokenizers` crate accept gives the same ids in both.
//!
//! The file is raw bytes, or a small byte-level BPE tokenizer that is made and then changed in a few places.
#![no_main]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fathom_dataprep::Tokenizer;
use fathom_fuzz::{Result, Unstructured, catch_panics, edit, one, run, text};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// Splitting expressions of published tokenizers.
const PATTERNS: [&str; 5] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    r"\p{N}{1,3}",
    "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
    r"[!-/:-~]?[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];
const ADDED: [&str; 9] =
    ["<|endoftext|>", "<\u{ff5c}User\u{ff5c}>", "  ", "\n\n", "ab", "abc", "\u{e9}", "<", "\u{2581}\u{2581}"];
/// Texts that a mutation does not come upon.
const TEXTS: [&str; 8] = [
    "",
    "It's 12345 o'clock,  isn't it?\r\n\n\tYES",
    "caf\u{e9} \u{4f60}\u{597d}\u{3042}\u{1f642}",
    "<|endoftext|>ab<abc>",
    "aaaaaaaabababcabc",
    "   \u{a0}\u{3000} x ",
    "a\u{301}\u{200b}\0\u{7f}",
    "\u{2581}\u{2581}\u{17f}'S",
];

fuzz_target!(init: catch_panics(), |data: &[u8]| run(|| {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    match choice & 1 {
        0 => {
            // The text after the file's first zero byte.
            let at = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            let rest = text(bytes.get(at + 1..).unwrap_or_default()).map_or("", |(text, _)| text);
            compare(&bytes[..at], rest);
        }
        _ => {
            let mut u = Unstructured::new(bytes);
            if let Ok(made) = tokenizer(&mut u) {
                compare(made.to_string().as_bytes(), &String::from_utf8_lossy(u.take_rest()));
            }
        }
    }
}));

/// Both encoders on the text and on those that are always tried.
fn compare(file: &[u8], text: &str) {
    let ours = match Tokenizer::from_json(file.to_vec(), None, None, Path::new("tokenizer.json")) {
        Ok(ours) => ours,
        Err(error) => return assert!(error.to_string().contains("tokenizer.json"), "{error}"),
    };
    // What we accept, the crate has accepted behind our checks.
    let mut theirs = tokenizers::Tokenizer::from_bytes(file).expect("it was accepted");
    theirs.with_truncation(None).expect("none is no problem");
    theirs.with_padding(None);
    for text in TEXTS.into_iter().chain([text]) {
        let expected = catch_unwind(AssertUnwindSafe(|| theirs.encode_fast(text, false).map(|e| e.get_ids().to_vec())));
        let found = ours.encode(text);
        match (expected, found) {
            (Ok(Ok(expected)), Ok(found)) => {
                assert_eq!(found, expected, "{text:?} by {}", String::from_utf8_lossy(file));
                assert!(found.iter().all(|&id| id < ours.vocab_size()));
                decoded(&ours, &found);
            }
            (Ok(Ok(_)), Err(error)) => panic!("{text:?}: {error}"),
            // Where the crate fails, ours may have a way, or an error.
            (Ok(Err(_)) | Err(_), _) => {}
        }
        // Added tokens that are written out are text here.
        let _ = ours.encode_ordinary(text.as_bytes());
    }
}

/// Every way to decode comes to an end, and the pieces of a stream make the whole.
fn decoded(tokenizer: &Tokenizer, ids: &[u32]) {
    let whole = tokenizer.decode(ids);
    let _ = (tokenizer.byte_len(ids), tokenizer.decode(&[u32::MAX, 0]));
    let mut stream = tokenizer.stream_decoder();
    let mut pieces = String::new();
    for &id in ids {
        pieces += &stream.push(id);
    }
    pieces += &stream.finish();
    if tokenizer.token_bytes(0).len() == 1 {
        assert_eq!(pieces, whole, "{ids:?}");
    }
}

/// A byte-level BPE tokenizer: merges of the bytes' choice, flags, added tokens, and then a few changes.
fn tokenizer(u: &mut Unstructured<'_>) -> Result<Value> {
    let mut tokens: Vec<String> = alphabet().map(String::from).collect();
    let mut merges: Vec<Value> = Vec::new();
    for _ in 0..u.int_in_range(0..=24)? {
        let (left, right) = (token(u, &tokens)?, token(u, &tokens)?);
        let whole = format!("{left}{right}");
        merges.push(if u.arbitrary()? { json!([left, right]) } else { format!("{left} {right}").into() });
        if !tokens.contains(&whole) {
            tokens.push(whole);
        }
    }
    // Merges are all of one form in a file.
    if let Some(Value::String(_)) = merges.first() {
        merges.retain(Value::is_string);
    } else {
        merges.retain(Value::is_array);
    }
    let mut vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let mut added = vec![json!({ "id": tokens.len(), "content": "<|endoftext|>", "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false })];
    vocab.insert("<|endoftext|>".into(), tokens.len().into());
    for i in 0..u.int_in_range(0..=4)? {
        let (content, flags) = (*one(u, &ADDED)?, u.arbitrary::<u8>()?);
        let flag = |bit: u8| flags >> bit & 1 == 1;
        added.push(json!({ "id": tokens.len() + 1 + i, "content": content, "special": flag(0), "normalized": flag(1),
            "single_word": flag(2) && flag(3), "lstrip": flag(4) && flag(3), "rstrip": flag(5) && flag(3) }));
    }
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre_tokenizer(u)?, "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": u.arbitrary::<bool>()?, "vocab": vocab, "merges": merges },
    });
    for _ in 0..u.int_in_range(0..=2)? {
        edit(u, &mut file)?;
    }
    Ok(file)
}

/// A token that is there already, mostly of the letters that texts are made of.
fn token<'a>(u: &mut Unstructured<'_>, tokens: &'a [String]) -> Result<&'a str> {
    let at = usize::from(u.arbitrary::<u8>()?);
    Ok(match at {
        0..64 => ["a", "b", "c", "\u{120}", "'", "s", "1", "\u{10a}"][at % 8],
        64..128 => &tokens[tokens.len() - 1 - at % (tokens.len() - 187).min(64)],
        _ => &tokens[at % tokens.len()],
    })
}

fn pre_tokenizer(u: &mut Unstructured<'_>) -> Result<Value> {
    let level = |regex: bool, space: bool| {
        let (kind, trimmed) = ("ByteLevel", true);
        json!({ "type": kind, "add_prefix_space": space, "trim_offsets": trimmed, "use_regex": regex })
    };
    let split = |pattern: Value, behavior: &str, invert: bool| {
        let kind = "Split";
        json!({ "type": kind, "pattern": pattern, "behavior": behavior, "invert": invert })
    };
    let space = u.arbitrary::<u8>()? > 200;
    if u.arbitrary::<u8>()? < 64 {
        return Ok(level(true, space));
    }
    let mut list = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        let behavior = *one(u, &["Isolated", "Isolated", "Isolated", "Removed", "MergedWithPrevious"])?;
        list.push(match u.arbitrary::<u8>()? {
            0..200 => split(json!({ "Regex": one(u, &PATTERNS)? }), behavior, false),
            200..240 => json!({ "type": "Digits", "individual_digits": u.arbitrary::<bool>()? }),
            _ => split(json!({ "String": "ab" }), behavior, true),
        });
    }
    list.push(level(false, space));
    Ok(json!({ "type": "Sequence", "pretokenizers": list }))
}

/// The characters that stand for the bytes in GPT-2's files.
fn alphabet() -> impl Iterator<Item = char> {
    let plain = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    (0..256u32).filter_map(move |b| {
        char::from_u32(if plain(b) {
            b
        } else {
            next += 1;
            next - 1
        })
    })
}
