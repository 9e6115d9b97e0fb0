//! Errors, keys, the queue, clients that go away, and the end of a server.

use std::io::{BufRead, BufReader, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Server, changed, chatty, checkpoint, refused, request};

/// A model that may write for a long time.
fn talkative() -> tempfile::TempDir {
    changed(|folder| {
        let path = folder.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(config["max_position_embeddings"], 1024);
        config["max_position_embeddings"] = 60_000.into();
        std::fs::write(path, config.to_string()).unwrap();
    })
}

fn long(stream: bool) -> Value {
    json!({"prompt": "a", "max_tokens": 50_000, "ignore_eos": true, "stream": stream, "temperature": 0})
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn errors_have_openai_s_form() {
    let folder = chatty();
    let server = Server::start(folder.path(), &["--max-body", "3000", "--queue", "2", "--parallel", "4"]);
    let long = json!({"prompt": vec![5; 1024], "max_tokens": 1}).to_string();
    let many = json!({"prompt": vec!["a"; 7]}).to_string();
    let large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(3000));
    let user = json!({"messages": [{"role": "user"}]}).to_string();
    let ids = format!("{{\"prompt\": \"a\", \"stop_token_ids\": [{}1]}}", "1,".repeat(1024));
    for (method, path, kind, body, status, param, code) in [
        ("POST", "/v1/completions", "application/json", "{", 400, None, None),
        ("POST", "/v1/completions", "application/json", "{}", 400, Some("prompt"), None),
        ("POST", "/v1/completions", "application/json", "{\"prompt\": \"a\", \"n\": 100}", 400, Some("n"), None),
        ("POST", "/v1/completions", "application/json", &many, 400, Some("prompt"), None),
        ("POST", "/v1/completions", "application/json", &long, 400, Some("prompt"), Some("context_length_exceeded")),
        ("POST", "/v1/completions", "application/json", &ids, 400, Some("stop_token_ids"), None),
        ("POST", "/v1/completions", "application/json", &large, 413, None, None),
        ("POST", "/v1/completions", "text/plain", "{\"prompt\": \"a\"}", 415, None, None),
        (
            "POST",
            "/v1/completions",
            "application/json; charset=utf-8",
            "{\"prompt\": \"a\", \"model\": \"gpt-4\"}",
            404,
            Some("model"),
            Some("model_not_found"),
        ),
        ("POST", "/v1/chat/completions", "application/json", &user, 400, Some("messages[0].content"), None),
        ("POST", "/tokenize", "application/json", "{}", 400, Some("prompt"), None),
        ("POST", "/detokenize", "application/json", "{\"tokens\": [99999]}", 400, Some("tokens"), None),
        ("GET", "/v1/completions", "application/json", "", 405, None, Some("method_not_allowed")),
        ("GET", "/v1/embeddings", "application/json", "", 404, None, Some("route_not_found")),
    ] {
        let answer = server.send(method, path, &[("content-type", kind)], body);
        assert_eq!(answer.status, status, "{method} {path} {body}\n{}", answer.body);
        assert_eq!(answer.header("content-type"), "application/json");
        let error = &answer.json()["error"];
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{error}");
        assert!(error["message"].as_str().unwrap().len() > 10 && error["type"] == "invalid_request_error", "{error}");
    }
    drop(server);
    // Without a template chats are refused, and nothing else.
    let server = Server::start(&checkpoint(), &[]);
    let error = server.post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "a"}]}));
    assert!(error.status == 400 && error.body.contains("no chat template"), "{}", error.body);
}

/// A page of another site may point its own name to this machine.
#[test]
fn a_server_of_this_machine_is_called_by_its_names() {
    let names = [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("example.org:8080", 403),
        ("a.localhost", 403),
    ];
    let call = |server: &Server, name: &str| {
        let answer =
            server.raw(format!("GET /v1/models HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").as_bytes());
        String::from_utf8(answer).unwrap().split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let server = Server::start(&checkpoint(), &[]);
    for (name, status) in names {
        assert_eq!(call(&server, name), status, "{name}");
    }
    drop(server);
    // With a key the name does not matter.
    let server = Server::start(&checkpoint(), &["--api-key", "secret"]);
    assert_eq!(call(&server, "example.org"), 401);
}

#[test]
fn every_route_but_health_asks_for_the_key() {
    let server = Server::start(&checkpoint(), &["--api-key", "secret"]);
    assert_eq!(server.get("/health").status, 200);
    for (method, path) in [
        ("GET", "/v1/models"),
        ("GET", "/models/small"),
        ("POST", "/v1/completions"),
        ("POST", "/beta/chat/completions"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/metrics"),
        ("GET", "/version"),
        ("GET", "/nothing"),
        ("DELETE", "/v1/models"),
    ] {
        for key in ["", "Bearer ", "Bearer secre", "Bearer secrets", "Basic secret", "secret", "Bearer é"] {
            let answer = server.send(method, path, &[("authorization", key)], "");
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{path} {key}");
            assert_eq!(answer.json()["error"]["code"], "invalid_api_key");
        }
        let answer = server.send(method, path, &[("authorization", "Bearer secret")], "");
        assert_ne!(answer.status, 401, "{path}");
    }
}

#[test]
fn pages_of_other_origins_read_nothing_unless_allowed() {
    let origin = ("origin", "https://page.example");
    let server = Server::start(&checkpoint(), &[]);
    assert_eq!(server.send("GET", "/v1/models", &[origin], "").header("access-control-allow-origin"), "");
    assert_eq!(server.send("OPTIONS", "/v1/completions", &[origin], "").status, 405);
    drop(server);
    let server = Server::start(&checkpoint(), &["--cors-origin", "https://page.example", "--api-key", "k"]);
    let asked = server.send("OPTIONS", "/v1/completions", &[origin, ("access-control-request-headers", "x-y")], "");
    assert_eq!((asked.status, asked.header("access-control-allow-headers")), (204, "x-y"));
    let answer = server.send("GET", "/v1/models", &[origin, ("authorization", "Bearer k")], "");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "https://page.example"));
    let other =
        server.send("GET", "/v1/models", &[("origin", "https://evil.example"), ("authorization", "Bearer k")], "");
    assert_eq!((other.status, other.header("access-control-allow-origin")), (200, ""));
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let folder = talkative();
    let server = Server::start(folder.path(), &["--parallel", "1", "--queue", "1", "--step-tokens", "8"]);
    for stream in [true, false] {
        // One runs, one waits, a third is refused.
        let body = long(stream).to_string();
        let open = || {
            let mut connection = server.connect();
            connection.write_all(&request("POST", "/v1/completions", &[JSON], &body)).unwrap();
            connection
        };
        let running = open();
        server.wait_for("fathom_requests_running", 1.0);
        let waiting = open();
        server.wait_for("fathom_requests_waiting", 1.0);
        let refused = server.post("/v1/completions", &long(false));
        assert_eq!((refused.status, refused.header("retry-after")), (429, "2"), "{}", refused.body);
        assert_eq!(refused.json()["error"]["code"], "queue_full");
        let start = Instant::now();
        drop(waiting);
        server.wait_for("fathom_requests_waiting", 0.0);
        drop(running);
        server.wait_for("fathom_requests_running", 0.0);
        assert_eq!(server.metric("fathom_cache_pages_used"), 0.0);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    // Bytes of further requests do not hide that it is gone.
    for further in [10, 100_000] {
        let mut connection = server.connect();
        connection.write_all(&request("POST", "/v1/completions", &[JSON], &long(false).to_string())).unwrap();
        connection.write_all(&vec![b'G'; further]).unwrap();
        server.wait_for("fathom_requests_running", 1.0);
        let start = Instant::now();
        drop(connection);
        server.wait_for("fathom_requests_running", 0.0);
        assert!(start.elapsed() < Duration::from_secs(3), "{further}: {:?}", start.elapsed());
    }
    // During a long prefill, too.
    let prompt = json!({"prompt": vec![7; 30_000], "max_tokens": 1}).to_string();
    let mut connection = server.connect();
    connection.write_all(&request("POST", "/v1/completions", &[JSON], &prompt)).unwrap();
    server.wait_for("fathom_requests_running", 1.0);
    let start = Instant::now();
    assert_eq!(server.get("/health").status, 200);
    assert!(start.elapsed() < Duration::from_secs(1), "health answers while a prompt is read");
    drop(connection);
    server.wait_for("fathom_requests_running", 0.0);
    assert_eq!(server.metric("fathom_requests_cancelled_total"), 7.0);
    server.ok("/v1/completions", &json!({"prompt": "a", "max_tokens": 1}));
}

#[test]
fn a_request_that_takes_too_long_is_given_up() {
    let folder = talkative();
    let server = Server::start(folder.path(), &["--request-seconds", "1", "--cache-tokens", "61000"]);
    let answer = server.post("/v1/completions", &long(false));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("timeout")));
    // After the first byte, the error is an event.
    let answer = server.post("/v1/completions", &long(true));
    let last = answer.body.trim_end().rsplit("\n\n").next().unwrap();
    assert!(answer.status == 200 && last.contains("\"code\":\"timeout\""), "{last}");
}

#[cfg(unix)]
#[test]
fn a_signal_finishes_what_runs() {
    let folder = talkative();
    let mut server = Server::start(folder.path(), &["--shutdown-seconds", "60", "--cache-tokens", "61000"]);
    let mut connection = server.connect();
    let body = json!({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true}).to_string();
    connection.write_all(&request("POST", "/v1/completions", &[JSON], &body)).unwrap();
    let mut lines = BufReader::new(connection).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("data: ")));
    server.signal("-TERM");
    let events: Vec<String> = lines.filter(|line| line.starts_with("data: ")).collect();
    assert_eq!(events.last().unwrap(), "data: [DONE]");
    assert!(events[events.len() - 2].contains("\"finish_reason\":\"length\""), "all of it came");
    assert!(server.child.wait().unwrap().success());
    assert!(server.log().contains("finishing what runs"));

    // What takes longer than the deadline learns so, and a second signal leaves at once.
    let mut server = Server::start(folder.path(), &["--shutdown-seconds", "0", "--cache-tokens", "61000"]);
    let mut connection = server.connect();
    connection.write_all(&request("POST", "/v1/completions", &[JSON], &long(true).to_string())).unwrap();
    let mut lines = BufReader::new(connection).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("data: ")));
    server.signal("-INT");
    assert!(lines.any(|line| line.contains("\"code\":\"stopping\"")));
    assert!(server.child.wait().unwrap().success());
    let mut server = Server::start(folder.path(), &["--shutdown-seconds", "100", "--cache-tokens", "61000"]);
    let mut connection = server.connect();
    connection.write_all(&request("POST", "/v1/completions", &[JSON], &long(true).to_string())).unwrap();
    let mut lines = BufReader::new(connection).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("data: ")));
    server.signal("-INT");
    while !server.log().contains("another signal leaves at once") {
        std::thread::sleep(Duration::from_millis(5));
    }
    server.signal("-INT");
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
}

#[test]
fn prompts_are_logged_only_where_asked() {
    let body = json!({"prompt": "hush hush", "max_tokens": 2});
    for (more, logged) in [(&[][..], false), (&["--log-prompts"], true)] {
        let server = Server::start(&checkpoint(), more);
        server.ok("/v1/completions", &body);
        let start = Instant::now();
        while !server.log().contains("/v1/completions 200: ") {
            assert!(start.elapsed() < Duration::from_secs(5), "{}", server.log());
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(server.log().contains("hush"), logged, "{}", server.log());
    }
}

#[test]
fn a_taken_port_and_arguments_that_make_no_sense_are_refused() {
    let server = Server::start(&checkpoint(), &[]);
    let port = server.address.rsplit(':').next().unwrap();
    let (code, said) = refused(&checkpoint(), &["--port", port]);
    assert!(code == Some(1) && said.contains(port) && said.contains("--port"), "{said}");
    let (code, said) = refused(&checkpoint(), &["--port", "0", "--api-key", ""]);
    assert!(code == Some(2) && said.contains("--api-key"), "{said}");
    for (option, value, remedy) in [
        ("--parallel", "0", "at least 1"),
        ("--max-choices", "0", "at least 1"),
        ("--max-tokens", "0", "at least 1"),
        ("--step-tokens", "0", "at least 1"),
        ("--cache-tokens", "0", "at least 1"),
        ("--cors-origin", "page.example", "https://example.org"),
        ("--cors-origin", "https://page.example/", "without a path"),
    ] {
        let (code, said) = refused(&checkpoint(), &["--port", "0", option, value]);
        assert!(code == Some(2) && said.contains(option) && said.contains(remedy), "{said}");
    }
}
