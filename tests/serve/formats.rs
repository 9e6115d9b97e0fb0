//! Answers that must be JSON, of a schema, or matched by an expression.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Server, chatty};

/// A schema whose texts have an end, so that every model comes to it.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 12},
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
            "kind": {"enum": ["play", "poem"]},
            "pages": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        },
        "required": ["title", "stars", "kind", "pages"],
        "additionalProperties": false,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    title: String,
    stars: u8,
    kind: String,
    pages: Vec<bool>,
}

#[track_caller]
fn check(text: &str) {
    let work: Work = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
    assert!(work.title.chars().count() <= 12 && (1..=5).contains(&work.stars) && work.pages.len() <= 3, "{text:?}");
    assert!(["play", "poem"].contains(&work.kind.as_str()), "{text:?}");
}

#[test]
fn answers_have_the_form_that_was_asked_for() {
    let folder = chatty();
    let server = Server::start(folder.path(), &[]);
    let format = json!({"type": "json_schema", "json_schema": {"name": "work", "strict": true, "schema": schema()}});
    let messages = json!([{"role": "user", "content": "Say something as JSON."}]);
    let mut body = json!({"messages": messages, "n": 4, "seed": 3, "max_tokens": 300, "response_format": format});
    let answer = server.ok("/v1/chat/completions", &body);
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|choice| choice["message"]["content"].as_str().unwrap()).collect();
    assert!(texts.len() == 4 && texts[0] != texts[1]);
    texts.iter().for_each(|text| check(text));
    assert!(choices.iter().all(|choice| choice["finish_reason"] == "stop"));

    // The same in pieces, with log-probabilities of every token.
    body["stream"] = true.into();
    body["logprobs"] = true.into();
    let mut streamed = vec![String::new(); 4];
    for (place, event) in server.events("/v1/chat/completions", &body).into_iter().enumerate() {
        // The choices begin in order.
        assert_eq!(event["choices"][0]["delta"]["role"].is_string(), place < 4);
        assert!(place >= 4 || event["choices"][0]["index"] == place);
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        streamed[index] += choice["delta"]["content"].as_str().unwrap_or_default();
        for token in choice["logprobs"]["content"].as_array().into_iter().flatten() {
            assert!(token["logprob"].as_f64().unwrap() <= 0.0, "{event}");
        }
    }
    assert_eq!(streamed, texts);

    // vLLM's and llama.cpp's ways to ask.
    let ask = |field: &str, value: Value| {
        let mut body = json!({"prompt": "It was", "max_tokens": 300, "temperature": 0});
        body[field] = value;
        let answer = server.ok("/v1/completions", &body);
        (answer["choices"][0]["text"].as_str().unwrap().to_owned(), answer["choices"][0]["finish_reason"].clone())
    };
    check(&ask("guided_json", schema()).0);
    check(&ask("json_schema", schema()).0);
    let (choice, finish) = ask("structured_outputs", json!({"choice": ["lovely", "love"]}));
    assert!(["lovely", "love"].contains(&choice.as_str()) && finish == "stop", "{choice:?}");
    let (text, _) = ask("guided_regex", json!("[A-Z]{3}-[0-9]{2}"));
    let (letters, digits) = text.split_once('-').unwrap();
    assert!(letters.len() == 3 && letters.bytes().all(|b| b.is_ascii_uppercase()), "{text:?}");
    assert!(digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()), "{text:?}");
}

#[test]
fn reasoning_is_free_and_the_answer_after_it_is_not() {
    let folder = chatty();
    let server = Server::start(folder.path(), &[]);
    // This model never closes its reasoning: what it writes is free, and does not end by itself.
    let body = json!({
        "messages": [{"role": "user", "content": "Think."}], "thinking": {"type": "enabled"}, "max_tokens": 40,
        "response_format": {"type": "json_schema", "json_schema": {"name": "work", "schema": schema()}}, "seed": 1,
    });
    let answer = server.ok("/v1/chat/completions", &body);
    let message = &answer["choices"][0]["message"];
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert!(message["reasoning_content"].as_str().unwrap().len() > 20 && message["content"] == "", "{message}");
}

#[test]
fn forms_that_cannot_be_are_named() {
    let folder = chatty();
    let server = Server::start(folder.path(), &[]);
    let refused = |path: &str, body: Value| {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{body}\n{}", answer.body);
        let error = &answer.json()["error"];
        (error["param"].as_str().unwrap().to_owned(), error["message"].as_str().unwrap().to_owned())
    };
    let prompt = |field: &str, value: Value| {
        let mut body = json!({"prompt": "a"});
        body[field] = value;
        refused("/v1/completions", body)
    };
    let (param, message) = prompt("guided_json", json!({"type": "object", "unevaluatedProperties": false}));
    assert!(param == "guided_json" && message.contains("unevaluatedProperties"), "{message}");
    let (param, message) = prompt("grammar", json!("root ::= \"a\""));
    assert!(param == "grammar" && message.contains("not supported"), "{message}");
    let (param, _) = prompt("guided_regex", json!("(a"));
    assert_eq!(param, "guided_regex");
    let begun = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "{", "prefix": true}]);
    let body = json!({"messages": begun, "response_format": {"type": "json_object"}});
    let (param, message) = refused("/v1/chat/completions", body);
    assert!(param == "response_format" && message.contains("prefix"), "{message}");
    // The server goes on.
    let answer = server.ok("/v1/completions", &json!({"prompt": "a", "max_tokens": 3}));
    assert_eq!(answer["usage"]["completion_tokens"], 3);
}
