//! Every setting: its names in the environment, in the file and on the command line, its default, and what it does.
//! Help, reading, reporting and the documentation's test all come from this one list.

/// How a value may be shown and given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// Anybody may see it.
    Plain,
    /// An address that may carry a password: shown without it, may be given by a file.
    Address,
    /// Never shown, never on a command line (which every process of the machine can read), may be given by a file.
    Secret,
}

/// One setting.
#[derive(Debug)]
pub struct Definition {
    /// Its place in the file, `redis.host`; also the name by which the code asks for it.
    pub key: &'static str,
    /// Its names in the environment; the first that is set wins.
    pub variables: &'static [&'static str],
    /// Its name on the command line, without the dashes.
    pub flag: &'static str,
    /// What holds when nothing is said.
    pub default: Option<&'static str>,
    /// How it may be shown and given.
    pub secrecy: Secrecy,
    /// What it does.
    pub help: &'static str,
}

impl Definition {
    /// The name by which errors call it: the least surprising one, which stands last.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.variables.last().copied().unwrap_or(self.key)
    }

    /// The unit of its number, where it has one; the key's own end says it.
    #[must_use]
    pub fn unit(&self) -> Option<&'static str> {
        let units =
            [("_ms", "milliseconds"), ("_seconds", "seconds"), ("bytes_max", "bytes"), ("timezone_offset", "hours")];
        units.into_iter().find(|(end, _)| self.key.ends_with(end)).map(|(_, unit)| unit)
    }

    /// Whether it may be left for `--help`, as `-h` shows what is needed every day.
    #[must_use]
    pub fn is_rare(&self) -> bool {
        let is_of_telemetry = ["otlp.", "traces.", "metrics."].iter().any(|area| self.key.starts_with(area));
        let is_rare = ["limits.", "cache."].iter().any(|area| self.key.starts_with(area));
        is_rare || (is_of_telemetry && self.key != "otlp.endpoint")
    }

    /// The heading under which help shows it.
    #[must_use]
    pub fn heading(&self) -> &'static str {
        match self.key.split('.').next() {
            Some("redis") => "Redis",
            Some("postgres") => "Postgres",
            Some("http") => "Data door",
            Some("resp") => "Redis door",
            Some("admin") => "Admin door",
            Some("cache") => "Cache first (no effect before that stage)",
            Some("limits") => "Limits",
            Some("otlp") => "OpenTelemetry (its own names; nothing is sent without an endpoint)",
            Some("traces") => "Traces",
            Some("metrics") => "Metrics over OTLP",
            Some(_) | None => "General",
        }
    }
}

/// The definition of `key`.
#[must_use]
pub fn definition(key: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.key == key)
}

const fn plain(
    key: &'static str,
    variables: &'static [&'static str],
    flag: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Definition {
    Definition { key, variables, flag, default, secrecy: Secrecy::Plain, help }
}

const fn hidden(
    key: &'static str,
    variables: &'static [&'static str],
    flag: &'static str,
    secrecy: Secrecy,
    help: &'static str,
) -> Definition {
    Definition { key, variables, flag, default: None, secrecy, help }
}

/// All of them, in the order in which help and `config check` show them.
#[rustfmt::skip]
pub const DEFINITIONS: &[Definition] = &[
    plain("catalog", &["PARALLAX_CATALOG"], "catalog", None,
        "A catalog file that describes your key patterns; without one the built-in catalog of Claude Relay Service"),
    plain("instance", &["PARALLAX_INSTANCE"], "instance", None,
        "The name of this sidecar, different from every other's; without one a random name"),
    plain("timezone_offset", &["PARALLAX_TIMEZONE_OFFSET", "TIMEZONE_OFFSET"], "timezone-offset", Some("8"),
        "Hours from UTC of the dates that the application writes into its keys"),
    plain("migrate_on_start", &["PARALLAX_MIGRATE_ON_START"], "migrate-on-start", Some("false"),
        "Apply missing database migrations before serving (`parallax migrate` does it apart)"),
    plain("rollback_file", &["PARALLAX_ROLLBACK_FILE"], "rollback-file", None,
        "A file whose appearance takes all reads back to Redis, also when the admin door is gone; SIGUSR2 does the same"),
    plain("log.filter", &["PARALLAX_LOG"], "log", Some("info"),
        "What is logged: `warn`, `info,parallax::dual=debug`"),
    plain("log.format", &["PARALLAX_LOG_FORMAT"], "log-format", Some("text"), "`text` or `json`"),

    hidden("redis.url", &["PARALLAX_REDIS_URL", "REDIS_URL"], "redis-url", Secrecy::Address,
        "redis://[user:password@]host[:port][/db]; rediss:// for TLS. Instead of the single settings below"),
    plain("redis.host", &["PARALLAX_REDIS_HOST", "REDIS_HOST"], "redis-host", Some("127.0.0.1"),
        "Where the Redis is that the application uses today"),
    plain("redis.port", &["PARALLAX_REDIS_PORT", "REDIS_PORT"], "redis-port", Some("6379"), "Its port"),
    plain("redis.db", &["PARALLAX_REDIS_DB", "REDIS_DB"], "redis-db", Some("0"), "The number of the database"),
    plain("redis.username", &["PARALLAX_REDIS_USERNAME", "REDIS_USERNAME"], "redis-username", None,
        "The ACL user; without one Redis' default user"),
    hidden("redis.password", &["PARALLAX_REDIS_PASSWORD", "REDIS_PASSWORD"], "redis-password-file", Secrecy::Secret,
        "The password"),
    plain("redis.enable_tls", &["PARALLAX_REDIS_ENABLE_TLS", "REDIS_ENABLE_TLS"], "redis-enable-tls", Some("false"),
        "Speak TLS and verify the server; there is no falling back"),
    plain("redis.ca_file", &["PARALLAX_REDIS_CA_FILE"], "redis-ca-file", None,
        "A PEM file with the authorities to trust instead of the system's"),

    plain("redis.bypass", &["PARALLAX_REDIS_BYPASS"], "redis-bypass", Some("watch"),
        "Writes that no sidecar sent: `watch` for them, or `ignore` them where others write to this Redis as well"),
    plain("postgres.enabled", &["ENABLE_POSTGRES"], "enable-postgres", Some("true"),
        "false: no connection to Postgres; reads come from Redis, writes still leave their marks unless every kind is off"),
    hidden("postgres.url", &["PARALLAX_DATABASE_URL", "DATABASE_URL"], "database-url", Secrecy::Address,
        "postgres://[user:password@]host[:port]/db[?sslmode=..]. Instead of the single settings below"),
    plain("postgres.host", &["POSTGRES_HOST"], "postgres-host", Some("127.0.0.1"), "Where Postgres is"),
    plain("postgres.port", &["POSTGRES_PORT"], "postgres-port", Some("5432"), "Its port"),
    plain("postgres.db", &["POSTGRES_DB"], "postgres-db", Some("parallax"), "The name of the database"),
    plain("postgres.user", &["POSTGRES_USER"], "postgres-user", Some("parallax"), "The role"),
    hidden("postgres.password", &["POSTGRES_PASSWORD"], "postgres-password-file", Secrecy::Secret, "The password"),
    plain("postgres.pool_size", &["POSTGRES_POOL_SIZE"], "postgres-pool-size", Some("10"), "Connections for captures and jobs, at most; each thread that serves callers reads over a quarter as many of its own"),
    plain("postgres.idle_timeout_ms", &["POSTGRES_IDLE_TIMEOUT"], "postgres-idle-timeout", Some("30000"),
        "Milliseconds after which a connection that nobody uses is closed"),
    plain("postgres.sslmode", &["POSTGRES_SSLMODE"], "postgres-sslmode", Some("disable"),
        "`disable`, `require` (encrypts, trusts anybody), `verify-ca` or `verify-full`; there is no falling back"),
    plain("postgres.sslrootcert", &["POSTGRES_SSLROOTCERT"], "postgres-sslrootcert", None,
        "A PEM file with the authorities to trust instead of the system's"),

    plain("http.listen", &["PARALLAX_HTTP_LISTEN"], "http-listen", Some("127.0.0.1:8380"),
        "Where the data door listens; off loopback only with a token"),
    hidden("http.token", &["PARALLAX_HTTP_TOKEN"], "http-token-file", Secrecy::Secret,
        "The bearer tokens of the data door, separated by commas"),
    plain("http.hosts", &["PARALLAX_HTTP_HOSTS"], "http-hosts", None,
        "Further names by which clients may call the data door (`Host`), separated by commas"),
    plain("resp.listen", &["PARALLAX_RESP_LISTEN"], "resp-listen", Some("127.0.0.1:6380"),
        "Where the Redis door listens: an address, `unix:` and a path, or `off`; off loopback only with a password"),
    hidden("resp.password", &["PARALLAX_RESP_PASSWORD"], "resp-password-file", Secrecy::Secret,
        "The password that clients of the Redis door give with AUTH"),
    plain("resp.threads", &["PARALLAX_RESP_THREADS"], "resp-threads", Some("1"),
        "Threads of the Redis door; each has its own connection to Redis, shared by its clients"),
    plain("resp.connections_max", &["PARALLAX_RESP_CONNECTIONS_MAX"], "resp-connections-max", Some("10000"),
        "Client connections of the Redis door at one time"),
    plain("resp.server_commands", &["PARALLAX_RESP_SERVER_COMMANDS"], "resp-server-commands", Some("refuse"),
        "FLUSHALL, SWAPDB, CONFIG SET and their like while records are mirrored: `refuse`, or `forward` unmarked"),
    plain("resp.blocking_writes", &["PARALLAX_RESP_BLOCKING_WRITES"], "resp-blocking-writes", Some("refuse"),
        "BLPOP and its like on mirrored records: `refuse`, or `forward` unmarked"),
    plain("admin.listen", &["PARALLAX_ADMIN_LISTEN"], "admin-listen", Some("127.0.0.1:8381"),
        "Where the admin door listens; off loopback only with a token"),
    hidden("admin.viewer_token", &["PARALLAX_ADMIN_VIEWER_TOKEN"], "admin-viewer-token-file", Secrecy::Secret,
        "The bearer tokens that may look, separated by commas"),
    hidden("admin.operator_token", &["PARALLAX_ADMIN_OPERATOR_TOKEN"], "admin-operator-token-file", Secrecy::Secret,
        "The bearer tokens that may also change flags and roll back"),
    hidden("admin.secrets_token", &["PARALLAX_ADMIN_SECRETS_TOKEN"], "admin-secrets-token-file", Secrecy::Secret,
        "The bearer tokens that may also see credentials unmasked"),
    plain("admin.hosts", &["PARALLAX_ADMIN_HOSTS"], "admin-hosts", None,
        "Further names by which clients may call the admin door (`Host`), separated by commas"),
    plain("admin.origins", &["PARALLAX_ADMIN_ORIGINS"], "admin-origins", None,
        "Web pages that may evaluate flags (OFREP) and nothing else: their origins, separated by commas"),

    plain("cache.ttl_seconds", &["CACHE_TTL_SECONDS"], "cache-ttl-seconds", Some("3600"),
        "How long a record stays in Redis without being used"),
    plain("cache.write_through", &["ENABLE_WRITE_THROUGH_CACHE"], "enable-write-through-cache", Some("true"),
        "Whether a write leaves the record in Redis"),

    plain("limits.connections_max", &["PARALLAX_CONNECTIONS_MAX"], "connections-max", Some("1024"),
        "Client connections of one door at one time"),
    plain("limits.header_bytes_max", &["PARALLAX_HEADER_BYTES_MAX"], "header-bytes-max", Some("131072"),
        "Bytes of a request's head"),
    plain("limits.body_bytes_max", &["PARALLAX_BODY_BYTES_MAX"], "body-bytes-max", Some("33554432"),
        "Bytes of a request's body"),
    plain("limits.header_timeout_ms", &["PARALLAX_HEADER_TIMEOUT_MS"], "header-timeout-ms", Some("10000"),
        "From the first byte of a request to the end of its head"),
    plain("limits.body_timeout_ms", &["PARALLAX_BODY_TIMEOUT_MS"], "body-timeout-ms", Some("30000"),
        "From the end of the head to the end of the body"),
    plain("limits.idle_timeout_ms", &["PARALLAX_IDLE_TIMEOUT_MS"], "idle-timeout-ms", Some("75000"),
        "A connection that is kept open without a request"),
    plain("limits.write_timeout_ms", &["PARALLAX_WRITE_TIMEOUT_MS"], "write-timeout-ms", Some("30000"),
        "A client that takes no byte of its answer"),
    plain("limits.command_deadline_ms", &["PARALLAX_COMMAND_DEADLINE_MS"], "command-deadline-ms", Some("5000"),
        "How long a command may wait for Redis"),
    plain("limits.outbox_queue_max", &["PARALLAX_OUTBOX_QUEUE_MAX"], "outbox-queue-max", Some("65536"),
        "Marks that wait in memory; what does not fit is found in the outbox later"),
    plain("limits.shadow_queue_max", &["PARALLAX_SHADOW_QUEUE_MAX"], "shadow-queue-max", Some("1024"),
        "Comparisons that wait; what does not fit is dropped and counted"),
    plain("limits.drain_deadline_ms", &["PARALLAX_DRAIN_DEADLINE_MS"], "drain-deadline-ms", Some("20000"),
        "How long a sidecar that was asked to end brings its marks to Postgres"),
    plain("limits.lease_ms", &["PARALLAX_LEASE_MS"], "lease-ms", Some("20000"),
        "How long a sidecar may read from Postgres without having heard from the flag store. Shorten it in tests only"),
    plain("limits.barrier_wait_ms", &["PARALLAX_BARRIER_WAIT_MS"], "barrier-wait-ms", Some("30000"),
        "How long a change of stage waits for the other sidecars"),

    plain("otlp.endpoint", &["OTEL_EXPORTER_OTLP_ENDPOINT"], "otlp-endpoint", None,
        "The OTLP collector, http://host:4318 (http/protobuf) or http://host:4317 (grpc); https:// for TLS"),
    plain("otlp.protocol", &["OTEL_EXPORTER_OTLP_PROTOCOL"], "otlp-protocol", Some("http/protobuf"),
        "`http/protobuf` or `grpc`"),
    hidden("otlp.headers", &["OTEL_EXPORTER_OTLP_HEADERS"], "otlp-headers-file", Secrecy::Secret,
        "What is sent to the collector with every export: name=value, percent-encoded, separated by commas"),
    plain("otlp.ca_file", &["OTEL_EXPORTER_OTLP_CERTIFICATE"], "otlp-certificate", None,
        "A PEM file with the authorities to trust instead of the system's"),
    plain("otlp.timeout_ms", &["OTEL_EXPORTER_OTLP_TIMEOUT"], "otlp-timeout", Some("10000"),
        "Milliseconds for one try to export"),
    plain("otlp.disabled", &["OTEL_SDK_DISABLED"], "otel-sdk-disabled", Some("false"),
        "true: nothing is sent, whatever the endpoint"),
    plain("otlp.service_name", &["OTEL_SERVICE_NAME"], "otel-service-name", Some("parallax"),
        "The `service.name` that spans and metrics bear"),
    plain("otlp.resource_attributes", &["OTEL_RESOURCE_ATTRIBUTES"], "otel-resource-attributes", None,
        "What else they bear: name=value, percent-encoded, separated by commas"),

    plain("traces.exporter", &["OTEL_TRACES_EXPORTER"], "otel-traces-exporter", Some("otlp"),
        "`otlp`, or `none`: no traces, whatever the endpoint"),
    plain("traces.endpoint", &["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], "otlp-traces-endpoint", None,
        "The collector for traces alone, the whole address: nothing is appended to its path"),
    plain("traces.protocol", &["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"], "otlp-traces-protocol", None,
        "The protocol for traces alone"),
    hidden("traces.headers", &["OTEL_EXPORTER_OTLP_TRACES_HEADERS"], "otlp-traces-headers-file", Secrecy::Secret,
        "The headers for traces alone"),
    plain("traces.ca_file", &["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"], "otlp-traces-certificate", None,
        "The authorities for traces alone"),
    plain("traces.timeout_ms", &["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"], "otlp-traces-timeout", None,
        "The time for one try for traces alone"),
    plain("traces.sampler", &["OTEL_TRACES_SAMPLER"], "otel-traces-sampler", Some("parentbased_always_on"),
        "`always_on`, `always_off`, `traceidratio`, or one of them with `parentbased_` before it; mismatches and errors are always kept"),
    plain("traces.sampler_arg", &["OTEL_TRACES_SAMPLER_ARG"], "otel-traces-sampler-arg", None,
        "The share of traces that `traceidratio` keeps, 0 to 1; all without it"),
    plain("traces.queue_max", &["OTEL_BSP_MAX_QUEUE_SIZE"], "otel-bsp-max-queue-size", Some("2048"),
        "Spans that wait for their export; what does not fit is dropped and counted"),
    plain("traces.batch_max", &["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"], "otel-bsp-max-export-batch-size", Some("512"),
        "Spans in one export"),
    plain("traces.delay_ms", &["OTEL_BSP_SCHEDULE_DELAY"], "otel-bsp-schedule-delay", Some("5000"),
        "Milliseconds that a span waits for others to be exported with"),
    plain("traces.export_timeout_ms", &["OTEL_BSP_EXPORT_TIMEOUT"], "otel-bsp-export-timeout", Some("30000"),
        "Milliseconds for one export, all its tries together; what was not taken by then is dropped and counted"),

    plain("metrics.exporter", &["OTEL_METRICS_EXPORTER"], "otel-metrics-exporter", Some("none"),
        "`otlp`: metrics are sent to the collector, beside being there to be scraped; `none`: they are not"),
    plain("metrics.endpoint", &["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"], "otlp-metrics-endpoint", None,
        "The collector for metrics alone, the whole address: nothing is appended to its path"),
    plain("metrics.protocol", &["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"], "otlp-metrics-protocol", None,
        "The protocol for metrics alone"),
    hidden("metrics.headers", &["OTEL_EXPORTER_OTLP_METRICS_HEADERS"], "otlp-metrics-headers-file", Secrecy::Secret,
        "The headers for metrics alone"),
    plain("metrics.ca_file", &["OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE"], "otlp-metrics-certificate", None,
        "The authorities for metrics alone"),
    plain("metrics.timeout_ms", &["OTEL_EXPORTER_OTLP_METRICS_TIMEOUT"], "otlp-metrics-timeout", None,
        "The time for one try for metrics alone"),
    plain("metrics.interval_ms", &["OTEL_METRIC_EXPORT_INTERVAL"], "otel-metric-export-interval", Some("60000"),
        "Milliseconds from one export of metrics to the next"),
    plain("metrics.export_timeout_ms", &["OTEL_METRIC_EXPORT_TIMEOUT"], "otel-metric-export-timeout", Some("30000"),
        "Milliseconds for one export of metrics, all its tries together"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_settings_share_a_name() {
        let keys: BTreeSet<_> = DEFINITIONS.iter().map(|definition| definition.key).collect();
        let flags: BTreeSet<_> = DEFINITIONS.iter().map(|definition| definition.flag).collect();
        let variables: Vec<_> = DEFINITIONS.iter().flat_map(|definition| definition.variables).collect();
        assert_eq!(keys.len(), DEFINITIONS.len());
        assert_eq!(flags.len(), DEFINITIONS.len());
        assert_eq!(variables.iter().collect::<BTreeSet<_>>().len(), variables.len());
    }

    #[test]
    fn a_secret_can_be_given_on_the_command_line_only_by_a_file() {
        for definition in DEFINITIONS.iter().filter(|definition| definition.secrecy == Secrecy::Secret) {
            assert!(definition.flag.ends_with("-file"), "--{}", definition.flag);
        }
    }
}
