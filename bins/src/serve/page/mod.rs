//! The page at `/` for people: one document that loads nothing else, and the headers that hold a browser to that.
//!
//! Style and script are parts of the document, and its policy names both by their hashes. It holds no secret, so it
//! comes without a key, and asks the routes as any other client does.

use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use sha2::{Digest, Sha256};

/// The path of the page.
pub(super) const PAGE: &str = "/";
/// What browsers ask for unasked; the page brings its icon along.
pub(super) const ICON: &str = "/favicon.ico";

const DOCUMENT: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
/// One script, whose parts see each other's names.
const SCRIPT: &str = concat!(
    include_str!("stream.js"),
    include_str!("store.js"),
    include_str!("settings.js"),
    include_str!("turn.js"),
    include_str!("chat.js"),
    include_str!("status.js"),
);

/// The document and its policy.
struct Page {
    html: Bytes,
    policy: HeaderValue,
}

static READY: LazyLock<Page> = LazyLock::new(|| {
    // Browsers hash the text that they read, and they read any line's end as one line feed.
    let [document, style, script] = [DOCUMENT, STYLE, SCRIPT].map(|text| text.replace("\r\n", "\n"));
    let html = document.replacen("{{style}}", &style, 1).replacen("{{script}}", &script, 1);
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        source(&script),
        source(&style)
    );
    let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    Page { html: html.into(), policy }
});

/// The name by which a policy allows this text.
fn source(text: &str) -> String {
    format!("sha256-{}", base64(&Sha256::digest(text.as_bytes())))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |i: usize| three.get(i).map_or(0, |&byte| u32::from(byte));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}

/// Whether a path is the page's.
pub(super) fn has(path: &str) -> bool {
    path == PAGE || path == ICON
}

/// The page.
pub(super) async fn page() -> Response<Body> {
    let mut response = Response::new(Body::from(READY.html.clone()));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        // Another version of the server has another page.
        (header::CACHE_CONTROL, "no-cache"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // For browsers that do not know `frame-ancestors`.
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, READY.policy.clone());
    response
}

/// No icon.
pub(super) async fn icon() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\u{bf}?", "wr8/")];
        for (text, want) in cases {
            assert_eq!(base64(text.as_bytes()), want, "{text}");
        }
    }

    /// A text that ends its own element, or holds the other's place, would cut the document.
    #[test]
    fn style_and_script_fit_into_the_document() {
        for (text, end) in [(STYLE, "</style"), (SCRIPT, "</script")] {
            let small = text.to_lowercase();
            assert!(!small.contains(end) && !small.contains("<!--") && !small.contains("{{"), "{end}");
        }
        for place in ["<style>{{style}}</style>", "<script type=\"module\">{{script}}</script>"] {
            assert_eq!(DOCUMENT.matches(place).count(), 1, "{place}");
        }
        assert_eq!(DOCUMENT.matches("{{").count(), 2);
    }
}
