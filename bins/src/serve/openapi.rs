//! The description of all routes for programs: an OpenAPI document.

/// The document, with the version of this server.
pub(super) fn document() -> String {
    include_str!("openapi.json").replacen("\"VERSION\"", concat!("\"", env!("CARGO_PKG_VERSION"), "\""), 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::serve::openai::chat::ChatRequest;
    use crate::serve::openai::completions::CompletionRequest;
    use crate::serve::openai::fields::taken;
    use crate::serve::openai::params::Bounds;
    use crate::serve::{page, routes, tokens};

    fn parsed() -> Value {
        serde_json::from_str(&document()).unwrap()
    }

    /// What a reference leads to.
    fn target<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(name) => document.pointer(name.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("no {name}")),
            None => schema,
        }
    }

    /// The names of an object's fields, over all parts of its schema.
    fn names(document: &Value, schema: &Value, into: &mut BTreeSet<String>) {
        let schema = target(document, schema);
        into.extend(schema["properties"].as_object().into_iter().flat_map(|own| own.keys().cloned()));
        for part in ["allOf", "anyOf"].iter().filter_map(|kind| schema[kind].as_array()).flatten() {
            names(document, part, into);
        }
    }

    fn of_request(document: &Value, path: &str) -> BTreeSet<String> {
        let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        let mut found = BTreeSet::new();
        names(document, schema, &mut found);
        found
    }

    #[test]
    fn it_has_every_route_and_no_other() {
        let document = parsed();
        assert_eq!(
            (&document["openapi"], &document["info"]["version"]),
            (&"3.1.0".into(), &env!("CARGO_PKG_VERSION").into())
        );
        let described: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
        let routed = routes::table().into_iter().map(|(path, _)| path.replace("{*", "{"));
        let routed = routed.chain([page::PAGE, page::ICON].map(str::to_owned));
        assert_eq!(described, routed.collect::<BTreeSet<_>>());
        let servers: Vec<&str> =
            document["servers"].as_array().unwrap().iter().map(|server| server["url"].as_str().unwrap()).collect();
        for prefix in routes::PREFIXES {
            assert!(servers.contains(&if prefix.is_empty() { "/" } else { prefix }), "{prefix}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_part_is_used() {
        fn references(value: &Value, into: &mut BTreeSet<String>) {
            match value {
                Value::Object(entries) => {
                    into.extend(entries.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    entries.values().for_each(|value| references(value, into));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, into)),
                _ => {}
            }
        }
        let document = parsed();
        let mut used = BTreeSet::new();
        references(&document, &mut used);
        let parts = ["schemas", "responses"].into_iter().flat_map(|kind| {
            let names = document["components"][kind].as_object().unwrap().keys();
            names.map(move |name| format!("#/components/{kind}/{name}"))
        });
        assert_eq!(used, parts.collect::<BTreeSet<_>>());
    }

    #[test]
    fn it_has_every_field_that_is_read_and_no_other() {
        let document = parsed();
        let bounds = Bounds::tiny();
        let completion = taken(|| CompletionRequest::parse(b"{\"prompt\": \"a\"}", &bounds).unwrap());
        assert_eq!(completion, of_request(&document, "/completions"));
        let chat = br#"{"messages": [{"role": "user", "content": "a"}]}"#;
        let mut chat = taken(|| ChatRequest::parse(chat, &bounds).unwrap());
        assert_eq!(chat, of_request(&document, "/chat/completions"));
        chat.extend(taken(|| tokens::Text::parse(b"{}").unwrap()));
        assert_eq!(chat, of_request(&document, "/tokenize"));
        assert_eq!(taken(|| tokens::tokens_field(b"{\"tokens\": []}").unwrap()), of_request(&document, "/detokenize"));
    }
}
