//! Settings and counts for those who run the server: defaults of sampling, keys, health, the load of experts.

use serde_json::{Value, json};

use crate::client::{Server, changed, checkpoint, refused};
use crate::{generated, greedy};

const PROMPT: &str = "First Citizen:\nBefore we proceed";

#[test]
fn a_request_that_does_not_say_is_sampled_as_the_model_s_makers_do() {
    let recommended = r#"{"eos_token_id": 1, "temperature": 0, "top_p": 0.9, "max_new_tokens": 9}"#;
    let folder = changed(|folder| std::fs::write(folder.join("generation_config.json"), recommended).unwrap());
    let server = Server::start(folder.path(), &[]);
    let line = "sampling where a request does not say: temperature 0, top_p 0.9, at most 9 new tokens of \
                generation_config.json, and top_k 0, min_p 0, repetition_penalty 1\n";
    assert!(server.log().contains(line), "{}", server.log());
    let want = generated(folder.path(), PROMPT, &greedy(9)).text;
    let asked = |more: Value| {
        let mut body = json!({"prompt": PROMPT, "ignore_eos": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.ok("/v1/completions", &body)
    };
    let silent = asked(json!({}));
    assert_eq!((&silent["choices"][0]["text"], &silent["usage"]["completion_tokens"]), (&json!(want), &json!(9)));
    // The request's own fields win.
    assert_eq!(asked(json!({"max_tokens": 20}))["usage"]["completion_tokens"], 20);
    let hot = asked(json!({"temperature": 5, "top_p": 1, "seed": 1, "max_tokens": 9}));
    assert_ne!(hot["choices"][0]["text"], want);
    drop(server);

    let server = Server::start(folder.path(), &["--generation-config", "none"]);
    assert!(server.log().contains("temperature 1,") && server.log().contains("is not asked"), "{}", server.log());
    let body = |temperature: Option<u32>| json!({"prompt": PROMPT, "seed": 1, "temperature": temperature});
    let [silent, one] = [None, Some(1)].map(|t| server.ok("/v1/completions", &body(t)));
    assert_eq!(silent["choices"], one["choices"]);
    drop(server);

    std::fs::write(folder.path().join("generation_config.json"), r#"{"top_p": 2}"#).unwrap();
    let error = refused(folder.path(), &["--port", "0"]).1;
    assert!(error.contains("generation_config.json: top_p: 2: must be above 0 and at most 1"), "{error}");
    let error = refused(folder.path(), &["--port", "0", "--generation-config", "vllm"]).1;
    assert!(error.contains("--generation-config vllm: must be auto or none"), "{error}");
}

#[test]
fn the_load_of_experts_is_counted_where_asked() {
    let server = Server::start(&checkpoint(), &["--expert-metrics"]);
    server.ok("/v1/completions", &json!({"prompt": [5, 6, 7], "max_tokens": 4, "ignore_eos": true}));
    server.wait_for("fathom_generated_tokens_total", 4.0);
    let text = server.get("/metrics").body;
    // Each of the three layers with a router sends every token that is computed, three and three more, to two experts.
    for layer in 1..4 {
        let start = format!("fathom_expert_tokens_total{{layer=\"{layer}\",expert=");
        let lines = text.lines().filter_map(|line| line.strip_prefix(&start)?.split_once("} "));
        let counts: Vec<u64> = lines.map(|(_, count)| count.parse().unwrap()).collect();
        assert_eq!((counts.len(), counts.iter().sum::<u64>()), (8, 12), "{text}");
    }
    let plain = Server::start(&checkpoint(), &[]);
    assert!(!plain.get("/metrics").body.contains("fathom_expert"));
}

#[test]
fn a_key_comes_from_a_file_and_health_asks_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "s3cret\n").unwrap();
    let file = ["--api-key-file", key.to_str().unwrap()];
    let server = Server::start(&checkpoint(), &file);
    assert_eq!(server.get("/v1/models").status, 401);
    let given = server.send("GET", "/v1/models", &[("authorization", "Bearer s3cret")], "");
    assert_eq!(given.status, 200, "{}", given.body);

    let health = |address: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fathom"));
        let output = command.args(["health", "--seconds", "20", "--address", address]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(health(&server.address), (Some(0), "ok\n".into(), String::new()));
    let address = server.address.clone();
    drop(server);
    let (code, _, said) = health(&address);
    assert!(code == Some(1) && said.contains(&format!("{address} does not answer")), "{said}");
    let (code, _, said) = health("nowhere");
    assert!(code == Some(2) && said.contains("--address nowhere: must be as 127.0.0.1:8080"), "{said}");
    // What listens there may be anything.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let answers = std::thread::spawn(move || {
        for answer in ["HTTP/1.1 503 Service Unavailable\r\n\r\n{\"status\":\"loading\"}", "SSH-2.0-x\r\n", ""] {
            let (mut stream, _) = other.accept().unwrap();
            let mut request = [0; 512];
            let _ = std::io::Read::read(&mut stream, &mut request);
            let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
        }
    });
    for want in ["is not ready: loading (status 503)", "this is no HTTP", "this is no HTTP"] {
        let (code, _, said) = health(&address);
        assert!(code == Some(1) && said.contains(want), "{said}");
    }
    answers.join().unwrap();

    std::fs::write(&key, "\n").unwrap();
    for (more, want) in [
        (&file[..], "key is empty"),
        (&["--api-key-file", "nowhere.key"], "nowhere.key"),
        (&["--api-key-file", "x", "--api-key", "y"], "exclude each other"),
    ] {
        let (code, said) = refused(&checkpoint(), &[&["--port", "0"], more].concat());
        assert!(code != Some(0) && said.contains(want), "{said}");
    }
}
