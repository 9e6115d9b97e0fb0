//! Limits on what clients take: connections, bodies, and time.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::error::ApiError;

/// Bytes of the headers of a request, at most.
pub(super) const HEADER_BYTES: usize = 16 << 10;
/// Headers of a request, at most.
pub(super) const HEADERS: usize = 100;
/// How long a request's headers may take to arrive, and how long a connection may be idle.
pub(super) const HEADER_TIME: Duration = Duration::from_secs(10);
/// How long a request's body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How long a client may take nothing of what is written to it.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Bytes of all bodies that are read at a time, at most.
const BODIES: usize = 256 << 20;
/// The unit in which bodies are counted.
const UNIT: usize = 1 << 10;

/// The open connections. Where there are as many as may be, the one that has been idle longest makes room.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    changed: Notify,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Connection {
    busy: AtomicBool,
    closed: Notify,
}

/// An entry of the open connections, for as long as it lives.
pub(super) struct Entry {
    connections: Arc<Connections>,
    number: u64,
    /// The connection.
    pub connection: Arc<Connection>,
}

impl Connections {
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), open: Mutex::default(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Asks the connection that has been idle longest to close; false if all are busy.
    pub fn close_idle(&self) -> bool {
        let mut open = self.lock();
        let idle = open.iter().find(|(_, connection)| !connection.busy.load(Ordering::SeqCst)).map(|(&n, _)| n);
        let Some(connection) = idle.and_then(|number| open.remove(&number)) else { return false };
        connection.closed.notify_one();
        true
    }

    /// Waits until there is room for another connection, and notes it.
    pub async fn enter(self: &Arc<Self>, number: u64) -> Entry {
        loop {
            // Registered before the look, so that no change is missed.
            let changed = self.changed.notified();
            if self.len() < self.most || self.close_idle() {
                let connection = Arc::new(Connection { busy: AtomicBool::new(false), closed: Notify::new() });
                self.lock().insert(number, Arc::clone(&connection));
                return Entry { connections: Arc::clone(self), number, connection };
            }
            changed.await;
        }
    }

    /// Waits until no connection is open.
    pub async fn wait_for_none(&self) {
        loop {
            let changed = self.changed.notified();
            if self.len() == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.number);
        self.connections.changed.notify_waiters();
        self.connections.changed.notify_one();
    }
}

impl Connection {
    /// Waits until it is asked to close.
    pub async fn closed(&self) {
        self.closed.notified().await;
    }

    /// Marks it as busy until the guard is dropped.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.busy.store(true, Ordering::SeqCst);
        Busy(Arc::clone(self))
    }
}

/// A connection that answers a request.
pub(super) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::SeqCst);
    }
}

/// A stream whose writes fail where the other side takes nothing for some time.
pub(super) struct Timed {
    stream: TcpStream,
    limit: Duration,
    /// When a write that waits is given up.
    until: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, limit: WRITE_TIME, until: None }
    }

    fn limited<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.until = None;
            return result;
        }
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        match until.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Timed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.limited(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.limited(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Reads bodies under a limit on each and on all together.
#[derive(Debug)]
pub(super) struct Bodies {
    most: usize,
    room: Arc<Semaphore>,
}

/// A body in memory, and its share of the room for all.
pub(super) struct Read {
    /// The bytes.
    pub bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Bodies {
    /// Bodies of at most `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { most, room: Arc::new(Semaphore::new(BODIES.max(most).div_ceil(UNIT))) }
    }

    /// Reads a JSON body.
    ///
    /// # Errors
    /// A body that is not said to be JSON, is too large or too slow; too many at a time.
    pub async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Read, ApiError> {
        if !is_json(headers) {
            return Err(ApiError::media_type());
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > self.most) {
            return Err(ApiError::too_large(self.most));
        }
        let units = u32::try_from(length.unwrap_or(self.most).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let busy = |_| ApiError::unavailable("overloaded", "too many large requests at a time: try again", Some(1));
        let room = Arc::clone(&self.room).try_acquire_many_owned(units).map_err(busy)?;
        match timeout(BODY_TIME, Limited::new(body, self.most).collect()).await {
            Err(_) => Err(ApiError::slow_body()),
            Ok(Ok(collected)) => Ok(Read { bytes: collected.to_bytes(), _room: room }),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(ApiError::too_large(self.most)),
            Ok(Err(error)) => Err(ApiError::request(format!("the body cannot be read: {error}"))),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json")
}

/// The time at which a request is given up that came at `arrived`.
pub(super) fn deadline(arrived: std::time::Instant, limit: Duration) -> std::time::Instant {
    (Instant::from_std(arrived) + limit).into_std()
}
