//! The way to Redis itself: a stream over TCP, TLS or a unix socket, logged in and in its database, on which bytes are
//! written and frames are read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use redis::ConnectionAddr;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::model::command::Command;
use crate::model::frame::scan::{Progress, Scanner};
use crate::model::frame::{Frame, Protocol, encode};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::tally::{OfWire, Tally};

/// Bytes that one read takes at most.
pub const READ_BYTES: usize = 64 * 1024;
/// How long a connection on which nothing comes is believed, and how often and how many times it is probed then: a host that
/// died says nothing, and whoever waits for a slow command waits for as long as the connection stands.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);
/// How long what was sent may stay without any sign that it arrived.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);
/// How long connecting and logging in may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A stream to Redis, whatever it runs over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

enum Address {
    Tcp { host: String, port: u16, tls: Option<(TlsConnector, ServerName<'static>)> },
    Unix(PathBuf),
}

/// Where Redis is and how to be let in.
pub struct Upstream {
    address: Address,
    database: i64,
    username: Option<String>,
    password: Option<SecretString>,
    tally: Arc<Tally>,
}

impl Upstream {
    /// The upstream of a client; `tls` is how to speak TLS, where its address says so.
    ///
    /// # Errors
    /// When its name cannot be the name of a certificate.
    pub fn of(client: &redis::Client, tls: Option<Arc<ClientConfig>>) -> Result<Self, String> {
        let info = client.get_connection_info();
        let address = match info.addr() {
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            ConnectionAddr::Tcp(host, port) => Address::Tcp { host: host.clone(), port: *port, tls: None },
            ConnectionAddr::TcpTls { host, port, .. } => {
                let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
                let tls = tls.ok_or("TLS is asked for, and how to speak it is not known")?;
                Address::Tcp { host: host.clone(), port: *port, tls: Some((TlsConnector::from(tls), name)) }
            }
            other => return Err(format!("{other} is no address of a Redis")),
        };
        let login = info.redis_settings();
        Ok(Self {
            address,
            database: login.db(),
            username: login.username().map(str::to_owned),
            password: login.password().map(SecretString::from),
            tally: Arc::default(),
        })
    }

    /// What callers sent over it.
    #[must_use]
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// The number of the configured database.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.database
    }

    /// A wire that speaks `protocol`, logged in and in the configured database.
    ///
    /// # Errors
    /// When Redis cannot be reached or lets us not in.
    pub async fn connect(&self, protocol: Protocol) -> Result<Wire, RedisError> {
        match tokio::time::timeout(CONNECT_DEADLINE, self.connected(protocol)).await {
            Ok(wire) => wire,
            Err(_) => Err(RedisError::Unreachable("connecting took too long".to_owned())),
        }
    }

    /// As [`Self::connect`], with the `run_id` of the server process at its other end. A wire does not outlive that process.
    ///
    /// # Errors
    /// As [`Self::connect`], or when Redis does not say who it is.
    pub async fn connect_known(&self, protocol: Protocol) -> Result<(Wire, String), RedisError> {
        let asked = async {
            let mut wire = self.connected(protocol).await?;
            let frames = wire.ask(&[Command::new(["INFO", "server"])]).await?;
            // RESP3 says it in another form of string, and its lines are the same.
            let info =
                frames.first().map(|frame| String::from_utf8_lossy(frame.bytes()).into_owned()).unwrap_or_default();
            let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
            let run_id = run_id.ok_or_else(|| RedisError::Unreachable("redis does not say who it is".to_owned()))?;
            Ok((wire, run_id.trim().to_owned()))
        };
        match tokio::time::timeout(CONNECT_DEADLINE, asked).await {
            Ok(known) => known,
            Err(_) => Err(RedisError::Unreachable("connecting took too long".to_owned())),
        }
    }

    async fn connected(&self, protocol: Protocol) -> Result<Wire, RedisError> {
        let stream = self.stream().await.map_err(|error| RedisError::Unreachable(error.to_string()))?;
        let mut wire = Wire { stream, buffer: BytesMut::new(), tally: OfWire::new(Arc::clone(&self.tally)) };
        let mut commands = Vec::new();
        if let Some(password) = &self.password {
            let user = self.username.iter().map(String::as_str);
            let parts = ["AUTH"].into_iter().chain(user).chain([password.expose_secret()]);
            commands.push(Command::new(parts.map(|part| part.as_bytes().to_vec())));
        }
        if protocol == Protocol::Resp3 {
            commands.push(Command::new(["HELLO", "3"]));
        }
        if self.database != 0 {
            commands.push(Command::new(["SELECT".to_owned(), self.database.to_string()]));
        }
        for frame in wire.ask(&commands).await? {
            if let Some(error) = frame.error() {
                return Err(RedisError::Unreachable(format!("redis does not let us in: {error}")));
            }
        }
        Ok(wire)
    }

    async fn stream(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match &self.address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp { host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                socket.set_tcp_keepalive(&KEEPALIVE)?;
                #[cfg(target_os = "linux")]
                socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
                match tls {
                    None => Box::new(stream),
                    Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
                }
            }
        })
    }
}

/// A connection to Redis.
pub struct Wire {
    /// The stream.
    pub stream: Box<dyn Stream>,
    /// What was read and not used.
    pub buffer: BytesMut,
    /// Counts what one client sends over it.
    pub tally: OfWire,
}

impl Wire {
    /// Runs commands in one pipeline on a wire that nobody else uses; a frame each.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn ask(&mut self, commands: &[Command]) -> Result<Vec<Frame>, RedisError> {
        let mut out = BytesMut::new();
        for command in commands {
            encode::command(&mut out, command);
        }
        let broken = |error: std::io::Error| RedisError::Unknown(error.to_string());
        self.stream.write_all(&out).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)?;
        let mut frames = Vec::with_capacity(commands.len());
        while frames.len() < commands.len() {
            frames.push(self.frame().await?);
        }
        Ok(frames)
    }

    /// The next frame.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no frame.
    pub async fn frame(&mut self) -> Result<Frame, RedisError> {
        let (mut scanner, mut scanned) = (Scanner::default(), 0);
        loop {
            let progress = scanner.advance(self.buffer.get(scanned..).unwrap_or_default());
            match progress.map_err(|error| RedisError::Unknown(error.to_string()))? {
                Progress::Whole(length) => return Ok(Frame::new(self.buffer.split_to(scanned + length).freeze())),
                Progress::Partial(length) => scanned += length,
            }
            self.read().await?;
        }
    }

    /// Waits until something is there that was not used.
    ///
    /// # Errors
    /// When the connection breaks.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was read stays.
    pub async fn fill(&mut self) -> Result<(), RedisError> {
        while self.buffer.is_empty() {
            self.read().await?;
        }
        Ok(())
    }

    /// Reads more into the buffer.
    ///
    /// # Errors
    /// When the connection breaks.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was read stays.
    pub async fn read(&mut self) -> Result<(), RedisError> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(read) if read > 0 => Ok(()),
            Ok(_) => Err(RedisError::Unknown("redis closed the connection".to_owned())),
            Err(error) => Err(RedisError::Unknown(error.to_string())),
        }
    }
}
