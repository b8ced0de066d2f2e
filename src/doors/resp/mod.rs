//! The Redis door: an unmodified application is pointed at it by host and port alone.
//!
//! Each thread of it has a runtime of its own, on which its clients and their shared connection to Redis live, so that a
//! forwarded command wakes nobody else. What needs nothing from us is handed on as bytes ([`client`]), while it still comes
//! where it is large ([`stream`]); what belongs to a connection stands in [`connection`], what needs a connection of its own
//! in [`own`].

mod apart;
mod client;
mod connection;
mod multi;
mod output;
mod own;
mod parse;
mod socket;
mod stream;
mod subscribed;
mod traced;

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::doors::resp::client::{Client, Running};
use crate::doors::resp::output::Output;
use crate::doors::resp::parse::Trust;
use crate::doors::resp::socket::Socket;
use crate::dual::Engine;
use crate::dual::route::{self, Policy, RedisError, Unmarkable, Wire};
use crate::model::frame::Protocol;
use crate::settings::RespSettings;
use crate::telemetry::metrics::Metrics;

/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections of their own that a thread keeps for the next client that needs one.
const WIRES_KEPT_MAX: usize = 8;

/// Where the door listens.
pub enum Listener {
    /// On an address.
    Tcp(TcpListener),
    /// On a unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Listens on a unix socket that only our own user may open; what a killed process left there is taken away.
    ///
    /// # Errors
    /// When the path cannot be listened on.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let is_stale = path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket())
            && std::os::unix::net::UnixStream::connect(path).is_err();
        if is_stale {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self::Unix(listener))
    }

    /// Where it listens, as a client would name it.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            Self::Unix(listener) => {
                let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
                path.map(|path| format!("unix:{}", path.display())).unwrap_or_default()
            }
        }
    }
}

/// What all clients of one thread share.
pub(crate) struct Thread {
    engine: Arc<Engine>,
    policy: Policy,
    password: Option<SecretString>,
    metrics: Metrics,
    two: OnceLock<route::Path>,
    three: OnceLock<route::Path>,
    wires: Mutex<Vec<(Wire, Protocol)>>,
}

impl Thread {
    fn path(&self, protocol: Protocol) -> &route::Path {
        let path = match protocol {
            Protocol::Resp2 => &self.two,
            Protocol::Resp3 => &self.three,
        };
        path.get_or_init(|| self.engine.path(protocol, self.policy))
    }

    fn first_trust(&self) -> Trust {
        if self.password.is_some() { Trust::Unknown } else { Trust::Known }
    }

    /// A connection for one client, kept or new.
    async fn wire(&self, protocol: Protocol) -> Result<Wire, RedisError> {
        while let Some(mut wire) = self.kept(protocol) {
            if !own::is_closed(&mut wire) {
                return Ok(wire);
            }
        }
        self.engine.wire(protocol).await
    }

    fn kept(&self, protocol: Protocol) -> Option<Wire> {
        let mut wires = self.wires.lock().unwrap_or_else(PoisonError::into_inner);
        let at = wires.iter().position(|(_, spoken)| *spoken == protocol)?;
        Some(wires.swap_remove(at).0)
    }

    /// Keeps a connection on which nothing was left behind.
    fn keep(&self, wire: Wire, protocol: Protocol) {
        let mut wires = self.wires.lock().unwrap_or_else(PoisonError::into_inner);
        if wires.len() < WIRES_KEPT_MAX {
            wires.push((wire, protocol));
        }
    }
}

/// The threads of the door.
pub struct RespDoor {
    threads: Vec<(Handle, Arc<Thread>)>,
    /// Dropped to end the threads.
    ends: Vec<oneshot::Sender<()>>,
    joins: Vec<std::thread::JoinHandle<()>>,
    connections_max: usize,
}

impl RespDoor {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has none left.
    pub fn start(engine: &Arc<Engine>, settings: &RespSettings, metrics: &Metrics) -> io::Result<Self> {
        let unmarkable = |forwards| if forwards { Unmarkable::Forward } else { Unmarkable::Refuse };
        let policy = Policy {
            server_commands: unmarkable(settings.forwards_server_commands),
            blocking_writes: unmarkable(settings.forwards_blocking_writes),
        };
        let mut door = Self {
            threads: Vec::new(),
            ends: Vec::new(),
            joins: Vec::new(),
            connections_max: settings.connections_max,
        };
        for number in 0..settings.threads {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = Arc::new(Thread {
                engine: Arc::clone(engine),
                policy,
                password: settings.password.clone(),
                metrics: metrics.clone(),
                two: OnceLock::new(),
                three: OnceLock::new(),
                wires: Mutex::new(Vec::new()),
            });
            door.threads.push((runtime.handle().clone(), thread));
            let (end, ended) = oneshot::channel::<()>();
            door.ends.push(end);
            let builder = std::thread::Builder::new().name(format!("resp-{number}"));
            // An error means that the other end was dropped, which is how it is told to end.
            door.joins.push(builder.spawn(move || drop(runtime.block_on(ended)))?);
        }
        Ok(door)
    }

    /// Serves `listener` until `shutdown`; then answers what was received, and cuts what is left after `deadline`. Answers
    /// how many connections were cut.
    pub async fn serve(self, listener: Listener, deadline: Duration, shutdown: impl Future<Output = ()>) -> usize {
        let slots = Arc::new(Semaphore::new(self.connections_max));
        let (running, watched) = watch::channel(Running::Serving);
        let mut shutdown = std::pin::pin!(shutdown);
        let mut turn = 0_usize;
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = accept(&listener) => accepted,
            };
            match accepted {
                Ok(stream) => {
                    let at = turn % self.threads.len().max(1);
                    turn = turn.wrapping_add(1);
                    if let Some((handle, thread)) = self.threads.get(at) {
                        let slot = Arc::clone(&slots).try_acquire_owned().ok();
                        handle.spawn(client(Arc::clone(thread), stream, slot, watched.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        running.send_replace(Running::Draining);
        let everybody = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
        let drained = tokio::time::timeout(deadline, slots.acquire_many(everybody)).await.is_ok();
        let cut = if drained { 0 } else { self.connections_max.saturating_sub(slots.available_permits()) };
        if cut > 0 {
            tracing::warn!(connections = cut, "connections of the Redis door were cut at the drain's deadline");
        }
        drop(self.ends);
        let joined = tokio::task::spawn_blocking(move || self.joins.into_iter().try_for_each(|join| join.join()));
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("a thread of the Redis door ended badly");
        }
        cut
    }
}

enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Accepted::Tcp(stream.into_std()?))
        }
        Listener::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
    }
}

async fn client(
    thread: Arc<Thread>,
    stream: Accepted,
    slot: Option<OwnedSemaphorePermit>,
    running: watch::Receiver<Running>,
) {
    let socket = match stream {
        Accepted::Tcp(stream) => TcpStream::from_std(stream).map(Socket::Tcp),
        Accepted::Unix(stream) => UnixStream::from_std(stream).map(Socket::Unix),
    };
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "a connection ended before it began"),
    };
    if slot.is_none() {
        // Redis' own words; who does not read them learns it by the end of the connection.
        drop(socket.try_write(b"-ERR max number of clients reached\r\n"));
        return;
    }
    let output = Output::new(socket, thread.metrics.clone());
    Client::new(thread, output, running).run().await;
    drop(slot);
}
