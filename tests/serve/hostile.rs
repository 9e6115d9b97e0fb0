//! Load and hostile clients: none ends the server, and the others' answers stay what they are alone.

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Server, chatty, checkpoint, request};

fn text_of(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect()
}

#[test]
fn sixty_four_streams_are_each_what_they_are_alone() {
    let server = Server::start(&checkpoint(), &["--step-tokens", "64"]);
    let body = |i: usize| {
        let prompt = ["The king", "My lord, ", "First Citizen:\nWe", "O"][i % 4].repeat(1 + i % 7);
        json!({"prompt": prompt, "seed": i, "max_tokens": 10 + i % 30, "stream": true, "top_p": 0.95, "logprobs": 1})
    };
    let alone: Vec<String> = (0..64).map(|i| text_of(&server.events("/v1/completions", &body(i)))).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let streams: Vec<_> = (0..64)
            .map(|i| {
                scope.spawn({
                    let server = &server;
                    move || text_of(&server.events("/v1/completions", &body(i)))
                })
            })
            .collect();
        streams.into_iter().map(|stream| stream.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
    assert!(alone.iter().all(|text| !text.is_empty()));
}

#[test]
fn hostile_bodies_are_refused() {
    let folder = chatty();
    let server = Server::start(folder.path(), &[]);
    let deep = |open: &str, close: &str| format!("{{\"prompt\": {}1{}}}", open.repeat(100_000), close.repeat(100_000));
    let nested = format!(
        "{{\"messages\": [{{\"role\": \"user\", \"content\": \"a\", \"x\": {}1{}}}]}}",
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    let keys: String = (0..100_000).map(|i| format!("\"k{i}\": {i}, ")).collect();
    for (path, body) in [
        ("/v1/completions", "".to_owned()),
        ("/v1/completions", "\0\0\0".into()),
        ("/v1/completions", "{\"prompt\": \"a".into()),
        ("/v1/completions", "{\"prompt\": \"\\ud800\"}".into()),
        ("/v1/completions", deep("[", "]")),
        ("/v1/completions", deep("{\"a\":", "}")),
        ("/v1/chat/completions", nested),
        ("/v1/completions", format!("{{{keys}\"x\": 1}}")),
        ("/v1/completions", "{\"prompt\": \"a\", \"max_tokens\": 1e400}".into()),
        ("/v1/completions", "{\"prompt\": \"a\", \"max_tokens\": 99999999999999999999999999}".into()),
        ("/v1/completions", "{\"prompt\": \"a\", \"n\": 4294967297}".into()),
        ("/v1/completions", "{\"prompt\": \"a\", \"seed\": 1.5}".into()),
        ("/v1/completions", "{\"prompt\": [1, 2, 4294967296]}".into()),
        ("/v1/completions", "{\"prompt\": {\"a\": 1}}".into()),
        ("/v1/completions", "{\"prompt\": \"a\", \"logit_bias\": {\"1\": 1e39}}".into()),
        ("/v1/completions", format!("{{\"prompt\": \"a\", \"stop\": [{}\"a\"]}}", "\"a\",".repeat(100_000))),
        ("/v1/chat/completions", "{\"messages\": [[[]]]}".into()),
        ("/v1/chat/completions", "{\"messages\": {\"role\": \"user\"}}".into()),
        ("/tokenize", "{\"prompt\": 3}".into()),
        ("/detokenize", "{\"tokens\": [-1]}".into()),
    ] {
        let answer = server.send("POST", path, &[("content-type", "application/json")], &body);
        let start: String = body.chars().take(80).collect();
        assert_eq!(answer.status, 400, "{path} {start}\n{}", answer.body);
        assert!(answer.json()["error"]["message"].is_string());
    }
    // NUL and other control characters are text like any other.
    server.ok("/v1/completions", &json!({"prompt": "a\u{0}\u{7}\u{202e}", "max_tokens": 1}));
    server.ok("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "\u{0}"}], "max_tokens": 1}));
}

#[test]
fn broken_requests_end_their_own_connection_only() {
    let server = Server::start(&checkpoint(), &["--max-connections", "40"]);
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    for bytes in [
        b"\x16\x03\x01\x02\x00".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        vec![b'x'; 100_000],
        format!("{head}x: {}\r\n\r\n", "y".repeat(100_000)).into_bytes(),
        format!("{head}{}\r\n", "a: b\r\n".repeat(1000)).into_bytes(),
        format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef").into_bytes(),
        format!("{head}content-length: -1\r\n\r\n").into_bytes(),
        format!("{head}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n").into_bytes(),
        format!("{head}content-length: 99999999999\r\n\r\n{{}}").into_bytes(),
    ] {
        let answer = server.raw(&bytes);
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    // Chunks without end are cut at the limit of a body.
    let mut connection = server.connect();
    connection.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    while connection.write_all(chunk.as_bytes()).is_ok() {}
    // A half-closed connection is one whose client is gone, or it gets its answer.
    let mut connection = server.connect();
    let body = json!({"prompt": "a", "max_tokens": 3}).to_string();
    connection.write_all(&request("POST", "/v1/completions", &[("content-type", "application/json")], &body)).unwrap();
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = connection.read_to_end(&mut Vec::new());
    // More idle and slow connections than there may be: others are answered.
    let idle: Vec<_> = (0..120)
        .map(|i| {
            let mut connection = server.connect();
            if i % 2 == 0 {
                let _ = connection.write_all(b"POST /v1/comp");
            }
            connection
        })
        .collect();
    server.ok("/v1/completions", &json!({"prompt": "a", "max_tokens": 1}));
    assert!(server.metric("fathom_connections") <= 40.0);
    drop(idle);
}

/// A client that takes a byte now and then holds nobody up, and its own answer comes whole.
#[test]
fn a_slow_reader_holds_nobody_up() {
    let server = Server::start(&checkpoint(), &["--parallel", "1"]);
    let body = json!({"prompt": "a", "max_tokens": 900, "ignore_eos": true, "stream": true, "logprobs": 5}).to_string();
    let mut slow = server.connect();
    slow.write_all(&request("POST", "/v1/completions", &[("content-type", "application/json")], &body)).unwrap();
    let mut read = Vec::new();
    for _ in 0..20 {
        let mut byte = [0];
        slow.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
        std::thread::sleep(Duration::from_millis(5));
    }
    server.ok("/v1/completions", &json!({"prompt": "b", "max_tokens": 5}));
    slow.read_to_end(&mut read).unwrap();
    assert!(crate::client::Answer::parse(&read).body.ends_with("data: [DONE]\n\n"));
}

/// An answer that is larger than what lies on the way to its client is not cut where others need the connection.
#[test]
fn an_answer_that_is_not_sent_yet_keeps_its_connection() {
    let server = Server::start(&checkpoint(), &["--max-connections", "1", "--max-body", "8000000"]);
    let body = json!({"prompt": "~|".repeat(2_000_000), "add_special_tokens": false}).to_string();
    // Connections that go on make room, too, once everything is sent.
    let mut kept = server.connect();
    kept.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    kept.read_exact(&mut [0; 20]).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(server.get("/health").status, 200);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    let mut reader = server.connect();
    reader.write_all(&request("POST", "/tokenize", &[("content-type", "application/json")], &body)).unwrap();
    let mut read = vec![0; 1000];
    reader.read_exact(&mut read).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| server.get("/health").status);
        std::thread::sleep(Duration::from_millis(300));
        reader.read_to_end(&mut read).unwrap();
        let tokens = crate::client::Answer::parse(&read).json();
        assert_eq!(tokens["count"].as_u64().unwrap() as usize, tokens["tokens"].as_array().unwrap().len());
        assert!(read.len() > 8_000_000, "{}", read.len());
        assert_eq!(other.join().unwrap(), 200, "then it makes room");
    });
}

/// Bodies that are announced and do not come leave the room to others.
#[test]
fn announcements_take_no_room() {
    let server = Server::start(&checkpoint(), &[]);
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let waiting: Vec<_> = (0..300)
        .map(|i| {
            let mut connection = server.connect();
            let length = if i % 2 == 0 { "content-length: 2097152" } else { "transfer-encoding: chunked" };
            connection.write_all(format!("{head}{length}\r\n\r\n").as_bytes()).unwrap();
            connection
        })
        .collect();
    server.ok("/v1/completions", &json!({"prompt": "a", "max_tokens": 1}));
    drop(waiting);
}
