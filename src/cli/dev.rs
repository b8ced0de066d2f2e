//! `parallax dev`: the sidecar with nothing configured. What nobody named is started privately, and goes with us.

use std::process::ExitCode;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};

use crate::cli::{serve, terminal};
use crate::dev::servers::{PostgresOptions, PrivatePostgres, PrivateRedis, RedisOptions};
use crate::settings::sources::Inputs;
use crate::settings::{self, Loaded, RespListen, report};
use crate::shutdown::Shutdown;
use crate::telemetry::logs;

/// The database that `parallax dev` makes in its private Postgres.
const DATABASE: &str = "parallax";

/// The private servers of this run; those that were configured are not among them.
#[derive(Default)]
struct Servers {
    redis: Option<PrivateRedis>,
    postgres: Option<PrivatePostgres>,
}

/// Starts what is missing, migrates, and serves until `shutdown`.
pub(super) async fn run(mut inputs: Inputs, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let loaded = settings::load(&inputs)?;
    logs::start(&loaded.settings.log)?;
    // Starting takes a second or two; who changes their mind meanwhile does not wait for it.
    let servers = tokio::select! {
        servers = start(&loaded) => servers?,
        () = shutdown.requested() => return Ok(ExitCode::SUCCESS),
    };
    inputs.flags.extend(flags_for(&servers));
    let loaded = settings::load(&inputs)?;
    terminal::say(&addresses(&loaded, &servers));
    let served = serve::serve(&inputs, loaded, shutdown).await;
    stop(servers).await;
    served
}

async fn start(loaded: &Loaded) -> anyhow::Result<Servers> {
    let settings = &loaded.settings;
    let (redis_is_named, postgres_is_named) = report::stores_named(&loaded.resolved);
    let password = |secret: Option<&SecretString>| secret.map(|secret| secret.expose_secret().to_owned());
    let redis = async {
        if redis_is_named {
            return Ok(None);
        }
        let options = RedisOptions { password: password(settings.redis.password.as_ref()), ..RedisOptions::default() };
        PrivateRedis::start(options).await.map(Some)
    };
    let postgres = async {
        let Some(wanted) = settings.postgres.as_ref().filter(|_| !postgres_is_named) else {
            return Ok(None);
        };
        let password = password(wanted.password.as_ref());
        PrivatePostgres::start(PostgresOptions { password, ..PostgresOptions::default() }).await.map(Some)
    };
    let (redis, postgres) = tokio::try_join!(redis, postgres)?;
    if let Some(postgres) = &postgres {
        create_database(&postgres.url()).await.context("the private Postgres refused a database")?;
    }
    Ok(Servers { redis, postgres })
}

async fn create_database(url: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let driver = tokio::spawn(connection);
    let created = client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await;
    driver.abort();
    created
}

/// Where the private servers are, as if it had been said on the command line: that wins over whatever else was said.
fn flags_for(servers: &Servers) -> Vec<(&'static str, String)> {
    let mut flags = Vec::new();
    let mut say = |key, value: &str| flags.push((key, value.to_owned()));
    if let Some(redis) = &servers.redis {
        say("redis.host", "127.0.0.1");
        say("redis.port", &redis.port().to_string());
        say("redis.enable_tls", "false");
    }
    if let Some(postgres) = &servers.postgres {
        say("postgres.host", "127.0.0.1");
        say("postgres.port", &postgres.port().to_string());
        say("postgres.db", DATABASE);
        say("postgres.user", "postgres");
        say("postgres.sslmode", "disable");
        say("migrate_on_start", "true");
    }
    flags
}

fn addresses(loaded: &Loaded, servers: &Servers) -> String {
    let settings = &loaded.settings;
    let (http, admin) = (settings.http.listen, settings.admin.listen);
    let whose = |is_private: bool| {
        if is_private { "private, gone when this ends" } else { "yours" }
    };
    let redis = format!("redis-cli -p {}", settings.redis.port);
    let redis = if servers.redis.is_some() { redis } else { format!("{redis} -h {}", settings.redis.host) };
    let postgres = settings.postgres.as_ref().map_or_else(
        || "none (ENABLE_POSTGRES is false)".to_owned(),
        |postgres| {
            let place =
                format!("postgres://{}@{}:{}/{}", postgres.user, postgres.host, postgres.port, postgres.database);
            format!("psql {place}   ({})", whose(servers.postgres.is_some()))
        },
    );
    let resp = settings.resp.as_ref().map_or_else(
        || "off".to_owned(),
        |resp| match &resp.listen {
            RespListen::Tcp(listen) => format!("redis-cli -p {}", listen.port()),
            RespListen::Unix(path) => format!("redis-cli -s {}", path.display()),
        },
    );
    format!(
        "\
data door    http://{http}/redis   (curl -H 'Content-Type: application/json' -d '[\"PING\"]' http://{http}/redis)
resp door    {resp}
admin door   http://{admin}/v1/flags
redis        {redis}   ({})
postgres     {postgres}
Ctrl-C ends it.",
        whose(servers.redis.is_some())
    )
}

/// In good order: what is left in them is gone, but a log that ends with a crash would worry somebody.
async fn stop(servers: Servers) {
    if let Some(redis) = servers.redis
        && let Err(error) = redis.stop().await
    {
        tracing::warn!(%error, "the private Redis did not end by itself");
    }
    if let Some(postgres) = servers.postgres
        && let Err(error) = postgres.stop().await
    {
        tracing::warn!(%error, "the private Postgres did not end by itself");
    }
}
