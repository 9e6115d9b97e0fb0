//! The routes, and what is done for all of them: key, cross-origin headers, counts and the log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::routing::{MethodRouter, get, post};
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::app::{App, Prepared, Served};
use super::error::{ApiError, json, json_response, text_response};
use super::flight::Flight;
use super::openai::choices::Delta;
use super::openai::think::Place;
use super::page::{self, ICON, PAGE};
use super::{openapi, stream, tokens};
use crate::infer::Sampling;

type Answer = Response<Body>;
type Shared = State<Arc<App>>;

/// The beginnings under which every route is there: clients' base addresses differ.
pub(super) const PREFIXES: [&str; 4] = ["", "/v1", "/beta", "/beta/v1"];
const HEALTH: &str = "/health";
const COMPLETIONS: &str = "/completions";
const CHAT: &str = "/chat/completions";
const MODELS: &str = "/models";
const MODEL: &str = "/models/{*id}";
const TOKENIZE: &str = "/tokenize";
const DETOKENIZE: &str = "/detokenize";
const VERSION: &str = "/version";
const METRICS: &str = "/metrics";
const OPENAPI: &str = "/openapi.json";
const ROUTES: [&str; 9] = [HEALTH, COMPLETIONS, CHAT, MODELS, TOKENIZE, DETOKENIZE, VERSION, METRICS, OPENAPI];

/// The address of the client.
#[derive(Clone, Copy, Debug)]
struct Client(SocketAddr);

/// All routes, without what they begin with.
pub(super) fn table() -> [(&'static str, MethodRouter<Arc<App>>); 10] {
    [
        (HEALTH, get(health)),
        (VERSION, get(version)),
        (METRICS, get(metrics)),
        (OPENAPI, get(openapi)),
        (MODELS, get(models)),
        (MODEL, get(model)),
        (COMPLETIONS, post(completions)),
        (CHAT, post(chat)),
        (TOKENIZE, post(tokenize)),
        (DETOKENIZE, post(detokenize)),
    ]
}

/// The router of all routes.
pub(super) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new().route(PAGE, get(page::page)).route(ICON, get(page::icon));
    for prefix in PREFIXES {
        for (path, methods) in table() {
            router = router.route(&format!("{prefix}{path}"), methods);
        }
    }
    router.method_not_allowed_fallback(wrong_method).fallback(no_route).with_state(app)
}

/// The route of a path, without what it is called by, for counts.
fn route(path: &str) -> &'static str {
    if page::has(path) {
        return PAGE;
    }
    let rest = path.strip_prefix("/beta").unwrap_or(path);
    let rest = rest.strip_prefix("/v1").unwrap_or(rest);
    let known = ROUTES.into_iter().find(|&route| rest == route);
    known.or_else(|| rest.starts_with("/models/").then_some(MODELS)).unwrap_or("other")
}

/// Answers a request: everything around the routes themselves.
pub(super) async fn answer(app: Arc<App>, router: Router, mut request: Request, client: SocketAddr) -> Answer {
    request.extensions_mut().insert(Client(client));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let origin = request.headers().get(header::ORIGIN).filter(|origin| app.allows(origin)).cloned();
    let route = route(&path);
    let mut response = if origin.is_some() && method == Method::OPTIONS {
        preflight(request.headers())
    } else if route != HEALTH && route != PAGE && !app.knows(request.headers()) {
        ApiError::key().response()
    } else if !app.is_called(&request) {
        ApiError::host().response()
    } else {
        use hyper::service::Service;
        match hyper_util::service::TowerToHyperService::new(router).call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    };
    if let Some(origin) = origin {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    }
    let status = response.status();
    app.metrics.answered(route, status.as_u16());
    if status.is_client_error() || status.is_server_error() && route != HEALTH {
        super::log(format_args!("{client} {method} {path} {}", status.as_u16()));
    }
    response
}

fn preflight(asked: &HeaderMap) -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    let allowed = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let allowed = allowed.unwrap_or(HeaderValue::from_static("authorization, content-type"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

/// The name by which a server is called, without its port.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

impl App {
    /// Whether a request calls the server by a name that it may have. A page of another site can point its own name to
    /// this machine and then counts as the server's own, so without a key a server of this machine alone takes only the
    /// machine's names for itself.
    fn is_called(&self, request: &Request) -> bool {
        let own = ["localhost", "127.0.0.1", "::1", "[::1]"];
        if self.options.api_key.is_some() || !own.contains(&self.options.host.as_str()) {
            return true;
        }
        let given = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
        let given = request.uri().host().or(given.map(host));
        given.is_none_or(|name| own.iter().any(|own| own.eq_ignore_ascii_case(name)))
    }

    /// Whether pages of this origin may read answers.
    fn allows(&self, origin: &HeaderValue) -> bool {
        self.options.cors_origins.iter().any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
    }

    /// Whether a request has the key, if one is asked for.
    fn knows(&self, headers: &HeaderMap) -> bool {
        let Some(key) = &self.options.api_key else { return true };
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let given = given.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let given = given.map(|(_, given)| given.trim_ascii()).unwrap_or_default();
        // Digests have one length, so that the time says nothing of the key's.
        bool::from(Sha256::digest(given).ct_eq(&Sha256::digest(key.as_bytes())))
    }
}

/// Runs work that takes a processor, such as encoding long prompts, on its own thread.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let failed = |_| ApiError::server("the request cannot be read: the server failed");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

fn or_error(result: Result<Answer, ApiError>) -> Answer {
    result.unwrap_or_else(|error| error.response())
}

fn answered(value: &impl Serialize) -> Answer {
    json_response(StatusCode::OK, json(value))
}

async fn no_route(request: Request) -> Answer {
    ApiError::route(request.uri().path()).response()
}

async fn wrong_method(request: Request) -> Answer {
    ApiError::method(request.method().as_str(), request.uri().path()).response()
}

async fn health(State(app): Shared) -> Answer {
    let (status, word) = match (app.stopping.load(Ordering::SeqCst), app.model.get()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (_, None) => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        (_, Some(_)) => (StatusCode::OK, "ok"),
    };
    json_response(status, format!("{{\"status\":\"{word}\"}}"))
}

async fn version() -> Answer {
    json_response(StatusCode::OK, format!("{{\"version\":\"{}\"}}", env!("CARGO_PKG_VERSION")))
}

async fn openapi() -> Answer {
    json_response(StatusCode::OK, openapi::document())
}

async fn metrics(State(app): Shared) -> Answer {
    let text = app.metrics.text(&app.options.model, app.connections.len());
    text_response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

#[derive(Serialize)]
struct ModelJson<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    max_model_len: usize,
    /// Whether it has a chat template; without one chats are refused.
    chat_template: bool,
    /// Whether it has a tokenizer; without one it reads and writes token ids only.
    tokenizer: bool,
    defaults: DefaultsJson,
}

/// What a request that does not say is sampled with; `max_tokens` is that of a chat.
#[derive(Serialize)]
struct DefaultsJson {
    temperature: f64,
    top_p: f64,
    top_k: usize,
    min_p: f64,
    repetition_penalty: f64,
    max_tokens: usize,
}

impl Served {
    fn json(&self) -> ModelJson<'_> {
        let (created, max_model_len) = (self.created, self.bounds.context);
        let Sampling { temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens, .. } =
            self.bounds.defaults;
        let max_tokens = max_new_tokens.min(self.bounds.max_tokens);
        let defaults = DefaultsJson { temperature, top_p, top_k, min_p, repetition_penalty, max_tokens };
        let (chat_template, tokenizer) = (self.template.is_some(), self.tokenizer.is_some());
        let (id, object, owned_by) = (&self.bounds.model, "model", "fathom");
        ModelJson { id, object, created, owned_by, max_model_len, chat_template, tokenizer, defaults }
    }
}

async fn models(State(app): Shared) -> Answer {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: [ModelJson<'a>; 1],
    }
    or_error(app.served().map(|served| answered(&List { object: "list", data: [served.json()] })))
}

async fn model(State(app): Shared, path: Result<Path<String>, axum::extract::rejection::PathRejection>) -> Answer {
    or_error(app.served().and_then(|served| match path {
        Ok(Path(id)) if id == served.bounds.model => Ok(answered(&served.json())),
        Ok(Path(id)) => Err(ApiError::model(&id, &served.bounds.model)),
        Err(error) => Err(ApiError::field("model", error.body_text())),
    }))
}

async fn completions(State(app): Shared, request: Request) -> Answer {
    or_error(generate(app, request, Served::completion).await)
}

async fn chat(State(app): Shared, request: Request) -> Answer {
    or_error(generate(app, request, Served::chat).await)
}

/// Reads the body, prepares its request, and answers whole or in pieces.
async fn generate(
    app: Arc<App>,
    request: Request,
    prepare: fn(&Served, &[u8], bool) -> Result<Prepared, ApiError>,
) -> Result<Answer, ApiError> {
    let arrived = Instant::now();
    app.served()?;
    let (parts, body) = request.into_parts();
    let what = match parts.extensions.get::<Client>() {
        Some(Client(client)) => format!("{client} {}", parts.uri.path()),
        None => parts.uri.path().to_owned(),
    };
    let body = app.bodies.read(&parts.headers, body).await?;
    let mut prepared = {
        let app = Arc::clone(&app);
        on_thread(move || prepare(app.served()?, &body.bytes, app.options.log_prompts)).await?
    };
    if let Some(asked) = prepared.params.format.take() {
        let reasoning = prepared.place == Some(Place::Reasoning);
        let late = |_| ApiError::unavailable("timeout", "the form of the answer was not read in time", Some(1));
        let limit = std::time::Duration::from_secs(app.options.request_seconds);
        let turn = tokio::time::timeout(limit, app.served()?.languages.turn()).await.map_err(late)??;
        let app = Arc::clone(&app);
        let read = move || {
            // Held to the end, also where the client is gone before it.
            let _turn = turn;
            app.served()?.languages.constraint(&asked, reasoning)
        };
        prepared.constraint = Some(on_thread(read).await?);
    }
    let stream = prepared.params.stream;
    let flight = app.start(prepared, what, arrived)?;
    if stream { Ok(stream::response(flight)) } else { whole(flight).await }
}

/// The whole answer, when all of it is there.
async fn whole(mut flight: Flight) -> Result<Answer, ApiError> {
    let empty = |choice| Delta { choice, ..Delta::default() };
    let mut choices: Vec<Delta> = (0..flight.choices.len()).map(empty).collect();
    let mut deltas = flight.begin();
    loop {
        for delta in deltas {
            let Some(choice) = choices.get_mut(delta.choice) else { continue };
            choice.text.push_str(&delta.text);
            choice.reasoning.push_str(&delta.reasoning);
            choice.tokens.extend(delta.tokens);
            choice.finish = delta.finish.or(choice.finish);
        }
        if flight.choices.finished() {
            break;
        }
        deltas = match flight.news().await {
            Ok(deltas) => deltas,
            Err(error) => {
                flight.failed(&error);
                return Err(error);
            }
        };
    }
    let text = flight.shape().whole(&choices, flight.choices.usage());
    flight.complete();
    Ok(json_response(StatusCode::OK, text))
}

async fn tokenize(State(app): Shared, request: Request) -> Answer {
    or_error(tokens_of(app, request, tokens::tokenized).await)
}

async fn detokenize(State(app): Shared, request: Request) -> Answer {
    or_error(tokens_of(app, request, tokens::detokenized).await)
}

async fn tokens_of(
    app: Arc<App>,
    request: Request,
    work: fn(&Served, &[u8]) -> Result<String, ApiError>,
) -> Result<Answer, ApiError> {
    app.served()?;
    let (parts, body) = request.into_parts();
    let body = app.bodies.read(&parts.headers, body).await?;
    let text = on_thread(move || work(app.served()?, &body.bytes)).await?;
    Ok(json_response(StatusCode::OK, text))
}
