//! Chat templates render as transformers renders them.

use std::collections::BTreeMap;

use fathom::infer::{ChatTemplate, Conversation, Json};
use fathom_tests::golden_folder;
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    bos_token: String,
    eos_token: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    messages: Json,
    tools: Option<Json>,
    variables: BTreeMap<String, Json>,
    expected: Option<String>,
    error: Option<String>,
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let path = golden_folder().join("chat/cases.json");
    let cases: Cases = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let special = BTreeMap::from([
        ("bos_token".to_owned(), cases.bos_token.clone()),
        ("eos_token".to_owned(), cases.eos_token.clone()),
    ]);
    assert_eq!(cases.cases.len(), 18);
    let mut wrong = Vec::new();
    for case in cases.cases {
        let template = ChatTemplate::new(&case.template, &case.name, special.clone()).unwrap();
        let add_generation_prompt = case.variables.contains_key("add_generation_prompt");
        let variables: Vec<(String, Json)> = case.variables.into_iter().collect();
        let conversation = Conversation {
            messages: &case.messages,
            tools: case.tools.as_ref(),
            variables: &variables,
            add_generation_prompt,
        };
        let got = template.render(&conversation);
        match (&case.expected, &case.error, &got) {
            (Some(expected), _, Ok(got)) if expected == got => {}
            (None, Some(_), Err(_)) => {}
            _ => wrong.push(format!("{}: got {got:?}\nexpected {:?}{:?}", case.name, case.expected, case.error)),
        }
        if case.name == "raise" {
            let message = got.unwrap_err().to_string();
            assert!(message.contains("the first message must be from the user"), "{message}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
