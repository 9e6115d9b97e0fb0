//! Tokens of an answer: where they stand in the text, which were cached, and where they may not end it.

use serde_json::{Value, json};

use crate::client::{Server, checkpoint};

const END: &str = "<｜end▁of▁sentence｜>";

/// The characters of a text from a place on.
fn from(text: &str, offset: &Value) -> String {
    text.chars().skip(offset.as_u64().unwrap() as usize).collect()
}

#[test]
fn offsets_lead_into_the_text_that_is_returned() {
    let server = Server::start(&checkpoint(), &[]);
    let prompt = format!("é{END}The 🙃 king{END}{END}x");
    let body = json!({"prompt": prompt, "echo": true, "logprobs": 0, "max_tokens": 12, "seed": 3, "ignore_eos": true});
    let answer = server.ok("/v1/completions", &body);
    let (text, found) = (answer["choices"][0]["text"].as_str().unwrap(), &answer["choices"][0]["logprobs"]);
    assert!(text.starts_with(&prompt));
    let (tokens, offsets) = (found["tokens"].as_array().unwrap(), found["text_offset"].as_array().unwrap());
    let mut names = 0;
    for (token, offset) in tokens.iter().zip(offsets) {
        let (token, rest) = (token.as_str().unwrap(), from(text, offset));
        // Parts of characters are no text by themselves; a name is written out only where the prompt does it.
        let none =
            token.starts_with("bytes:") || token == END && offset.as_u64() >= Some(prompt.chars().count() as u64);
        assert!(none || rest.starts_with(token), "{token} {rest}");
        names += usize::from(token == END && !none);
    }
    assert!(names == 3 && offsets.last().unwrap().as_u64().unwrap() > prompt.chars().count() as u64);
    // Token ids are decoded without the names of special tokens; offsets follow.
    let ids = server.ok("/tokenize", &json!({"prompt": prompt}))["tokens"].clone();
    let body = json!({"prompt": ids, "echo": true, "logprobs": 0, "max_tokens": 0});
    let answer = server.ok("/v1/completions", &body);
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert_eq!(text, "éThe 🙃 kingx");
    let found = &answer["choices"][0]["logprobs"];
    assert_eq!(from(text, found["text_offset"].as_array().unwrap().last().unwrap()), "x");
}

#[test]
fn what_a_request_computes_itself_does_not_count_as_cached() {
    let server = Server::start(&checkpoint(), &[]);
    let cached = |body: &Value| {
        let usage = server.ok("/v1/completions", body)["usage"].clone();
        assert_eq!(usage["prompt_cache_hit_tokens"], usage["prompt_tokens_details"]["cached_tokens"]);
        usage["prompt_cache_hit_tokens"].as_u64().unwrap()
    };
    let prompt = "First Citizen:\nBefore we proceed any further, hear me speak. ".repeat(6);
    let scored = json!({"prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": 2});
    assert_eq!(cached(&scored), 0);
    assert_eq!(cached(&scored), 0, "a prompt is scored by computing all of it");
    assert!(cached(&json!({"prompt": prompt, "max_tokens": 2})) >= 64, "others find it");
    // A request that ends with its first token leaves its prompt, too.
    let prompt = format!("Second {prompt}");
    for (max_tokens, least) in [(1, 0), (1, 64), (3, 64)] {
        let found = cached(&json!({"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": true}));
        assert!(if least == 0 { found == 0 } else { found >= least }, "{max_tokens}: {found}");
    }
}

#[test]
fn texts_have_as_many_tokens_as_were_asked_for_at_least() {
    let server = Server::start(&checkpoint(), &[]);
    // Token 1 ends texts, and the bias makes every token this one.
    let mut body = json!({"prompt": "a", "max_tokens": 20, "logit_bias": {"1": 100}, "seed": 5});
    for (min, reason) in [(0, "stop"), (1, "stop"), (7, "stop"), (20, "length")] {
        body["min_tokens"] = min.into();
        for temperature in [0, 1] {
            body["temperature"] = temperature.into();
            let answer = server.ok("/v1/completions", &body);
            // The token that ends the text counts.
            let want = min + u64::from(reason == "stop");
            assert_eq!(answer["usage"]["completion_tokens"], want, "{answer}");
            assert_eq!(answer["choices"][0]["finish_reason"], reason);
        }
    }
    // Tokens that a request itself names.
    let body =
        json!({"prompt": "a", "max_tokens": 9, "logit_bias": {"40": 100}, "stop_token_ids": [40], "min_tokens": 4});
    assert_eq!(server.ok("/v1/completions", &body)["usage"]["completion_tokens"], 5);
}
