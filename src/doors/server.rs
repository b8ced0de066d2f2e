//! The HTTP/1.1 server loop: takes connections, reads whole requests within limits, hands them to a [`Handler`], drains.
//!
//! Both HTTP doors run on it, so that each limit has one name and one meaning: a client that is slow, half open, too big
//! or gone can hold a connection for a bounded time, and nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{self, Instant};
use tracing::{debug, warn};

use crate::doors::activity::{self, Activity, Phase, WatchedStream};
use crate::doors::body::Body;
use crate::doors::finishing::Finishing;
use crate::doors::problem::{Problem, ProblemKind};
use crate::telemetry::traces::active::DoorSpan;

/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE_MS: u64 = 50;

/// What one server lets its clients have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at one time; more of them wait in the listener's queue.
    pub connections_max: usize,
    /// From the first byte of a request to the end of its head.
    pub header_timeout_ms: u64,
    /// Bytes of a request's head (431 above it).
    pub header_bytes_max: usize,
    /// From the end of the head to the end of the body (408 after it).
    pub body_timeout_ms: u64,
    /// Bytes of a request's body (413 above it).
    pub body_bytes_max: usize,
    /// A kept-alive connection without a request.
    pub idle_timeout_ms: u64,
    /// A client that takes no byte of its answer.
    pub write_timeout_ms: u64,
    /// The longest that a streamed answer is silent: its door says something by then.
    pub stream_pause_ms: u64,
    /// From the shutdown until what is still open is cut.
    pub drain_timeout_ms: u64,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            header_timeout_ms: 10_000,
            header_bytes_max: 128 * 1024,
            body_timeout_ms: 30_000,
            body_bytes_max: 32 * 1024 * 1024,
            idle_timeout_ms: 75_000,
            write_timeout_ms: 30_000,
            stream_pause_ms: 15_000,
            drain_timeout_ms: 10_000,
        }
    }
}

/// A request that was read to its end.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path and query, still percent-encoded.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Who asks.
    pub peer: SocketAddr,
}

impl Request {
    /// The path, still percent-encoded.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The query without its `?`, still percent-encoded; empty if there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        self.uri.query().unwrap_or_default()
    }

    /// A header as text, if it is there and is text.
    #[must_use]
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// An answer.
pub type Response = http::Response<Body>;

/// What a door does with requests.
pub trait Handler: Send + Sync + 'static {
    /// Whether a request may come in, asked before its body is read. Lets everybody in unless a door says otherwise. Who asks
    /// stands among the extensions, a [`SocketAddr`].
    ///
    /// # Errors
    /// The answer to a request that may not.
    fn admit(&self, _head: &Parts) -> Result<(), Problem> {
        Ok(())
    }

    /// Begins the span of a request, asked before its body is read. None unless a door says otherwise.
    fn begin(&self, _head: &Parts) -> DoorSpan {
        DoorSpan::default()
    }

    /// Answers a request. A call that has begun is finished even when the client goes away.
    fn call(self: Arc<Self>, request: Request) -> impl Future<Output = Response> + Send + 'static;

    /// Writes a problem that the server itself has with a request: it was not let in, or its body was not whole.
    fn refuse(&self, _head: &Parts, problem: Problem) -> Response {
        problem.into_response()
    }

    /// Told of every answer, refusals by the server itself included; for metrics.
    fn answered(&self, _status: StatusCode, _took: Duration) {}
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because the drain had reached its deadline.
    pub cut: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    Serving,
    Draining,
    Cut,
}

/// Serves `listener` until `shutdown` is ready; then answers what was received, and cuts what is left at the deadline.
///
/// # Cancel safety
/// Dropping this future stops accepting and drains the open connections in the background without a deadline.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    limits: ServerLimits,
    handler: Arc<H>,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let limits = Arc::new(limits);
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let (running, watched) = watch::channel(Running::Serving);
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, peer, slot) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let client = Client {
            handler: Arc::clone(&handler),
            limits: Arc::clone(&limits),
            activity: Arc::new(Activity::new()),
            slot: Arc::new(slot),
            running: watched.clone(),
            peer,
        };
        tokio::spawn(client.serve(stream));
    }
    drop(listener);
    drain(&slots, &running, &limits).await
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    // The slot comes first, so that what cannot be served stays in the listener's queue.
    let slot = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, slot),
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

async fn drain(slots: &Semaphore, running: &watch::Sender<Running>, limits: &ServerLimits) -> Drained {
    running.send_replace(Running::Draining);
    let everybody = u32::try_from(limits.connections_max).unwrap_or(u32::MAX);
    let deadline = Duration::from_millis(limits.drain_timeout_ms);
    if time::timeout(deadline, slots.acquire_many(everybody)).await.is_ok() {
        return Drained { cut: 0 };
    }
    let cut = limits.connections_max.saturating_sub(slots.available_permits());
    running.send_replace(Running::Cut);
    warn!(connections = cut, "connections were cut at the drain's deadline");
    Drained { cut }
}

/// One connection and what it needs.
struct Client<H> {
    handler: Arc<H>,
    limits: Arc<ServerLimits>,
    activity: Arc<Activity>,
    slot: Arc<OwnedSemaphorePermit>,
    running: watch::Receiver<Running>,
    peer: SocketAddr,
}

impl<H: Handler> Client<H> {
    async fn serve(self, stream: TcpStream) {
        let mut running = self.running.clone();
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a connection ended before it began");
            return;
        }
        let io = TokioIo::new(WatchedStream::new(stream, Arc::clone(&self.activity)));
        let service = service_fn(|request| async { Ok::<_, Infallible>(self.answer(request).await) });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                // Heads are timed by `Activity`, which knows an idle connection from a slow one.
                .header_read_timeout(None)
                .max_header_size(self.limits.header_bytes_max)
                .serve_connection(io, service)
        );
        let mut is_watching = true;
        let mut patrol = time::interval(activity::patrol_every(&self.limits));
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%error, "a connection broke");
                    }
                    return;
                }
                changed = running.changed(), if is_watching => match (changed.is_ok(), *running.borrow_and_update()) {
                    (true, Running::Serving) => {}
                    (true, Running::Cut) => return,
                    (true, Running::Draining) => connection.as_mut().graceful_shutdown(),
                    (false, _) => {
                        // The server was dropped, and nobody can say more.
                        is_watching = false;
                        connection.as_mut().graceful_shutdown();
                    }
                },
                _ = patrol.tick() => if let Some(phase) = self.activity.overdue(&self.limits) {
                    debug!(?phase, "a connection that stalled was cut");
                    return;
                },
            }
        }
    }

    async fn answer(&self, request: http::Request<Incoming>) -> Response {
        let began = Instant::now();
        self.activity.enter(Phase::Handling);
        let (mut head, body) = request.into_parts();
        head.extensions.insert(self.peer);
        let span = self.handler.begin(&head);
        let mut response = match self.receive(&head, body).await {
            Ok(body) => {
                let Parts { method, uri, headers, .. } = head;
                let request = Request { method, uri, headers, body, peer: self.peer };
                let call = span.within(Arc::clone(&self.handler).call(request));
                Finishing::new(call, Arc::clone(&self.slot)).await
            }
            Err(problem) => self.handler.refuse(&head, problem),
        };
        span.inside(|| self.handler.answered(response.status(), began.elapsed()));
        span.answered(response.status().as_u16(), response.headers_mut());
        if !response.body().is_stream() {
            self.activity.enter(Phase::Writing);
            return response;
        }
        self.activity.enter(Phase::Streaming);
        let mut running = self.running.clone();
        // A server that drains ends its streams: they would not end by themselves. One that was dropped does so too.
        let ends = async move { drop(running.wait_for(|running| *running != Running::Serving).await) };
        response.map(|body| body.until(ends))
    }

    /// The whole body of a request that may come in.
    async fn receive(&self, head: &Parts, mut body: Incoming) -> Result<Bytes, Problem> {
        let refusal = match self.handler.admit(head) {
            Err(problem) => problem,
            Ok(()) if body.size_hint().lower() > self.body_bytes_max() => self.too_large(),
            Ok(()) if body.is_end_stream() => return Ok(Bytes::new()),
            Ok(()) => match self.read(&mut body).await {
                Ok(bytes) => return Ok(bytes),
                Err(problem) => problem,
            },
        };
        // A client that waits for "100 Continue" sends nothing after a refusal. Any other is still sending: were its
        // bytes left unread, the answer could be lost with the reset of the connection.
        if !head.headers.contains_key(header::EXPECT) && refusal.kind() != ProblemKind::BodyTimeout {
            self.discard(body).await;
        }
        Err(refusal)
    }

    async fn read(&self, body: &mut Incoming) -> Result<Bytes, Problem> {
        let limited = Limited::new(body, self.limits.body_bytes_max);
        let deadline = Duration::from_millis(self.limits.body_timeout_ms);
        match time::timeout(deadline, limited.collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(self.too_large()),
            Ok(Err(_)) => Err(Problem::new(ProblemKind::BadRequest, "the body ended before it was whole")),
            Err(_) => Err(Problem::new(
                ProblemKind::BodyTimeout,
                format!("the body was not whole after {} ms", self.limits.body_timeout_ms),
            )
            .closing()),
        }
    }

    /// Reads what a refused client still sends, at most as much again as a body may have, at most as long.
    async fn discard(&self, body: Incoming) {
        let rest = async {
            let mut left = self.body_bytes_max();
            let mut body = pin!(body);
            while let Some(Ok(frame)) = body.frame().await {
                let bytes = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
                match left.checked_sub(bytes) {
                    Some(fewer) => left = fewer,
                    None => break,
                }
            }
        };
        let deadline = Duration::from_millis(self.limits.body_timeout_ms);
        if time::timeout(deadline, rest).await.is_err() {
            debug!("a refused client was still sending at the body's deadline");
        }
    }

    fn body_bytes_max(&self) -> u64 {
        u64::try_from(self.limits.body_bytes_max).unwrap_or(u64::MAX)
    }

    fn too_large(&self) -> Problem {
        Problem::new(
            ProblemKind::TooLarge,
            format!("the body is above the limit of {} bytes", self.limits.body_bytes_max),
        )
    }
}
