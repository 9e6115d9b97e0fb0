//! Limits on what clients take: connections, bodies, and time.

use std::collections::BTreeMap;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
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
/// How often it is looked whether a client is gone that sent more than is read of it.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of all bodies that are read at a time, at most.
const BODIES: usize = 256 << 20;
/// The unit in which bodies are counted.
const UNIT: usize = 1 << 10;

/// The open connections. Where there are as many as may be, the oldest idle one makes room.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    changed: Arc<Notify>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Connection {
    /// [`IDLE`], [`BUSY`], [`UNSENT`] or [`ASKED`].
    state: AtomicU8,
    closed: Notify,
    /// Told when it becomes idle, or no longer will close though it was asked to.
    changed: Arc<Notify>,
}

/// A connection without a request, or with one whose head is not complete.
const IDLE: u8 = 0;
/// A connection whose request is read or answered.
const BUSY: u8 = 1;
/// A connection whose answer is complete, but not sent to its end.
const UNSENT: u8 = 2;
/// An idle connection that was asked to close.
const ASKED: u8 = 3;

/// An entry of the open connections, for as long as it lives.
pub(super) struct Entry {
    connections: Arc<Connections>,
    number: u64,
    /// The connection.
    pub connection: Arc<Connection>,
}

impl Connections {
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), open: Mutex::default(), changed: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Asks the oldest idle connection to close, unless one is about to.
    pub fn close_idle(&self) {
        Self::ask_oldest(&self.lock());
    }

    fn ask_oldest(open: &BTreeMap<u64, Arc<Connection>>) {
        if open.values().any(|connection| connection.is(ASKED)) {
            return;
        }
        if let Some(connection) = open.values().find(|connection| connection.ask()) {
            connection.closed.notify_one();
        }
    }

    /// Waits until there is room for another connection, and notes it.
    pub async fn enter(self: &Arc<Self>, number: u64) -> Entry {
        loop {
            // Registered before the look, so that no change is missed.
            let changed = self.changed.notified();
            {
                let mut open = self.lock();
                if open.len() < self.most {
                    let (state, closed, changed) = (AtomicU8::new(IDLE), Notify::new(), Arc::clone(&self.changed));
                    let connection = Arc::new(Connection { state, closed, changed });
                    open.insert(number, Arc::clone(&connection));
                    return Entry { connections: Arc::clone(self), number, connection };
                }
                // It counts until it is closed: a request may be on its way.
                Self::ask_oldest(&open);
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

    /// Marks it as busy until the guard is dropped and everything is sent.
    pub fn busy(self: &Arc<Self>) -> Busy {
        if self.state.swap(BUSY, Ordering::SeqCst) == ASKED {
            // The connection that waits for its place must ask another.
            self.changed.notify_one();
        }
        Busy(Arc::clone(self))
    }

    /// Asks it to close if it is idle; whether it was.
    fn ask(&self) -> bool {
        self.state.compare_exchange(IDLE, ASKED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::SeqCst) == state
    }

    /// Whether nothing is read, answered or sent.
    pub fn is_idle(&self) -> bool {
        self.is(IDLE) || self.is(ASKED)
    }

    /// Notes that everything is sent that was written.
    fn sent(&self) {
        // Not while the rest of an answer is to come.
        if self.state.compare_exchange(UNSENT, IDLE, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.changed.notify_one();
        }
    }
}

/// A connection that answers a request.
pub(super) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state.store(UNSENT, Ordering::SeqCst);
    }
}

/// A connection's stream. Its writes fail where the other side takes nothing for some time, or is gone while its
/// request is answered.
pub(super) struct Timed {
    stream: TcpStream,
    connection: Arc<Connection>,
    limit: Duration,
    /// When a write that waits is given up.
    until: Option<Pin<Box<Sleep>>>,
    /// When it is looked again whether the other side is gone.
    look: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    pub fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self { stream, connection, limit: WRITE_TIME, until: None, look: None }
    }

    /// Whether the other side has closed the connection. hyper itself looks for that only where nothing is left to
    /// read, so a further request behind the one that is answered would hide it.
    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        let closed = match pin!(self.stream.ready(Interest::READABLE)).poll(cx) {
            Poll::Ready(ready) => ready.map_or(true, |ready| ready.is_read_closed()),
            Poll::Pending => false,
        };
        // What is unread wakes nobody again; else the end does.
        if !closed && self.stream.poll_read_ready(cx).is_ready() {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            while look.as_mut().poll(cx).is_ready() {
                look.as_mut().reset(Instant::now() + LOOK);
            }
        }
        closed
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

    /// Called when everything is written, and whenever the connection is looked after.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.sent();
        if self.connection.is(BUSY) && self.is_gone(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
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
    pub bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
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
        let read = timeout(BODY_TIME, self.collect(body, length.unwrap_or(self.most))).await;
        read.map_err(|_| ApiError::slow_body())?
    }

    /// Reads a body that may have `length` bytes. Room is taken for what arrives, so that announcements cost nothing.
    async fn collect(&self, mut body: Body, length: usize) -> Result<Read, ApiError> {
        let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ApiError::request(format!("the body cannot be read: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            let needed = bytes.len() + data.len();
            if needed > self.most {
                return Err(ApiError::too_large(self.most));
            }
            if needed > bytes.capacity() {
                // Memory grows in steps of at least its size, so that it is copied a few times only.
                let capacity = bytes.capacity().saturating_mul(2).clamp(UNIT, length.max(UNIT)).max(needed);
                let capacity = capacity.next_multiple_of(UNIT);
                let units = (capacity - bytes.capacity()).div_ceil(UNIT);
                let busy =
                    |_| ApiError::unavailable("overloaded", "too many large requests at a time: try again", Some(1));
                let units = u32::try_from(units).unwrap_or(u32::MAX);
                let more = Arc::clone(&self.room).try_acquire_many_owned(units).map_err(busy)?;
                match &mut room {
                    Some(room) => room.merge(more),
                    None => room = Some(more),
                }
                bytes.reserve_exact(capacity - bytes.len());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Read { bytes, _room: room })
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn ready<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn there_are_never_more_connections_than_may_be_open() {
        let connections = Arc::new(Connections::new(2));
        let enter = |number| Box::pin(connections.enter(number));
        let [first, second] = [1, 2].map(|number| ready(&mut enter(number)).unwrap());
        let asked = |entry: &Entry| ready(&mut Box::pin(entry.connection.closed())).is_some();
        let mut third = enter(3);
        assert!(ready(&mut third).is_none(), "nobody has left");
        assert!(asked(&first) && !asked(&second));
        // A change elsewhere makes nobody else leave.
        drop(second.connection.busy());
        second.connection.sent();
        assert!(ready(&mut third).is_none());
        assert!(!asked(&second));
        // The first had a request on its way, so the second is asked.
        let busy = first.connection.busy();
        assert!(ready(&mut third).is_none());
        assert!(asked(&second));
        drop(second);
        let third = ready(&mut third).unwrap();
        assert_eq!(connections.len(), 2);
        // All are busy: the next waits until one is answered and has left.
        let answered = third.connection.busy();
        let mut fourth = enter(4);
        assert!(ready(&mut fourth).is_none());
        assert!(!asked(&first) && !asked(&third));
        drop(answered);
        third.connection.sent();
        assert!(ready(&mut fourth).is_none());
        assert!(asked(&third));
        drop(third);
        assert!(ready(&mut fourth).is_some());
        drop(busy);
    }
}
