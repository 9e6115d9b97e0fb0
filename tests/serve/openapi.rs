//! The server's own description of its routes is true.

use serde_json::Value;

use crate::client::{Server, checkpoint};

#[test]
fn methods_and_media_types_are_the_described_ones() {
    let server = Server::start(&checkpoint(), &["--api-key", "k"]);
    assert_eq!(server.get("/openapi.json").status, 401, "it is asked for like every other route");
    let key = ("authorization", "Bearer k");
    for prefix in ["", "/v1", "/beta", "/beta/v1"] {
        let answer = server.send("GET", &format!("{prefix}/openapi.json"), &[key], "");
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        let document: Value = answer.json();
        let everywhere = |path: &Value| path.get("servers").is_none();
        for (path, described) in document["paths"].as_object().unwrap() {
            if !prefix.is_empty() && !everywhere(described) {
                assert_eq!(server.send("GET", &format!("{prefix}{path}"), &[key], "").status, 404);
                continue;
            }
            let path = format!("{prefix}{}", path.replace("{id}", "small"));
            for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"] {
                let answer = server.send(method, &path, &[key, ("content-type", "application/json")], "{}");
                let Some(operation) = described.get(method.to_lowercase()) else {
                    assert_eq!((answer.status, &answer.json()["error"]["code"]), (405, &"method_not_allowed".into()));
                    let allowed: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
                    let is = |name: &&&str| described.get(name.to_lowercase()).is_some();
                    assert_eq!(
                        allowed.iter().filter(is).count(),
                        described.as_object().unwrap().len() - usize::from(!everywhere(described)),
                        "{allowed:?}"
                    );
                    continue;
                };
                let mut response = &operation["responses"][answer.status.to_string()];
                if let Some(name) = response["$ref"].as_str() {
                    response = document.pointer(name.strip_prefix('#').unwrap()).unwrap();
                }
                let kind = answer.header("content-type").split(';').next().unwrap();
                let content = response.get("content").and_then(|content| content.get(kind));
                assert!(
                    response.is_object() && content.is_some() != kind.is_empty(),
                    "{method} {path} {}",
                    answer.status
                );
            }
        }
    }
}
