//! Answers in pieces: server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Response, header};
use futures_util::stream;
use tokio::time::timeout;

use super::error::ApiError;
use super::flight::Flight;

/// How long nothing may come before a comment says that the server is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Writes an event.
fn event(out: &mut String, data: &str) {
    out.push_str("data: ");
    out.push_str(data);
    out.push_str("\n\n");
}

/// What a stream has written.
struct Writer {
    flight: Flight,
    /// Whether something was written of the answer.
    begun: bool,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    Middle,
    Over,
}

impl Writer {
    /// The next part of the body; `None` at its end.
    async fn next(&mut self) -> Option<String> {
        loop {
            let deltas = match self.stage {
                Stage::Over => return None,
                Stage::Begin => {
                    self.stage = Stage::Middle;
                    Ok(self.flight.begin())
                }
                Stage::Middle => match timeout(KEEP_ALIVE, self.flight.news()).await {
                    Err(_) => return Some(": keep-alive\n\n".into()),
                    Ok(deltas) => deltas,
                },
            };
            let mut out = String::new();
            match deltas {
                Err(error) => self.fail(&mut out, &error),
                Ok(deltas) => {
                    let shape = self.flight.shape();
                    if !deltas.is_empty() && !std::mem::replace(&mut self.begun, true) {
                        shape.opening(self.flight.choices.len()).iter().for_each(|piece| event(&mut out, piece));
                    }
                    for delta in deltas {
                        shape.pieces(&delta).iter().for_each(|piece| event(&mut out, piece));
                    }
                    if self.flight.choices.finished() {
                        self.end(&mut out);
                    }
                }
            }
            if !out.is_empty() {
                return Some(out);
            }
        }
    }

    fn end(&mut self, out: &mut String) {
        let shape = self.flight.shape();
        if shape.usage {
            event(out, &shape.usage_piece(self.flight.choices.usage()));
        }
        event(out, "[DONE]");
        self.stage = Stage::Over;
        self.flight.complete();
    }

    /// An error after the first byte is an event, and the stream ends.
    fn fail(&mut self, out: &mut String, error: &ApiError) {
        event(out, &error.json());
        self.stage = Stage::Over;
        self.flight.failed(error);
    }
}

/// An answer in pieces.
pub(super) fn response(flight: Flight) -> Response<Body> {
    let writer = Writer { begun: false, flight, stage: Stage::Begin };
    let parts = stream::unfold(writer, |mut writer| async {
        let part = writer.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(part)), writer))
    });
    let mut response = Response::new(Body::from_stream(parts));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies such as nginx would hold events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
