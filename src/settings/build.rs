//! Builds [`Settings`] from what was said, and checks what concerns more than one of them.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;

use rand::RngExt;

use crate::settings::reader::Reader;
use crate::settings::{
    AdminSettings, CacheSettings, DoorSettings, Limits, LogFormat, LogSettings, PostgresSettings, RedisSettings,
    RespListen, RespSettings, Settings, SslMode, TlsSettings,
};
use crate::settings::{metrics, traces};

/// A day: more than any of the waits can mean.
pub(super) const WAIT_MS_MAX: u64 = 86_400_000;
/// 512 MiB: Redis takes no larger value.
const BYTES_MAX: usize = 512 * 1024 * 1024;
const INSTANCE_LENGTH_MAX: usize = 128;

/// What was said, as types. Where there are errors afterwards, stand-ins are among them.
pub(super) fn build(reader: &mut Reader<'_>) -> Settings {
    let settings = Settings {
        catalog: reader.file("catalog"),
        instance: instance(reader),
        timezone_offset_hours: reader.number("timezone_offset", -12..=14),
        rollback_file: reader.optional("rollback_file").map(Into::into),
        migrate_on_start: reader.boolean("migrate_on_start"),
        log: log(reader),
        redis: redis(reader),
        postgres: postgres(reader),
        http: http(reader),
        resp: resp(reader),
        admin: admin(reader),
        cache: CacheSettings {
            ttl_seconds: reader.number("cache.ttl_seconds", 1..=WAIT_MS_MAX),
            write_through: reader.boolean("cache.write_through"),
        },
        limits: limits(reader),
        traces: traces::build(reader),
        metrics: metrics::build(reader),
    };
    check_doors(&settings, reader);
    settings
}

fn instance(reader: &mut Reader<'_>) -> String {
    reader.takes("instance", format!("at most {INSTANCE_LENGTH_MAX} letters, digits, dots, dashes and underscores"));
    let Some(name) = reader.optional("instance") else {
        return format!("{:012x}", rand::rng().random_range(0..1_u64 << 48));
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.len() > INSTANCE_LENGTH_MAX || !name.bytes().all(is_plain) {
        reader.refuse("instance", "a name is at most 128 letters, digits, dots, dashes and underscores");
    }
    name
}

fn log(reader: &mut Reader<'_>) -> LogSettings {
    let filter = reader.text("log.filter");
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&filter) {
        reader
            .refuse("log.filter", format!("`{filter}` will not do ({error}): give a level, or `info,parallax=debug`"));
    }
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogSettings { filter, format: reader.choice("log.format", &formats, LogFormat::Text) }
}

fn redis(reader: &mut Reader<'_>) -> RedisSettings {
    let ca_file = reader.file("redis.ca_file");
    let is_tls = reader.boolean("redis.enable_tls");
    if ca_file.is_some() && !is_tls {
        // A certificate that nobody looks at would let its owner believe that the connection is safe.
        reader.refuse("redis.ca_file", "is given, but TLS is not spoken: set REDIS_ENABLE_TLS=true, or use rediss://");
    }
    let bypass = [("watch", true), ("ignore", false)];
    let settings = RedisSettings {
        host: reader.text("redis.host"),
        port: reader.number("redis.port", 1..=u16::MAX),
        database: reader.number("redis.db", 0..=9999),
        username: reader.optional("redis.username"),
        password: reader.secret("redis.password"),
        tls: is_tls.then_some(TlsSettings { ca_file }),
        watches_for_bypasses: reader.choice("redis.bypass", &bypass, true),
    };
    if settings.username.is_some() && settings.password.is_none() {
        reader.refuse("redis.username", "is given without a password: set REDIS_PASSWORD or REDIS_PASSWORD_FILE");
    }
    settings
}

fn postgres(reader: &mut Reader<'_>) -> Option<PostgresSettings> {
    let modes = [
        ("disable", SslMode::Disable),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];
    // Read also when it is not enabled: a mistake that shows itself on the day of the switch shows itself too late.
    let settings = PostgresSettings {
        host: reader.text("postgres.host"),
        port: reader.number("postgres.port", 1..=u16::MAX),
        database: reader.text("postgres.db"),
        user: reader.text("postgres.user"),
        password: reader.secret("postgres.password"),
        pool_size: reader.number("postgres.pool_size", 2..=1000),
        idle_timeout_ms: reader.number("postgres.idle_timeout_ms", 1..=WAIT_MS_MAX),
        sslmode: reader.choice("postgres.sslmode", &modes, SslMode::Disable),
        sslrootcert: reader.file("postgres.sslrootcert"),
    };
    if settings.sslrootcert.is_some() && settings.sslmode == SslMode::Disable {
        reader.refuse("postgres.sslrootcert", "is given, but TLS is not spoken: set POSTGRES_SSLMODE=verify-full");
    }
    reader.boolean("postgres.enabled").then_some(settings)
}

fn http(reader: &mut Reader<'_>) -> DoorSettings {
    let door = DoorSettings {
        listen: reader.address("http.listen"),
        tokens: reader.tokens("http.token"),
        hosts: reader.list("http.hosts"),
    };
    if door.tokens.is_empty() && !door.listen.ip().is_loopback() {
        reader.refuse("http.listen", open_door(door.listen, "PARALLAX_HTTP_TOKEN"));
    }
    door
}

fn resp(reader: &mut Reader<'_>) -> Option<RespSettings> {
    let text = reader.text("resp.listen");
    let answers = [("refuse", false), ("forward", true)];
    let settings = RespSettings {
        listen: match text.strip_prefix("unix:") {
            Some(path) => RespListen::Unix(path.into()),
            None if text == "off" => RespListen::Unix(PathBuf::new()),
            None => RespListen::Tcp(reader.address("resp.listen")),
        },
        password: reader.secret("resp.password"),
        threads: reader.number("resp.threads", 1..=64),
        connections_max: reader.number("resp.connections_max", 1..=1_000_000),
        forwards_server_commands: reader.choice("resp.server_commands", &answers, false),
        forwards_blocking_writes: reader.choice("resp.blocking_writes", &answers, false),
    };
    reader.takes("resp.listen", "address:port, `unix:` and a path, or `off`");
    match &settings.listen {
        RespListen::Tcp(listen) if !listen.ip().is_loopback() && settings.password.is_none() => {
            reader.refuse("resp.listen", open_door(*listen, "PARALLAX_RESP_PASSWORD"));
        }
        RespListen::Unix(path) if path.as_os_str().is_empty() && text != "off" => {
            reader.refuse("resp.listen", "`unix:` needs a path behind it");
        }
        RespListen::Tcp(_) | RespListen::Unix(_) => {}
    }
    (text != "off").then_some(settings)
}

pub(super) fn admin(reader: &mut Reader<'_>) -> AdminSettings {
    let door = AdminSettings {
        listen: reader.address("admin.listen"),
        viewer_tokens: reader.tokens("admin.viewer_token"),
        operator_tokens: reader.tokens("admin.operator_token"),
        secrets_tokens: reader.tokens("admin.secrets_token"),
        hosts: reader.list("admin.hosts"),
        origins: reader.origins("admin.origins"),
    };
    let count = door.viewer_tokens.len() + door.operator_tokens.len() + door.secrets_tokens.len();
    if count == 0 && !door.listen.ip().is_loopback() {
        reader.refuse("admin.listen", open_door(door.listen, "PARALLAX_ADMIN_OPERATOR_TOKEN"));
    }
    door
}

fn open_door(listen: SocketAddr, variable: &str) -> String {
    format!("{listen} can be reached from other machines: set {variable} (or {variable}_FILE), or listen on 127.0.0.1")
}

fn limits(reader: &mut Reader<'_>) -> Limits {
    Limits {
        connections_max: reader.number("limits.connections_max", 1..=1_000_000),
        header_bytes_max: reader.number("limits.header_bytes_max", 8192..=BYTES_MAX),
        body_bytes_max: reader.number("limits.body_bytes_max", 1024..=BYTES_MAX),
        header_timeout_ms: reader.number("limits.header_timeout_ms", 1..=WAIT_MS_MAX),
        body_timeout_ms: reader.number("limits.body_timeout_ms", 1..=WAIT_MS_MAX),
        idle_timeout_ms: reader.number("limits.idle_timeout_ms", 1..=WAIT_MS_MAX),
        write_timeout_ms: reader.number("limits.write_timeout_ms", 1..=WAIT_MS_MAX),
        command_deadline_ms: reader.number("limits.command_deadline_ms", 1..=WAIT_MS_MAX),
        outbox_queue_max: reader.number("limits.outbox_queue_max", 1..=100_000_000),
        shadow_queue_max: reader.number("limits.shadow_queue_max", 1..=100_000_000),
        drain_deadline_ms: reader.number("limits.drain_deadline_ms", 0..=WAIT_MS_MAX),
        lease_ms: reader.number("limits.lease_ms", 1000..=WAIT_MS_MAX),
        barrier_wait_ms: reader.number("limits.barrier_wait_ms", 1..=WAIT_MS_MAX),
    }
}

/// Two doors on one address, or a door that is its own upstream.
fn check_doors(settings: &Settings, reader: &mut Reader<'_>) {
    let mut doors = vec![("http.listen", settings.http.listen), ("admin.listen", settings.admin.listen)];
    if let Some(RespSettings { listen: RespListen::Tcp(listen), .. }) = &settings.resp {
        if doors.iter().any(|(_, other)| other == listen) && listen.port() != 0 {
            reader.refuse("resp.listen", "another door listens there: give another port");
        }
        doors.push(("resp.listen", *listen));
    }
    if settings.http.listen == settings.admin.listen && settings.http.listen.port() != 0 {
        reader.refuse("admin.listen", "the data door listens there: give another port");
    }
    let mut upstreams =
        vec![("redis.host", "PARALLAX_REDIS_HOST and PARALLAX_REDIS_PORT", &settings.redis.host, settings.redis.port)];
    if let Some(postgres) = &settings.postgres {
        upstreams.push(("postgres.host", "POSTGRES_HOST and POSTGRES_PORT", &postgres.host, postgres.port));
    }
    for (key, instead, host, port) in upstreams {
        if doors.iter().any(|(_, listen)| is_own_door(host, port, *listen)) {
            let problem = format!(
                "{host}:{port} is a door of this sidecar, which would wait for itself: name the real server by {instead}"
            );
            reader.refuse(key, problem);
        }
    }
}

/// Whether `host:port` leads to `listen`. Names are looked up only when the port is the same.
fn is_own_door(host: &str, port: u16, listen: SocketAddr) -> bool {
    if port != listen.port() {
        return false;
    }
    let Ok(addresses) = (host, port).to_socket_addrs() else {
        return false;
    };
    addresses.map(|address| address.ip()).any(|ip| leads_to(ip, listen.ip()))
}

fn leads_to(ip: IpAddr, listen: IpAddr) -> bool {
    if listen.is_unspecified() {
        // The door is on every address of this machine: the system lets us bind to those and to no other.
        return UdpSocket::bind((ip, 0)).is_ok();
    }
    // 0.0.0.0 as a destination means this machine.
    ip == listen || ip.is_unspecified() && listen.is_loopback() || ip.is_loopback() && listen.is_loopback()
}
