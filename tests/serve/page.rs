//! The page at `/`: it loads without a key, loads nothing else, and its policy allows its own parts only.

use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::client::{Answer, Server, chatty, checkpoint};

/// The text between two marks, of which there must be one pair.
#[track_caller]
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    assert_eq!((text.matches(begin).count(), text.matches(end).count()), (1, 1), "{begin} {end}");
    text.split_once(begin).unwrap().1.split_once(end).unwrap().0
}

/// The bytes that base64 stands for.
fn decoded(text: &str) -> Vec<u8> {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = text.trim_end_matches('=').chars().map(|c| digits.find(c).expect("a digit of base64")).fold(
        String::new(),
        |mut bits, digit| {
            bits += &format!("{digit:06b}");
            bits
        },
    );
    bits.truncate(bits.len() / 8 * 8);
    bits.as_bytes().chunks(8).map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap()).collect()
}

/// The values of a directive of a policy.
fn directive<'a>(policy: &'a str, name: &str) -> Vec<&'a str> {
    let mut all = policy.split(';').map(|directive| directive.split_whitespace().collect::<Vec<_>>());
    let found = all.find(|words| words.first() == Some(&name)).unwrap_or_else(|| panic!("{name} in {policy}"));
    found[1..].to_vec()
}

#[test]
fn the_page_is_whole_and_its_policy_fits() {
    let server = Server::start(&checkpoint(), &[]);
    let page = server.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    let policy = page.header("content-security-policy");
    for (name, values) in [
        ("default-src", ["'none'"]),
        ("connect-src", ["'self'"]),
        ("frame-ancestors", ["'none'"]),
        ("base-uri", ["'none'"]),
        ("form-action", ["'none'"]),
    ] {
        assert_eq!(directive(policy, name), values, "{policy}");
    }
    // Style and script run because their hashes are named, and nothing else does.
    for (name, begin, end) in
        [("style-src", "<style>", "</style>"), ("script-src", "<script type=\"module\">", "</script>")]
    {
        let text = between(&page.body, begin, end);
        assert!(text.len() > 1000, "{begin} holds its text");
        let [value] = directive(policy, name)[..] else { panic!("{policy}") };
        let hash = decoded(value.strip_prefix("'sha256-").and_then(|value| value.strip_suffix('\'')).unwrap());
        assert_eq!(hash, Sha256::digest(text.as_bytes()).to_vec(), "{name}");
    }
    for outside in ["http:", "https:", "src=", "@import", "url(", "\"//", "'//", "style=", " onclick", "innerHTML"] {
        // The name of a namespace is written with escapes: nothing is loaded from there.
        assert!(!page.body.contains(outside), "{outside}");
    }
    assert_eq!(page.body.matches("href=").count(), page.body.matches("href=\"data:").count());
}

#[test]
fn the_page_takes_get_and_head_by_the_server_s_names() {
    let server = Server::start(&checkpoint(), &[]);
    let page = server.get("/");
    let head = server.send("HEAD", "/", &[], "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for name in ["content-length", "content-type", "content-security-policy"] {
        assert_eq!(head.header(name), page.header(name), "{name}");
    }
    assert_eq!(head.header("content-length"), page.body.len().to_string());
    assert_eq!(server.get("/?a=b").status, 200);
    for method in ["POST", "PUT", "DELETE"] {
        let answer = server.send(method, "/", &[], "");
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (405, &json!("method_not_allowed")), "{method}");
    }
    for path in ["/v1/", "/beta/", "/index.html", "//"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    // A page of another site may point its own name to this machine.
    let answer = server.raw(b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n");
    let answer = Answer::parse(&answer);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (403, &json!("wrong_host")));
}

#[test]
fn the_page_needs_no_key_and_its_icon_is_no_error() {
    let server = Server::start(&checkpoint(), &["--api-key", "secret"]);
    assert_eq!(server.get("/").status, 200);
    assert_eq!(server.send("HEAD", "/", &[("authorization", "Bearer wrong")], "").status, 200);
    let icon = server.get("/favicon.ico");
    assert_eq!((icon.status, icon.body.as_str()), (204, ""));
    for path in ["/v1/", "/beta/", "/v1/favicon.ico", "//", "/index.html"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    std::thread::sleep(Duration::from_millis(50));
    let log = server.log();
    assert!(!log.contains("/favicon.ico 2") && !log.contains("GET / "), "{log}");
    assert!(log.contains("GET /index.html 401"), "{log}");
    let metrics = server.send("GET", "/metrics", &[("authorization", "Bearer secret")], "").body;
    assert!(metrics.contains("fathom_http_requests_total{route=\"/\",status=\"200\"} 2"), "{metrics}");
}

/// The page chooses between a chat and a completion by what the model has, and shows how it is sampled.
#[test]
fn the_model_says_whether_it_chats_and_how_it_is_sampled() {
    let folder = chatty();
    let recommended = r#"{"temperature": 0.6, "top_k": 40, "max_new_tokens": 99}"#;
    std::fs::write(folder.path().join("generation_config.json"), recommended).unwrap();
    for (folder, chats, temperature, top_k, most) in
        [(checkpoint(), false, 1.0, 0, 500), (folder.path().to_owned(), true, 0.6, 40, 99)]
    {
        let server = Server::start(&folder, &["--max-tokens", "500"]);
        let model = &server.get("/v1/models").json()["data"][0];
        assert_eq!((&model["chat_template"], &model["tokenizer"]), (&json!(chats), &json!(true)));
        let defaults = json!({"temperature": temperature, "top_p": 1.0, "top_k": top_k, "min_p": 0.0,
            "repetition_penalty": 1.0, "max_tokens": most});
        assert_eq!(model["defaults"], defaults);
    }
}
