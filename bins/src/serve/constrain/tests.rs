//! Texts drawn from all that a constraint allows are read by parsers, and what cannot be is refused.

use fathom_core::rng;
use fathom_dataprep::Tokenizer;
use serde::Deserialize;

use super::*;

/// Bytes, with the byte tokenizer's end of text as the token that ends a text.
fn languages() -> (Languages, Tokenizer) {
    let tokenizer = Tokenizer::bytes();
    let vocabulary = Arc::new(Vocabulary::new(Some(&tokenizer)));
    // Models have more rows than their tokenizer has tokens.
    let size = tokenizer.vocab_size() as usize + 7;
    (Languages::new(vocabulary, size, vec![tokenizer.eos_id()]), tokenizer)
}

fn asked(format: Format) -> Asked {
    Asked { field: "response_format".into(), format }
}

fn constraint(languages: &Languages, format: Format) -> Arc<dyn Constraint> {
    languages.constraint(&asked(format), false).unwrap()
}

fn refusal(languages: &Languages, schema: Value) -> String {
    let error = languages.constraint(&asked(Format::Schema(schema)), false).unwrap_err();
    assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some("response_format")));
    error.message
}

/// A text drawn from all that a constraint allows, each token by chance; texts that are still open after `most` tokens
/// are none. Tokens that close something are drawn more often, so that texts end.
fn draw(languages: &Languages, constraint: &dyn Constraint, seed: u64, most: usize) -> Option<String> {
    let mut follower = constraint.begin().unwrap();
    let end = languages.ends[0];
    let favor = if seed.is_multiple_of(3) { 0.5 } else { 0.9 };
    let mut bytes = Vec::new();
    for place in 0..most as u64 {
        let mut logits: Vec<f32> = (0..languages.size)
            .map(|token| {
                let closes = b"\"}]".contains(&(token as u8)) && token < 256 || token == end as usize;
                rng::uniform(seed, place, token as u64) as f32 + if closes { favor } else { 0.0 }
            })
            .collect();
        follower.mask(&mut logits).unwrap();
        let chosen = (0..).zip(&logits).max_by(|a, b| a.1.total_cmp(b.1)).map(|(token, _)| token).unwrap();
        assert!(logits[chosen as usize].is_finite());
        if chosen == end {
            return Some(String::from_utf8(bytes).unwrap());
        }
        bytes.push(u8::try_from(chosen).unwrap());
        follower.push(chosen).unwrap();
        if follower.complete() {
            return Some(String::from_utf8(bytes).unwrap());
        }
    }
    None
}

/// Texts drawn with many seeds, most of which must come to an end.
fn texts(languages: &Languages, format: Format) -> Vec<String> {
    let constraint = constraint(languages, format);
    let texts: Vec<String> = (0..60).filter_map(|seed| draw(languages, &*constraint, seed, 600)).collect();
    assert!(texts.len() > 20, "{} of 60 came to an end", texts.len());
    texts
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Recipe {
    name: String,
    minutes: u8,
    kind: Kind,
    #[serde(default)]
    notes: Vec<Note>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Soup,
    Cake,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Note {
    text: Option<String>,
    stars: f64,
    next: Option<Box<Note>>,
}

#[test]
fn every_text_of_a_schema_is_read_by_a_parser_of_that_schema() {
    let (languages, _) = languages();
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 8},
            "minutes": {"type": "integer", "minimum": 0, "maximum": 255},
            "kind": {"enum": ["soup", "cake"]},
            "notes": {"type": "array", "items": {"$ref": "#/$defs/note"}, "maxItems": 2},
        },
        "required": ["name", "minutes", "kind"],
        "additionalProperties": false,
        "$defs": {"note": {
            "type": "object",
            "properties": {
                "text": {"type": ["string", "null"]},
                "stars": {"type": "number", "minimum": 0, "maximum": 5},
                "next": {"anyOf": [{"$ref": "#/$defs/note"}, {"type": "null"}]},
            },
            "required": ["stars"],
            "additionalProperties": false,
        }},
    });
    let texts = texts(&languages, Format::Schema(schema));
    for text in &texts {
        let recipe: Recipe = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let letters = recipe.name.chars().count();
        assert!((1..=8).contains(&letters), "{text}");
        assert!(recipe.notes.len() <= 2 && recipe.notes.iter().all(|note| (0.0..=5.0).contains(&note.stars)), "{text}");
    }
    assert!(texts.iter().any(|text| text.contains("notes")) && texts.iter().any(|text| !text.contains("notes")));
}

#[test]
fn objects_choices_and_expressions_are_what_they_say() {
    let (languages, _) = languages();
    for text in texts(&languages, Format::Object) {
        assert!(serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object()), "{text}");
    }
    let choice = ["a/b", "a|b", "a(b", "ä.", "a/bc"].map(String::from);
    let texts = texts(&languages, Format::Choice(choice.to_vec()));
    assert!(texts.iter().all(|text| choice.contains(text)), "{texts:?}");
    // Where a text may end, this draw ends it.
    assert!(choice[..4].iter().all(|text| texts.contains(text)), "{texts:?}");
    let date = constraint(&languages, Format::Expression(r"(19|20)\d\d-[01]\d/x".into()));
    let expression = fancy_regex::Regex::new(r"\A(19|20)\d\d-[01]\d/x\z").unwrap();
    for seed in 0..20 {
        let text = draw(&languages, &*date, seed, 20).unwrap();
        assert!(expression.is_match(&text).unwrap(), "{text}");
    }
}

/// White space is bounded: a model that prefers spaces ends all the same.
#[test]
fn white_space_has_an_end() {
    let (languages, tokenizer) = languages();
    let constraint = constraint(&languages, Format::Schema(json!({"type": "array", "items": {"type": "null"}})));
    let mut follower = constraint.begin().unwrap();
    let mut text = String::new();
    while !follower.complete() {
        let mut logits = vec![0.0; languages.size];
        for (token, logit) in [(b' ', 3.0), (b'\n', 2.0), (b']', 1.0)] {
            logits[usize::from(token)] = logit;
        }
        logits[tokenizer.eos_id() as usize] = 4.0;
        follower.mask(&mut logits).unwrap();
        let chosen = (0..).zip(&logits).max_by(|a, b| a.1.total_cmp(b.1)).map(|(token, _)| token).unwrap();
        if chosen == tokenizer.eos_id() {
            break;
        }
        text.push(char::from(chosen as u8));
        follower.push(chosen).unwrap();
        assert!(text.len() < 200, "{text:?}");
    }
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!([]), "{text:?}");
}

#[test]
fn a_look_ahead_changes_nothing() {
    let (languages, _) = languages();
    let schema = Format::Schema(json!({"type": "object", "properties": {"a": {"enum": ["<", "ab"]}}}));
    let inside = constraint(&languages, schema.clone());
    let after = languages.constraint(&asked(schema), true).unwrap();
    for (constraint, text) in [(inside, r#"{"a": "ab"}"#), (after, "so </thin </think>\n\n{\"a\":\"<\"}")] {
        let mut follower = constraint.begin().unwrap();
        let mask = |follower: &mut Box<dyn Follower>| {
            let mut logits = vec![0.0f32; languages.size];
            follower.mask(&mut logits).unwrap();
            logits
        };
        for place in 0..text.len() {
            let logits = mask(&mut follower);
            let mut ahead = follower.fork();
            for byte in text[place..].bytes() {
                assert_eq!(mask(&mut ahead)[usize::from(byte)], 0.0, "{text}: {}", char::from(byte));
                ahead.push(byte.into()).unwrap();
            }
            assert!(ahead.complete() && !follower.complete(), "{text}");
            // One that fails is of no more use, and this one is.
            assert!(ahead.push(b'x'.into()).is_err());
            assert!(mask(&mut follower) == logits, "{text}: {place}");
            follower.push(text.as_bytes()[place].into()).unwrap();
        }
        assert!(follower.complete());
    }
}

#[test]
fn an_answer_after_reasoning_may_not_end_before_it_is_complete() {
    let (languages, tokenizer) = languages();
    let after = languages.constraint(&asked(Format::Object), true).unwrap();
    let mut follower = after.begin().unwrap();
    for byte in "if a > b: <think> </think >".bytes() {
        let mut logits = vec![0.0f32; languages.size];
        follower.mask(&mut logits).unwrap();
        let barred: Vec<usize> = (0..logits.len()).filter(|&token| logits[token].is_infinite()).collect();
        assert_eq!(barred, [tokenizer.eos_id() as usize]);
        follower.push(byte.into()).unwrap();
    }
    "</think>".bytes().for_each(|byte| follower.push(byte.into()).unwrap());
    let mut logits = vec![0.0f32; languages.size];
    follower.mask(&mut logits).unwrap();
    assert!(logits[usize::from(b'{')].is_finite() && logits[usize::from(b'a')].is_infinite());
}

/// A property cannot come twice, once by its name and once by escapes of it.
#[test]
fn further_properties_have_other_names() {
    let (languages, _) = languages();
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    let constraint = constraint(&languages, Format::Schema(schema));
    let mut follower = constraint.begin().unwrap();
    for byte in br#"{"a":1,""# {
        follower.push((*byte).into()).unwrap();
    }
    let mut logits = vec![0.0f32; languages.size];
    follower.mask(&mut logits).unwrap();
    follower.push(b'\\'.into()).unwrap();
    let mut logits = vec![0.0f32; languages.size];
    follower.mask(&mut logits).unwrap();
    assert!(logits[usize::from(b'n')].is_finite() && logits[usize::from(b'u')].is_infinite());
}

#[test]
fn unions_with_a_tag_are_supported() {
    let (languages, _) = languages();
    let form = |tag: &str| json!({"type": "object", "properties": {"tag": {"const": tag}}, "required": ["tag"], "additionalProperties": false});
    let schema =
        json!({"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], "$defs": {"A": form("a"), "B": form("b")}});
    for text in texts(&languages, Format::Schema(schema)) {
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value == json!({"tag": "a"}) || value == json!({"tag": "b"}), "{text}");
    }
}

#[test]
fn schemas_that_are_not_supported_are_named() {
    let (languages, _) = languages();
    let unsupported =
        refusal(&languages, json!({"type": "object", "minProperties": 3, "unevaluatedProperties": false}));
    assert!(unsupported.contains("is not supported: ") && unsupported.contains("Properties"), "{unsupported}");
    assert!(refusal(&languages, json!({"$ref": "https://example.com/x.json"})).contains("is not supported"));
    assert!(refusal(&languages, json!({"type": "colour"})).contains("colour"));
    assert!(refusal(&languages, json!({"multipleOf": 20_001})).contains("multipleOf 20001"));
    assert!(refusal(&languages, json!({"$ref": "#"})).contains("is not supported"));
    let error = languages.constraint(&asked(Format::Expression("(a".into())), false).unwrap_err();
    assert_eq!(error.status.as_u16(), 400);
    // Options of the crate inside a schema change nothing.
    let text = json!({"x-guidance": {"whitespace_pattern": "x+"}, "const": [1, 2]});
    let constraint = constraint(&languages, Format::Schema(text));
    assert!(draw(&languages, &*constraint, 1, 100).is_none_or(|text| !text.contains('x')));
}

#[test]
fn chains_of_references_are_followed() {
    let (languages, _) = languages();
    let link = |i: usize| (format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)}));
    let mut links: serde_json::Map<String, Value> = (0..20).map(link).collect();
    links.insert("d20".into(), json!({"const": 7}));
    let constraint = constraint(&languages, Format::Schema(json!({"$defs": links, "$ref": "#/$defs/d0"})));
    assert_eq!(draw(&languages, &*constraint, 0, 10).unwrap(), "7");
}
