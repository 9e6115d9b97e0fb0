//! Arbitrary bytes as a file of requests of `generate --requests`: requests that make sense, or the place of the line
//! that does not; their conversations go through a chat template.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use fathom::error::Error;
use fathom::infer::{ChatTemplate, Generated, Logprobs, Sampling, Stop, lines};
use libfuzzer_sys::fuzz_target;

const VOCABULARY: usize = 256;
/// What published templates do with messages: methods of strings, items that may be absent, tools as JSON.
const TEMPLATE: &str = "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}\
    {% if m.role == 'assistant' and m.content is string %}{{ m.content.split('</think>')[-1] | trim }}{{ eos_token }}\
    {% elif m.content is none %}{% for call in m['tool_calls'] %}{{ call.function.arguments | tojson }}{% endfor %}\
    {% else %}<{{ m['role'] }}>{{ m['content'] }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<assistant>{% endif %}";

fuzz_target!(|data: &[u8]| {
    let special = BTreeMap::from([("bos_token".to_owned(), "<b>".to_owned()), ("eos_token".into(), "<e>".into())]);
    let template = ChatTemplate::new(TEMPLATE, "template", special).expect("the template is right");
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
    let encoding = lines::Encoding {
        prompt: &|text| Ok(bytes(text)),
        chat: &|conversation| Ok(bytes(&template.render(conversation)?)),
    };
    let requests = match lines::parse(Path::new("requests"), data, &Sampling::default(), VOCABULARY, &encoding) {
        Ok(requests) => requests,
        Err(Error::Line { line, problem, .. }) => {
            let lines = data.split(|&byte| byte == b'\n').count() as u64;
            assert!((1..=lines).contains(&line) && !problem.is_empty());
            return;
        }
        Err(error) => panic!("an error without its line: {error}"),
    };
    for request in requests {
        let result = request.map(|request| {
            assert!(request.sampling.validate(VOCABULARY).is_ok(), "what is read can be run");
            let logprobs = request.sampling.logprobs.map(|_| Logprobs::new(&[0.5, -1.0], 1, 2));
            let (tokens, text) = (request.tokens, request.sampling.stop.concat());
            Generated { tokens, text, logprobs: logprobs.into_iter().collect(), stop: Stop::Length }
        });
        let written = lines::written(&result, true, true);
        let read: serde_json::Value = serde_json::from_str(&written).expect("a result is JSON");
        assert!(!written.contains('\n') && read.is_object());
        if let Ok(generated) = result {
            assert_eq!(read["text"], generated.text.as_str());
            assert_eq!(read["tokens"].as_array().map(Vec::len), Some(generated.tokens.len()));
        }
    }
});
