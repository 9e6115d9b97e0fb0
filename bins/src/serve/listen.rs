//! Connections: they are accepted, answered, and closed where there are too many or the server stops.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use futures_util::future::{Either, select};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use super::app::App;
use super::limits::{Busy, Entry, HEADER_BYTES, HEADER_TIME, HEADERS, Timed};
use super::routes;

/// How long it waits after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(10);

/// Accepts connections until the server stops.
pub(super) async fn accept(listener: TcpListener, app: Arc<App>, stop: watch::Receiver<bool>) {
    let router = routes::router(Arc::clone(&app));
    let mut stopped = stop.clone();
    let mut stopped = pin!(stopped.wait_for(|&stop| stop));
    for number in 0.. {
        let next = async {
            loop {
                match listener.accept().await {
                    Ok(accepted) => return (accepted, app.connections.enter(number).await),
                    // Where the process has no file left for it, one of the idle connections must make room.
                    Err(_) => {
                        app.connections.close_idle();
                        sleep(PAUSE).await;
                    }
                }
            }
        };
        match select(pin!(next), stopped.as_mut()).await {
            Either::Left((((stream, client), entry), _)) => {
                tokio::spawn(serve(stream, client, entry, Arc::clone(&app), router.clone(), stop.clone()));
            }
            Either::Right(_) => return,
        }
    }
}

/// Answers the requests of a connection.
async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    entry: Entry,
    app: Arc<App>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    // Tokens are small, and are not to wait for each other.
    let _ = stream.set_nodelay(true);
    let connection = Arc::clone(&entry.connection);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (app, router, busy) = (Arc::clone(&app), router.clone(), connection.busy());
        async move {
            let response = routes::answer(app, router, request.map(Body::new), client).await;
            Ok::<_, Infallible>(response.map(|body| Answered { body, _busy: busy }))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_headers(HEADERS).max_buf_size(HEADER_BYTES);
    let mut served =
        pin!(builder.serve_connection(TokioIo::new(Timed::new(stream, Arc::clone(&entry.connection))), service));
    let asked = async {
        match select(pin!(stop.wait_for(|&stop| stop)), pin!(entry.connection.closed())).await {
            Either::Left(_) => true,
            // A request may have come since it was chosen among the idle ones.
            Either::Right(_) => !entry.connection.is_idle(),
        }
    };
    let gracefully = match select(served.as_mut(), pin!(asked)).await {
        Either::Left(_) => return,
        Either::Right((gracefully, _)) => gracefully,
    };
    if gracefully {
        served.as_mut().graceful_shutdown();
        // What was told before a request came is not about what is idle now.
        let asked_again = async {
            loop {
                entry.connection.closed().await;
                if entry.connection.is_idle() {
                    return;
                }
            }
        };
        let _ = select(served, pin!(asked_again)).await;
    }
}

/// The body of an answer; its connection is busy until it is written and sent.
struct Answered {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
