//! The server loop with real sockets: slow, half-open, oversized, gone and late clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use parallax::doors::body::Body;
use parallax::doors::server::{self, Drained, Handler, Request, Response, ServerLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};

/// Longer than anything here may take; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers `/echo` with the body, `/gate` when the gate opens, `/big` with more than socket buffers hold, `/ticks` and
/// `/flood` without an end.
struct Door {
    entered: Notify,
    gate: Semaphore,
    finished: AtomicUsize,
    was_finished: Notify,
}

impl Handler for Door {
    async fn call(self: Arc<Self>, request: Request) -> Response {
        match request.path() {
            "/gate" => {
                self.entered.notify_one();
                self.gate.acquire().await.expect("the gate is never closed").forget();
                self.finished.fetch_add(1, Ordering::SeqCst);
                self.was_finished.notify_one();
                Response::new("opened".into())
            }
            "/big" => Response::new(vec![b'x'; 64 << 20].into()),
            "/ticks" => Response::new(Body::stream(ticks(Duration::from_millis(20), 8))),
            "/flood" => Response::new(Body::stream(ticks(Duration::from_millis(1), 1 << 20))),
            _ => Response::new(request.body.into()),
        }
    }
}

/// Pieces of so many bytes, one after each `pause`, for ever.
fn ticks(pause: Duration, bytes: usize) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(interval(pause), move |mut pace| async move {
        pace.tick().await;
        Some((Bytes::from(vec![b'.'; bytes]), pace))
    })
}

struct Server {
    address: SocketAddr,
    door: Arc<Door>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Drained>,
}

impl Server {
    async fn start(limits: ServerLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let door = Arc::new(Door {
            entered: Notify::new(),
            gate: Semaphore::new(0),
            finished: AtomicUsize::new(0),
            was_finished: Notify::new(),
        });
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server::serve(listener, limits, Arc::clone(&door), async {
            stopped.await.expect("the test says when");
        }));
        Self { address, door, stop, running }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the server listens")
    }

    /// Everything that is answered to `bytes` until the connection ends.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut client = self.connect().await;
        client.write_all(bytes).await.expect("sent");
        until_closed(&mut client).await
    }

    async fn stop(self) -> Drained {
        self.stop.send(()).expect("the server runs");
        timeout(PATIENCE, self.running).await.expect("in time").expect("no panic")
    }
}

async fn until_closed(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset ends a connection as well as an end does.
    let _ = timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("the connection ends in time");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn read_until(client: &mut TcpStream, end: &str) -> String {
    let mut answer = String::new();
    while !answer.ends_with(end) {
        let mut bytes = [0; 4096];
        let count = timeout(PATIENCE, client.read(&mut bytes)).await.expect("in time").expect("readable");
        assert_ne!(count, 0, "the connection ended after {answer:?}");
        answer.push_str(&String::from_utf8_lossy(bytes.get(..count).expect("what was read")));
    }
    answer
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_client_that_drips_its_head_is_cut_though_it_never_pauses() {
    let server = Server::start(ServerLimits { header_timeout_ms: 200, ..ServerLimits::default() }).await;
    let client = server.connect().await;
    let (mut reads, mut writes) = client.into_split();
    let began = Instant::now();
    let dripping = tokio::spawn(async move {
        let mut pace = interval(Duration::from_millis(20));
        writes.write_all(b"GET / HTTP/1.1\r\nx-slow: ").await.expect("sent");
        while writes.write_all(b"a").await.is_ok() {
            pace.tick().await;
        }
    });
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, reads.read_to_end(&mut answer)).await.expect("cut in time");
    assert_eq!(answer, b"");
    assert!(began.elapsed() >= Duration::from_millis(200), "not before the limit");
    timeout(PATIENCE, dripping).await.expect("the writes fail").expect("no panic");
}

#[tokio::test]
async fn a_half_open_client_gives_its_slot_back() {
    let limits = ServerLimits { connections_max: 1, idle_timeout_ms: 100, ..ServerLimits::default() };
    let server = Server::start(limits).await;
    let mut silent = server.connect().await;
    let waiting = server.exchange(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(waiting.starts_with("HTTP/1.1 200"), "{waiting}");
    assert_eq!(until_closed(&mut silent).await, "");
}

#[tokio::test]
async fn a_kept_alive_connection_may_idle_longer_than_a_head_may_take() {
    let limits = ServerLimits { header_timeout_ms: 80, idle_timeout_ms: 60_000, ..ServerLimits::default() };
    let server = Server::start(limits).await;
    let mut client = server.connect().await;
    for round in 0..2 {
        client.write_all(post("/echo", "once more").as_bytes()).await.expect("still open");
        assert!(read_until(&mut client, "once more").await.starts_with("HTTP/1.1 200"), "round {round}");
        let mut pause = interval(Duration::from_millis(200));
        pause.tick().await;
        pause.tick().await;
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_408() {
    let server = Server::start(ServerLimits { body_timeout_ms: 100, ..ServerLimits::default() }).await;
    let answer = server.exchange(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nhalf").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("urn:parallax:problem:body-timeout"), "{answer}");
}

#[tokio::test]
async fn a_body_above_the_limit_is_answered_413_whether_it_says_its_length_or_not() {
    let server = Server::start(ServerLimits { body_bytes_max: 8, ..ServerLimits::default() }).await;
    let mut client = server.connect().await;
    client.write_all(post("/echo", "123456789").as_bytes()).await.expect("sent");
    let answer = read_until(&mut client, "}").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("content-type: application/problem+json"), "{answer}");
    let chunked =
        "POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n";
    client.write_all(chunked.as_bytes()).await.expect("the connection goes on");
    assert!(read_until(&mut client, "}").await.starts_with("HTTP/1.1 413"));
    client.write_all(post("/echo", "12345678").as_bytes()).await.expect("the connection goes on");
    assert!(read_until(&mut client, "12345678").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_told_no_at_once() {
    let server = Server::start(ServerLimits { body_bytes_max: 8, ..ServerLimits::default() }).await;
    let mut client = server.connect().await;
    let head = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("sent");
    assert!(read_until(&mut client, "}").await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn a_head_above_the_limit_is_answered_431() {
    let server = Server::start(ServerLimits { header_bytes_max: 8192, ..ServerLimits::default() }).await;
    let long = "a".repeat(10_000);
    let answer = server.exchange(format!("GET / HTTP/1.1\r\nx-long: {long}\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(ServerLimits::default()).await;
    let mut client = server.connect().await;
    let burst: String = (0..20).map(|number| post("/echo", &format!("number {number};"))).collect();
    client.write_all(burst.as_bytes()).await.expect("sent");
    let answers = read_until(&mut client, "number 19;").await;
    let places: Vec<_> = (0..20).map(|number| answers.find(&format!("number {number};"))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
}

#[tokio::test]
async fn a_call_goes_on_when_its_client_is_gone() {
    let server = Server::start(ServerLimits { connections_max: 1, ..ServerLimits::default() }).await;
    let mut client = server.connect().await;
    client.write_all(post("/gate", "").as_bytes()).await.expect("sent");
    timeout(PATIENCE, server.door.entered.notified()).await.expect("the call began");
    // The connection's task holds the door too: when it lets go, the server has seen that the client is gone.
    let holders = Arc::strong_count(&server.door);
    drop(client);
    let gone = async {
        while Arc::strong_count(&server.door) == holders {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the server sees that the client is gone");
    server.door.gate.add_permits(1);
    timeout(PATIENCE, server.door.was_finished.notified()).await.expect("the call ended");
    assert_eq!(server.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn a_client_that_never_reads_its_answer_is_cut() {
    let limits = ServerLimits { connections_max: 1, write_timeout_ms: 100, ..ServerLimits::default() };
    let server = Server::start(limits).await;
    let mut deaf = server.connect().await;
    deaf.write_all(post("/big", "").as_bytes()).await.expect("sent");
    let next = server.exchange(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(next.starts_with("HTTP/1.1 200"), "the slot came back: {next}");
}

#[tokio::test]
async fn a_drain_answers_what_was_received_and_ends_what_is_idle() {
    let server = Server::start(ServerLimits::default()).await;
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    idle.write_all(post("/echo", "hello").as_bytes()).await.expect("sent");
    read_until(&mut idle, "hello").await;
    let mut busy = server.connect().await;
    busy.write_all(post("/gate", "").as_bytes()).await.expect("sent");
    timeout(PATIENCE, server.door.entered.notified()).await.expect("the call began");

    let (address, door) = (server.address, Arc::clone(&server.door));
    let stopping = tokio::spawn(server.stop());
    assert_eq!(until_closed(&mut idle).await, "");
    assert_eq!(until_closed(&mut silent).await, "");
    assert!(TcpStream::connect(address).await.is_err(), "nobody is let in any more");
    door.gate.add_permits(1);
    let answer = until_closed(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("opened"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(timeout(PATIENCE, stopping).await.expect("in time").expect("no panic"), Drained { cut: 0 });
}

#[tokio::test]
async fn a_drain_cuts_at_its_deadline_but_lets_the_call_go_on() {
    let server = Server::start(ServerLimits { drain_timeout_ms: 100, ..ServerLimits::default() }).await;
    let mut busy = server.connect().await;
    busy.write_all(post("/gate", "").as_bytes()).await.expect("sent");
    timeout(PATIENCE, server.door.entered.notified()).await.expect("the call began");
    let door = Arc::clone(&server.door);
    assert_eq!(server.stop().await, Drained { cut: 1 });
    assert_eq!(until_closed(&mut busy).await, "");
    assert_eq!(door.finished.load(Ordering::SeqCst), 0);
    door.gate.add_permits(1);
    timeout(PATIENCE, door.was_finished.notified()).await.expect("the call ended");
}

#[tokio::test]
async fn a_stream_goes_on_longer_than_a_connection_may_idle_or_an_answer_may_take() {
    let limits =
        ServerLimits { idle_timeout_ms: 100, write_timeout_ms: 100, stream_pause_ms: 100, ..ServerLimits::default() };
    let server = Server::start(limits).await;
    let mut client = server.connect().await;
    client.write_all(post("/ticks", "").as_bytes()).await.expect("sent");
    let (began, mut received) = (Instant::now(), String::new());
    while began.elapsed() < Duration::from_millis(600) {
        received.push_str(&read_until(&mut client, "\r\n").await);
    }
    assert!(received.contains("transfer-encoding: chunked"), "{received}");
    let pieces = received.matches("........").count();
    assert!(pieces > 10, "{pieces} pieces in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_that_stops_reading_its_stream_is_cut() {
    let limits =
        ServerLimits { connections_max: 1, write_timeout_ms: 100, stream_pause_ms: 100, ..ServerLimits::default() };
    let server = Server::start(limits).await;
    let mut deaf = server.connect().await;
    deaf.write_all(post("/flood", "").as_bytes()).await.expect("sent");
    let next = server.exchange(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(next.starts_with("HTTP/1.1 200"), "the slot came back: {next}");
}

#[tokio::test]
async fn a_client_that_leaves_its_stream_gives_its_slot_back_at_once() {
    let server = Server::start(ServerLimits { connections_max: 1, ..ServerLimits::default() }).await;
    let mut leaving = server.connect().await;
    leaving.write_all(post("/ticks", "").as_bytes()).await.expect("sent");
    read_until(&mut leaving, "........\r\n").await;
    drop(leaving);
    let next = server.exchange(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(next.starts_with("HTTP/1.1 200"), "{next}");
}

#[tokio::test]
async fn a_drain_ends_a_stream_whole() {
    let server = Server::start(ServerLimits::default()).await;
    let mut client = server.connect().await;
    client.write_all(post("/ticks", "").as_bytes()).await.expect("sent");
    read_until(&mut client, "........\r\n").await;
    let stopping = tokio::spawn(server.stop());
    let rest = until_closed(&mut client).await;
    assert!(rest.ends_with("0\r\n\r\n"), "the last chunk says that this is the end: {rest:?}");
    assert_eq!(timeout(PATIENCE, stopping).await.expect("in time").expect("no panic"), Drained { cut: 0 });
}
