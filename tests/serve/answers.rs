//! Answers to well-formed requests, whole and in pieces.

use fathom::infer::{Event, ScoreRequest};
use fathom::session::Session;
use fathom_cpu::Cpu;
use serde_json::{Value, json};

use crate::client::{Server, changed, chatty, checkpoint};
use crate::{generated, greedy};

const PROMPT: &str = "First Citizen:\nBefore we proceed";

#[test]
fn a_completion_is_what_the_model_writes() {
    let server = Server::start(&checkpoint(), &[]);
    let want = generated(&checkpoint(), PROMPT, &greedy(20));
    let body = json!({"model": "small", "prompt": PROMPT, "max_tokens": 20, "temperature": 0, "vendor": {"x": 1}});
    for path in ["/v1/completions", "/completions", "/beta/completions", "/beta/v1/completions"] {
        let answer = server.ok(path, &body);
        assert_eq!((&answer["object"], &answer["model"]), (&json!("text_completion"), &json!("small")));
        assert!(
            answer["id"].as_str().unwrap().starts_with("cmpl-") && answer["created"].as_u64().unwrap() > 1_700_000_000
        );
        let choice = &answer["choices"][0];
        assert_eq!(choice, &json!({"index": 0, "text": want.text, "logprobs": null, "finish_reason": "length"}));
        let (prompt, new) = (answer["usage"]["prompt_tokens"].as_u64().unwrap(), 20);
        assert_eq!(
            (&answer["usage"]["completion_tokens"], &answer["usage"]["total_tokens"]),
            (&json!(new), &json!(prompt + new))
        );
    }
    // Token ids are the same prompt as their text.
    let tokens = server.ok("/tokenize", &json!({"prompt": PROMPT}));
    assert_eq!(tokens["count"].as_u64().unwrap() as usize, tokens["tokens"].as_array().unwrap().len());
    let ids = json!({"prompt": tokens["tokens"], "max_tokens": 20, "temperature": 0});
    assert_eq!(server.ok("/v1/completions", &ids)["choices"][0]["text"], want.text);
    let text = server.ok("/detokenize", &json!({"tokens": tokens["tokens"]}));
    assert_eq!((&text["prompt"], &text["content"]), (&json!(PROMPT), &json!(PROMPT)));
    // A stop string ends the text before it.
    let stop: String = want.text.chars().skip(5).take(3).collect();
    let cut =
        server.ok("/v1/completions", &json!({"prompt": PROMPT, "max_tokens": 20, "temperature": 0, "stop": stop}));
    let choice = &cut["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(want.text.split(&stop).next()), &json!("stop")));
    // Pages of an equal prompt are found again.
    let long = json!({"prompt": PROMPT.repeat(8), "max_tokens": 2, "temperature": 0, "ignore_eos": true});
    server.ok("/v1/completions", &long);
    let again = &server.ok("/v1/completions", &long)["usage"];
    let cached = again["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= 64 && again["prompt_cache_hit_tokens"] == cached, "{again}");
    assert_eq!(cached + again["prompt_cache_miss_tokens"].as_u64().unwrap(), again["prompt_tokens"].as_u64().unwrap());
}

#[test]
fn choices_of_several_prompts_have_their_place_and_their_own_tokens() {
    let server = Server::start(&checkpoint(), &[]);
    let body =
        |prompt: Value, n: usize| json!({"prompt": prompt, "n": n, "seed": 7, "max_tokens": 12, "ignore_eos": true});
    let answer = server.ok("/v1/completions", &body(json!(["The king", "My lord"]), 2));
    let texts: Vec<&str> = answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    for (i, choice) in answer["choices"].as_array().unwrap().iter().enumerate() {
        assert_eq!(choice["index"], i);
    }
    assert_ne!(texts[0], texts[1], "choices draw other tokens");
    let alone = server.ok("/v1/completions", &body(json!("My lord"), 2));
    let alone: Vec<&str> = alone["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(alone, texts[2..], "a prompt's choices do not depend on other prompts");
    assert_eq!(answer["usage"]["completion_tokens"], 48);

    // In pieces the same texts come, each piece with its choice.
    let mut body = body(json!(["The king", "My lord"]), 2);
    body["stream"] = true.into();
    let events = server.events("/v1/completions", &body);
    let mut streamed = vec![String::new(); 4];
    let mut finished = Vec::new();
    for event in &events {
        assert_eq!((&event["id"], event.get("usage")), (&events[0]["id"], None));
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        streamed[index] += choice["text"].as_str().unwrap();
        finished.extend(choice["finish_reason"].as_str().map(|reason| (index, reason.to_owned())));
    }
    assert_eq!(streamed, texts);
    finished.sort();
    assert_eq!(finished, (0..4).map(|i| (i, "length".to_owned())).collect::<Vec<_>>());
    let streams: std::collections::BTreeSet<u64> =
        events[..8].iter().map(|event| event["choices"][0]["index"].as_u64().unwrap()).collect();
    assert!(streams.len() > 1, "choices come side by side");
    assert!(events.len() > 12, "text comes in pieces");
}

#[test]
fn usage_comes_at_the_end_of_a_stream_that_asks_for_it() {
    let server = Server::start(&checkpoint(), &[]);
    let body = json!({"prompt": "a", "max_tokens": 5, "stream": true, "stream_options": {"include_usage": true},
                      "ignore_eos": true});
    let events = server.events("/v1/completions", &body);
    let (last, others) = events.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(5)));
    assert!(others.iter().all(|event| event["usage"].is_null() && event["choices"].as_array().unwrap().len() == 1));
}

/// lm-evaluation-harness scores so: echo, one new token, and the token's own log-probabilities.
#[test]
fn echoed_prompts_are_scored_as_eval_scores_them() {
    let server = Server::start(&checkpoint(), &["--step-tokens", "100"]);
    let device = Cpu::with_threads(1);
    let session = Session::load(&device, &checkpoint()).unwrap();
    let texts = [PROMPT.to_owned(), "x".into(), PROMPT.repeat(20)];
    let prompts: Vec<Vec<u32>> = texts.iter().map(|text| session.encode(text).unwrap()).collect();
    let mut engine = session.engine(Default::default()).unwrap();
    for max_tokens in [1, 0] {
        for logprobs in [1, 3] {
            let body = json!({"prompt": prompts, "echo": true, "logprobs": logprobs, "max_tokens": max_tokens,
                              "temperature": 0, "seed": 1234});
            let answer = server.ok("/v1/completions", &body);
            for (i, tokens) in prompts.iter().enumerate() {
                let choice = &answer["choices"][i];
                let found = &choice["logprobs"];
                let list = |name: &str| found[name].as_array().unwrap();
                for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                    assert_eq!(list(name).len(), tokens.len() + max_tokens, "{name}");
                }
                assert!(found["token_logprobs"][0].is_null() && found["top_logprobs"][0].is_null());
                let text = choice["text"].as_str().unwrap();
                assert!(text.starts_with(&texts[i]) && (max_tokens == 1 || text == texts[i]));
                if tokens.len() < 2 {
                    continue;
                }
                let last = tokens.len() - 1;
                let request = ScoreRequest { tokens: tokens[..last].to_vec(), endings: vec![tokens[1..].to_vec()] };
                engine.add_scoring(request).unwrap();
                let mut scores = None;
                engine
                    .run(|_, event| {
                        if let Event::Scored { scores: found, .. } = event {
                            scores = found.into_iter().next();
                        }
                    })
                    .unwrap();
                let scores = scores.unwrap();
                let logprobs_of = |list: &[Value]| list.iter().map(|x| x.as_f64().unwrap() as f32).collect::<Vec<_>>();
                assert_eq!(logprobs_of(&list("token_logprobs")[1..tokens.len()]), scores.logprobs);
                // As the harness tells whether a token is the most probable one.
                let greedy = |place: usize| {
                    let top = list("top_logprobs")[place].as_object().unwrap();
                    assert!((logprobs..=logprobs + 1).contains(&top.len()), "{top:?}");
                    let best = top.values().map(|x| x.as_f64().unwrap()).fold(f64::NEG_INFINITY, f64::max);
                    list("token_logprobs")[place].as_f64().unwrap() == best
                };
                assert_eq!((1..tokens.len()).map(greedy).collect::<Vec<_>>(), scores.greedy);
                // Offsets are where the tokens' texts begin.
                let all: String = (0..tokens.len()).map(|i| list("tokens")[i].as_str().unwrap()).collect();
                assert_eq!(all, texts[i]);
                let offset = list("text_offset")[last].as_u64().unwrap() as usize;
                assert!(
                    texts[i]
                        .chars()
                        .skip(offset)
                        .collect::<String>()
                        .starts_with(list("tokens")[last].as_str().unwrap())
                );
            }
        }
    }
    // In pieces the prompt is the first piece.
    let body =
        json!({"prompt": PROMPT, "echo": true, "logprobs": 1, "max_tokens": 2, "temperature": 0, "stream": true});
    let events = server.events("/v1/completions", &body);
    let first = &events[0]["choices"][0];
    assert_eq!(
        (&first["text"], first["logprobs"]["tokens"].as_array().unwrap().len()),
        (&json!(PROMPT), prompts[0].len())
    );
    let plain = json!({"prompt": PROMPT, "echo": true, "max_tokens": 3, "temperature": 0});
    let want = generated(&checkpoint(), PROMPT, &greedy(3)).text;
    assert_eq!(server.ok("/v1/completions", &plain)["choices"][0]["text"], format!("{PROMPT}{want}"));
}

#[test]
fn chats_follow_the_model_s_template() {
    let folder = chatty();
    let server = Server::start(folder.path(), &[]);
    let chat = |body: &Value| server.ok("/v1/chat/completions", body);
    let messages =
        json!([{"role": "developer", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]);
    let body = json!({"messages": messages, "max_completion_tokens": 9, "temperature": 0, "logprobs": true, "top_logprobs": 2});
    let answer = chat(&body);
    let want = generated(folder.path(), "[system]s[user]hi[assistant]", &greedy(9)).text;
    let choice = &answer["choices"][0];
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(choice["message"], json!({"role": "assistant", "content": want}));
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 9);
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|token| token["bytes"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8))
        .collect();
    assert_eq!(String::from_utf8_lossy(&bytes), want);
    assert_eq!(content[0]["top_logprobs"][0]["logprob"], content[0]["logprob"], "greedy takes the most probable");
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);

    // In pieces: the role first, the reason at the end.
    let mut stream = body.clone();
    stream["stream"] = true.into();
    let events = server.events("/v1/chat/completions", &stream);
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let last = &events[events.len() - 1]["choices"][0];
    assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("length")));
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, want);
    let tokens: Vec<&Value> =
        events.iter().filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array()).flatten().collect();
    assert_eq!(tokens, content.iter().collect::<Vec<_>>());

    // The beginning of an answer is continued; tools and variables reach the template.
    let mut prefixed = body.clone();
    let prefix = json!({"role": "assistant", "content": "Yes", "prefix": true});
    prefixed["messages"].as_array_mut().unwrap().push(prefix);
    let want = generated(folder.path(), "[system]s[user]hi[assistant]Yes", &greedy(9)).text;
    assert_eq!(chat(&prefixed)["choices"][0]["message"]["content"], want);
    let mut tools = body.clone();
    tools["tools"] = json!([{"type": "function"}]);
    let want = generated(folder.path(), "[system]s[user]hi[{\"type\": \"function\"}][assistant]", &greedy(9)).text;
    assert_eq!(chat(&tools)["choices"][0]["message"]["content"], want);

    // A template that opens the reasoning: all is reasoning until it is closed.
    let mut thinking = body.clone();
    thinking["chat_template_kwargs"] = json!({"thinking": true});
    let want = generated(folder.path(), "[system]s[user]hi[assistant]<think>", &greedy(9)).text;
    let answer = chat(&thinking);
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], "");
    assert_eq!(choice["message"]["reasoning_content"], want.trim_start_matches('\n'));
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 9);
    assert_eq!(choice["logprobs"]["reasoning_content"].as_array().unwrap().len(), 9);
    thinking["stream"] = true.into();
    let events = server.events("/v1/chat/completions", &thinking);
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["reasoning_content"].as_str()).collect();
    assert_eq!(text, want.trim_start_matches('\n'));

    let refused = server.post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "no"}]}));
    assert!(refused.status == 400 && refused.body.contains("never no"), "{}", refused.body);
    let tokens = server.ok("/tokenize", &json!({"messages": messages}));
    let text = server.ok("/detokenize", &json!({"tokens": tokens["tokens"]}));
    assert_eq!(text["content"], "[system]s[user]hi[assistant]");
}

#[test]
fn gaps_are_filled_by_models_with_the_tokens_for_it() {
    let server = Server::start(&checkpoint(), &[]);
    let body = json!({"prompt": "a", "suffix": "c", "max_tokens": 8, "temperature": 0});
    let refused = server.post("/beta/completions", &body).json();
    assert_eq!(refused["error"]["param"], "suffix");
    assert!(refused["error"]["message"].as_str().unwrap().contains("fim▁hole"), "{refused}");
    drop(server);

    // The last three tokens of the vocabulary get the names.
    let names = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];
    let mut ids = Vec::new();
    let folder = changed(|folder| {
        let path = folder.join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let size = tokenizer["model"]["vocab"].as_object().unwrap().len();
        let merges = tokenizer["model"]["merges"].as_array_mut().unwrap();
        merges.truncate(merges.len() - 3);
        let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let last: Vec<(String, u64)> = vocab.iter().map(|(k, v)| (k.clone(), v.as_u64().unwrap())).collect();
        for (i, name) in names.into_iter().enumerate() {
            let id = last.iter().map(|(_, id)| *id).max().unwrap() - i as u64;
            let old = last.iter().find(|(_, other)| *other == id).unwrap();
            vocab.remove(&old.0);
            ids.push((id, name));
        }
        assert_eq!(vocab.len(), size - 3);
        for (id, name) in &ids {
            tokenizer["added_tokens"].as_array_mut().unwrap().push(json!({
                "id": id, "content": name, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false,
            }));
        }
        std::fs::write(path, tokenizer.to_string()).unwrap();
    });
    let server = Server::start(folder.path(), &[]);
    let answer = server.ok("/beta/completions", &body);
    let want = generated(folder.path(), &format!("{}a{}c{}", names[0], names[1], names[2]), &greedy(8));
    assert_eq!(answer["choices"][0]["text"], want.text);
    // A name in the text of a client is text.
    let tricky = json!({"prompt": format!("a{}", names[2]), "suffix": "c", "max_tokens": 1});
    assert!(server.ok("/beta/completions", &tricky)["usage"]["prompt_tokens"].as_u64().unwrap() > 8);
}

#[test]
fn models_health_version_and_metrics() {
    let server = Server::start(&checkpoint(), &[]);
    let models = server.get("/v1/models").json();
    let model = &models["data"][0];
    assert_eq!((&models["object"], &model["id"], &model["object"]), (&json!("list"), &json!("small"), &json!("model")));
    assert_eq!((&model["owned_by"], &model["max_model_len"]), (&json!("fathom"), &json!(1024)));
    assert_eq!(server.get("/models/small").json(), *model);
    assert_eq!(server.get("/v1/models/a%2Fb").json()["error"]["code"], "model_not_found");
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
    assert_eq!(server.get("/version").json(), json!({"version": env!("CARGO_PKG_VERSION")}));
    server.ok("/v1/completions", &json!({"prompt": "a", "max_tokens": 4, "ignore_eos": true}));
    server.wait_for("fathom_generated_tokens_total", 4.0);
    assert_eq!(server.metric("fathom_time_to_first_token_seconds_count"), 1.0);
    assert_eq!(server.metric("fathom_time_per_output_token_seconds_count"), 3.0);
    assert!(server.metric("fathom_cache_pages") >= 16.0);
    assert_eq!(server.metric("fathom_cache_pages_used"), 0.0);
    let text = server.get("/metrics").body;
    assert!(text.contains("fathom_http_requests_total{route=\"/completions\",status=\"200\"} 1"), "{text}");
}
