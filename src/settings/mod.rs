//! Settings: read once at the start, checked at once, all mistakes listed, and handed down from there.
//!
//! A flag wins over the environment, that over the file (`--config`), that over the default. `PARALLAX_REDIS_*` wins over
//! `REDIS_*`, because application and sidecar share a pod and the application's `REDIS_HOST` may come to name the sidecar.

mod build;
pub mod definitions;
mod file;
pub mod metrics;
pub mod otlp;
mod reader;
pub mod reference;
pub mod report;
pub mod sources;
pub mod traces;
mod upstream;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::SecretString;

use self::metrics::MetricSettings;
pub use self::sources::Inputs;
use self::sources::Resolved;
use self::traces::TraceSettings;

/// Everything that a sidecar was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The catalog file; the built-in catalog without one.
    pub catalog: Option<PathBuf>,
    /// The name of this sidecar, different from every other's.
    pub instance: String,
    /// Hours from UTC of the dates in the application's keys.
    pub timezone_offset_hours: i8,
    /// A file whose appearance takes all reads back to Redis.
    pub rollback_file: Option<PathBuf>,
    /// Whether missing migrations are applied before serving.
    pub migrate_on_start: bool,
    /// What is logged, and how.
    pub log: LogSettings,
    /// The Redis that the application uses today.
    pub redis: RedisSettings,
    /// The Postgres beside it; none with `ENABLE_POSTGRES=false`.
    pub postgres: Option<PostgresSettings>,
    /// The data door.
    pub http: DoorSettings,
    /// The Redis door; none when it is off.
    pub resp: Option<RespSettings>,
    /// The admin door.
    pub admin: AdminSettings,
    /// Defaults of the cache-first stage.
    pub cache: CacheSettings,
    /// Every limit that has a name.
    pub limits: Limits,
    /// Where traces go and which of them; none without an endpoint.
    pub traces: Option<TraceSettings>,
    /// Where metrics go beside being scraped; none unless somebody asks for it.
    pub metrics: Option<MetricSettings>,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// A filter such as `info,parallax::dual=debug`.
    pub filter: String,
    /// How a line is written.
    pub format: LogFormat,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Where Redis is, and how to be let in.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The number of the database.
    pub database: u16,
    /// The ACL user; Redis' default user without one.
    pub username: Option<String>,
    /// The password.
    pub password: Option<SecretString>,
    /// TLS, verified; in plain text without.
    pub tls: Option<TlsSettings>,
    /// Whether writes are looked for that bypass every sidecar.
    pub watches_for_bypasses: bool,
}

/// Whom to trust.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// A PEM file with authorities; the system's without one.
    pub ca_file: Option<PathBuf>,
}

/// Where Postgres is, and how to be let in.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name of the database.
    pub database: String,
    /// The role.
    pub user: String,
    /// The password.
    pub password: Option<SecretString>,
    /// Connections at most.
    pub pool_size: usize,
    /// After this long a connection that nobody uses is closed.
    pub idle_timeout_ms: u64,
    /// Whether and how TLS is spoken.
    pub sslmode: SslMode,
    /// A PEM file with authorities; the system's without one.
    pub sslrootcert: Option<PathBuf>,
}

/// Whether and how TLS is spoken with Postgres. libpq's words; its modes that fall back to plain text do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Plain text.
    Disable,
    /// Encrypted, with whoever answers; verified like `verify-ca` when a root certificate is given, as libpq does.
    Require,
    /// With a server whose certificate comes from a trusted authority.
    VerifyCa,
    /// And whose name is the one that was called.
    VerifyFull,
}

/// The data door.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who may call. Without one everybody on loopback, and nobody else.
    pub tokens: Vec<SecretString>,
    /// Further names by which clients may call it.
    pub hosts: Vec<String>,
}

/// Where the Redis door listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RespListen {
    /// On this address.
    Tcp(SocketAddr),
    /// On this unix socket.
    Unix(PathBuf),
}

/// The Redis door.
#[derive(Clone, Debug)]
pub struct RespSettings {
    /// Where it listens.
    pub listen: RespListen,
    /// What clients give with AUTH. Without one everybody on loopback or on the socket, and nobody else.
    pub password: Option<SecretString>,
    /// Threads.
    pub threads: usize,
    /// Client connections at one time.
    pub connections_max: usize,
    /// Whether commands that act on the server are let through while records are mirrored.
    pub forwards_server_commands: bool,
    /// Whether blocking writes of mirrored records are let through.
    pub forwards_blocking_writes: bool,
}

/// The admin door.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who may look.
    pub viewer_tokens: Vec<SecretString>,
    /// Who may also change.
    pub operator_tokens: Vec<SecretString>,
    /// Who may also see credentials.
    pub secrets_tokens: Vec<SecretString>,
    /// Further names by which clients may call it.
    pub hosts: Vec<String>,
    /// Origins whose pages may evaluate flags, as browsers send them: `https://app.example`.
    pub origins: Vec<String>,
}

/// Defaults of the cache-first stage.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// How long a record stays in Redis without being used.
    pub ttl_seconds: u64,
    /// Whether a write leaves the record in Redis.
    pub write_through: bool,
}

/// Every limit that has a name. What each one bounds stands in [`definitions::DEFINITIONS`].
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is described where it is defined, once")]
pub struct Limits {
    pub connections_max: usize,
    pub header_bytes_max: usize,
    pub body_bytes_max: usize,
    pub header_timeout_ms: u64,
    pub body_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    pub write_timeout_ms: u64,
    pub command_deadline_ms: u64,
    pub outbox_queue_max: usize,
    pub shadow_queue_max: usize,
    pub drain_deadline_ms: u64,
    pub lease_ms: u64,
    pub barrier_wait_ms: u64,
}

/// One thing that is wrong: which setting, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The name by which it was given.
    pub setting: String,
    /// What is wrong and what to do. Never the value of a secret.
    pub problem: String,
}

impl SettingError {
    fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.problem)
    }
}

/// All that is wrong, at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingErrors(pub Vec<SettingError>);

impl fmt::Display for SettingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} setting{} cannot be used:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

/// Settings, and how they came to be.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What holds.
    pub settings: Settings,
    /// Who said so.
    pub resolved: Resolved,
    /// What looks like a mistake and is none that we can be sure of.
    pub warnings: Vec<String>,
}

/// Reads and checks everything.
///
/// # Errors
/// All mistakes, not the first one.
pub fn load(inputs: &Inputs) -> Result<Loaded, SettingErrors> {
    let mut errors = Vec::new();
    let mut resolved = sources::resolve(inputs, &mut errors);
    upstream::merge(&mut resolved, &mut errors);
    let settings = build::build(&mut reader::Reader::new(&resolved, &mut errors));
    if !errors.is_empty() {
        return Err(SettingErrors(errors));
    }
    let mut warnings = resolved.warnings.clone();
    warnings.extend(report::warnings(&settings));
    Ok(Loaded { settings, resolved, warnings })
}

/// Reads how the admin door is reached, and nothing else: a mistake in another setting must not stand in the way of a rollback.
///
/// # Errors
/// All mistakes in the settings of the admin door.
pub fn admin(inputs: &Inputs) -> Result<AdminSettings, SettingErrors> {
    let mut errors = Vec::new();
    let resolved = sources::resolve(inputs, &mut errors);
    errors.retain(|error| error.setting.to_ascii_lowercase().contains("admin"));
    let admin = build::admin(&mut reader::Reader::new(&resolved, &mut errors));
    if errors.is_empty() { Ok(admin) } else { Err(SettingErrors(errors)) }
}
