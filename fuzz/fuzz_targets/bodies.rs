//! Arbitrary bytes as the body of a request to `serve`: a request that can be run, or an error that is OpenAI's; the
//! bytes as the text of a reasoning model, divided the same in any pieces.
#![no_main]

use std::collections::BTreeMap;

use fathom::infer::{ChatTemplate, Conversation, Sampling};
use fathom::serve::error::ApiError;
use fathom::serve::openai::chat::ChatRequest;
use fathom::serve::openai::completions::{CompletionRequest, Prompt};
use fathom::serve::openai::params::{Bounds, Params};
use fathom::serve::openai::think::{Place, Thinking};
use libfuzzer_sys::fuzz_target;

const TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>\
    {{ m.content }}{{ m | tojson }}{% endfor %}";

fn check(params: &Params, bounds: &Bounds) {
    assert!((1..=bounds.choices).contains(&params.n), "as many choices as the server takes");
    let sampling = params.of_choice(params.n - 1);
    assert!(sampling.validate(bounds.vocabulary).is_ok(), "what is read can be run");
    assert!(sampling.max_new_tokens <= bounds.context);
}

fn check_error(error: &ApiError) {
    let json: serde_json::Value = serde_json::from_str(&error.json()).expect("an error is JSON");
    assert!(json["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert!(matches!(error.status.as_u16(), 400 | 404));
}

fn divided<'a>(place: Place, pieces: impl Iterator<Item = &'a str>) -> (String, String) {
    let mut thinking = Thinking::new(place);
    let (mut reasoning, mut content) = (String::new(), String::new());
    let mut parts: Vec<_> = pieces.map(|piece| thinking.push(piece)).collect();
    parts.push(thinking.finish());
    for part in parts {
        reasoning += &part.reasoning;
        content += &part.content;
    }
    (reasoning, content)
}

fuzz_target!(|data: &[u8]| {
    let (model, defaults) = ("m".to_owned(), Sampling::default());
    let bounds = Bounds { model, vocabulary: 256, context: 64, choices: 8, max_tokens: 64, text: true, defaults };
    match CompletionRequest::parse(data, &bounds) {
        Ok(request) => {
            check(&request.params, &bounds);
            for prompt in request.prompts {
                if let Prompt::Tokens(tokens) = prompt {
                    assert!(!tokens.is_empty() && tokens.iter().all(|&token| token < 256));
                }
            }
        }
        Err(error) => check_error(&error),
    }
    match ChatRequest::parse(data, &bounds) {
        Ok(request) => {
            check(&request.params, &bounds);
            let template = ChatTemplate::new(TEMPLATE, "template", BTreeMap::new()).expect("the template is right");
            let (messages, tools) = (&request.messages, request.tools.as_ref());
            let conversation =
                Conversation { messages, tools, variables: &request.variables, add_generation_prompt: true };
            // Deep values are refused by the template.
            let _ = template.render(&conversation);
        }
        Err(error) => check_error(&error),
    }
    if let Ok(text) = std::str::from_utf8(data) {
        for place in [Place::Start, Place::Reasoning, Place::Answer] {
            let whole = divided(place, [text].into_iter());
            let single = text.char_indices().map(|(i, c)| &text[i..i + c.len_utf8()]);
            assert_eq!(divided(place, single), whole, "pieces do not matter");
        }
    }
});
