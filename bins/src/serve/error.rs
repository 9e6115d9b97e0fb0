//! Refused and failed requests in the form of OpenAI's errors.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

/// An error that a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The class of the error: `invalid_request_error`, `rate_limit_error` and so on.
    pub kind: &'static str,
    /// A word for programs, where the status alone does not say it.
    pub code: Option<&'static str>,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// Problem and remedy.
    pub message: String,
    /// Seconds after which another attempt makes sense.
    pub retry_after: Option<u64>,
}

/// The class of errors that are the client's.
const INVALID: &str = "invalid_request_error";

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into(), retry_after: None }
    }

    /// A request that is not understood as a whole.
    pub fn request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    /// A field of the request that is wrong. The message begins with its name.
    pub fn field(name: &str, problem: impl std::fmt::Display) -> Self {
        Self { param: Some(name.into()), ..Self::request(format!("{name}: {problem}")) }
    }

    /// A prompt that is longer than what the model or its cache holds.
    pub fn context(name: &str, problem: impl std::fmt::Display) -> Self {
        Self { code: Some("context_length_exceeded"), ..Self::field(name, problem) }
    }

    /// A missing or wrong key.
    pub fn key() -> Self {
        let message = "the API key is missing or wrong: send the header \"Authorization: Bearer KEY\"";
        let code = Some("invalid_api_key");
        Self { code, ..Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message) }
    }

    /// A name that the server does not have.
    pub fn host() -> Self {
        let message = "the header Host must name localhost, 127.0.0.1 or [::1]: have a proxy send that, or start the \
                       server with --api-key";
        Self { code: Some("wrong_host"), ..Self::new(StatusCode::FORBIDDEN, INVALID, message) }
    }

    /// A route that is not there.
    pub fn route(path: &str) -> Self {
        let message = format!("there is no route {path}: see /v1/models, /v1/completions, /v1/chat/completions");
        Self { code: Some("route_not_found"), ..Self::new(StatusCode::NOT_FOUND, INVALID, message) }
    }

    /// A route that does not take this method.
    pub fn method(method: &str, path: &str) -> Self {
        let message = format!("{path} does not take {method}");
        Self { code: Some("method_not_allowed"), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, message) }
    }

    /// A model that is not served.
    pub fn model(asked: &str, served: &str) -> Self {
        let message = format!("model: there is no model {asked:?}; this server has {served:?}");
        let (code, param) = (Some("model_not_found"), Some("model".into()));
        Self { code, param, ..Self::new(StatusCode::NOT_FOUND, INVALID, message) }
    }

    /// A body that is larger than what the server takes.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the body has more than {limit} bytes: shorten it, or start the server with --max-body");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, message)
    }

    /// A body that is not said to be JSON.
    pub fn media_type() -> Self {
        let message = "the body must be JSON: send the header \"Content-Type: application/json\"";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, message)
    }

    /// A body that did not arrive in time.
    pub fn slow_body() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, "the body did not arrive in time: send it at once")
    }

    /// More requests than the queue takes.
    pub fn busy(retry_after: u64) -> Self {
        let message = format!("the queue is full: try again in {retry_after} s");
        let (code, retry_after) = (Some("queue_full"), Some(retry_after));
        Self { code, retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message) }
    }

    /// A server that cannot answer now.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after: Option<u64>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", message);
        Self { code: Some(code), retry_after, ..error }
    }

    /// A failure of the server.
    pub fn server(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// The error as JSON text.
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Outer<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            r#type: &'a str,
            param: Option<&'a str>,
            code: Option<&'a str>,
        }
        let param = self.param.as_deref();
        json(&Outer { error: Inner { message: &self.message, r#type: self.kind, param, code: self.code } })
    }

    /// The error as a response.
    pub fn response(&self) -> Response<Body> {
        let mut response = json_response(self.status, self.json());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A value as JSON text. Nothing that the server writes fails: its maps have strings as keys.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|e| format!("{{\"error\":{{\"message\":\"{e}\"}}}}"))
}

/// A response of JSON text.
pub(super) fn json_response(status: StatusCode, text: String) -> Response<Body> {
    text_response(status, "application/json", text)
}

/// A response of any text.
pub(super) fn text_response(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // A browser that is led to an answer must not take it for a page.
    let sniff = HeaderName::from_static("x-content-type-options");
    response.headers_mut().insert(sniff, HeaderValue::from_static("nosniff"));
    response
}
