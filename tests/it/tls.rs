//! TLS with both real servers: a trusted one is believed, another is not, and nobody falls back to plain text.

use std::path::PathBuf;
use std::sync::Once;

use parallax::dev::servers::{PostgresOptions, PrivatePostgres, PrivateRedis, RedisOptions, ServerTls};
use parallax::model::frame::Protocol;
use parallax::settings::sources::Inputs;
use parallax::settings::{Settings, load};
use parallax::stores::tls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_postgres_rustls::MakeRustlsConnect;

/// An authority, and a file with its certificate.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub(crate) fn certificate_for(&self, name: &str) -> ServerTls {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        ServerTls { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }
}

fn settings(variables: &[(&str, &str)]) -> Settings {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(tls::install_provider);
    load(&Inputs::of_variables(variables)).unwrap_or_else(|errors| panic!("{errors}")).settings
}

/// Whether the server says that this very connection is encrypted; or why there is none, every cause of it.
async fn postgres(port: u16, host: &str, sslmode: &str, ca: Option<&Authority>) -> Result<bool, String> {
    let (port, file) = (port.to_string(), ca.map(Authority::file).unwrap_or_default());
    let mut variables = vec![
        ("POSTGRES_HOST", host),
        ("POSTGRES_PORT", &port),
        ("POSTGRES_USER", "postgres"),
        ("POSTGRES_DB", "postgres"),
    ];
    variables.push(("POSTGRES_SSLMODE", sslmode));
    variables.push(("POSTGRES_SSLROOTCERT", file.to_str().unwrap()));
    let settings = settings(&variables).postgres.unwrap();
    let target = tls::postgres_target(&settings);
    let client = match tls::postgres_config(&settings).unwrap() {
        Some(config) => {
            let (client, connection) = target.connect(MakeRustlsConnect::new(config)).await.map_err(|e| chain(&e))?;
            tokio::spawn(connection);
            client
        }
        None => {
            let (client, connection) = target.connect(tokio_postgres::NoTls).await.map_err(|e| chain(&e))?;
            tokio::spawn(connection);
            client
        }
    };
    let query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(client.query_one(query, &[]).await.map_err(|error| chain(&error))?.get(0))
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn start_postgres(tls: Option<ServerTls>) -> PrivatePostgres {
    PrivatePostgres::start(PostgresOptions { tls, ..PostgresOptions::default() }).await.unwrap()
}

#[tokio::test]
async fn postgres_is_believed_as_far_as_the_mode_says() {
    let (ours, other) = (Authority::new(), Authority::new());
    let right = start_postgres(Some(ours.certificate_for("localhost"))).await;
    let misnamed = start_postgres(Some(ours.certificate_for("db.example"))).await;

    assert_eq!(postgres(right.port(), "localhost", "verify-full", Some(&ours)).await, Ok(true));
    assert_eq!(postgres(misnamed.port(), "localhost", "verify-ca", Some(&ours)).await, Ok(true));
    assert_eq!(postgres(misnamed.port(), "localhost", "require", None).await, Ok(true));

    let name = postgres(misnamed.port(), "localhost", "verify-full", Some(&ours)).await.unwrap_err();
    assert!(name.contains("not valid for name"), "{name}");
    for mode in ["verify-full", "verify-ca", "require"] {
        let stranger = postgres(right.port(), "localhost", mode, Some(&other)).await.unwrap_err();
        assert!(stranger.contains("invalid peer certificate"), "{mode}: {stranger}");
    }
    // A test authority is none that the system trusts.
    let system = postgres(right.port(), "localhost", "verify-full", None).await.unwrap_err();
    assert!(system.contains("invalid peer certificate"), "{system}");
}

#[tokio::test]
async fn postgres_is_never_spoken_to_in_plain_text_when_tls_was_asked_for_nor_the_other_way() {
    let authority = Authority::new();
    let plain = start_postgres(None).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let ca = (mode != "require").then_some(&authority);
        let refused = postgres(plain.port(), "localhost", mode, ca).await.unwrap_err();
        assert!(refused.contains("server does not support TLS"), "{mode}: {refused}");
    }
    assert_eq!(postgres(plain.port(), "localhost", "disable", None).await, Ok(false));

    let encrypted = start_postgres(Some(authority.certificate_for("localhost"))).await;
    assert!(postgres(encrypted.port(), "localhost", "disable", None).await.unwrap_err().contains("no encryption"));
}

async fn redis(port: u16, host: &str, ca: Option<&Authority>) -> Result<String, String> {
    let (port, file) = (port.to_string(), ca.map(Authority::file).unwrap_or_default());
    let is_tls = if ca.is_some() { "true" } else { "false" };
    let variables = [
        ("REDIS_HOST", host),
        ("REDIS_PORT", &port),
        ("REDIS_PASSWORD", "s3cret"),
        ("REDIS_ENABLE_TLS", is_tls),
        ("PARALLAX_REDIS_CA_FILE", file.to_str().unwrap()),
    ];
    let settings = settings(&variables).redis;
    let client = tls::redis_client(&settings).unwrap();
    // The lane of callers' commands has TLS of its own, and believes the same servers.
    let upstream = tls::redis_upstream(&settings, &client).unwrap();
    let wire = upstream.connect(Protocol::Resp3).await;
    let is_let_in = client.get_multiplexed_async_connection().await.is_ok();
    assert_eq!(wire.is_ok(), is_let_in, "{:?}", wire.err());
    let mut connection = client.get_multiplexed_async_connection().await.map_err(|error| chain(&error))?;
    redis::cmd("PING").query_async(&mut connection).await.map_err(|error| chain(&error))
}

async fn start_redis(tls: Option<ServerTls>) -> PrivateRedis {
    let password = Some("s3cret".to_owned());
    PrivateRedis::start(RedisOptions { tls, password, ..RedisOptions::default() }).await.unwrap()
}

#[tokio::test]
async fn redis_is_believed_only_with_our_authority_and_under_its_name() {
    let (ours, other) = (Authority::new(), Authority::new());
    let server = start_redis(Some(ours.certificate_for("localhost"))).await;
    assert_eq!(redis(server.port(), "localhost", Some(&ours)).await.as_deref(), Ok("PONG"));
    let stranger = redis(server.port(), "localhost", Some(&other)).await.unwrap_err();
    assert!(stranger.contains("invalid peer certificate"), "{stranger}");
    let name = redis(server.port(), "127.0.0.1", Some(&ours)).await.unwrap_err();
    assert!(name.contains("not valid for name"), "{name}");
}

#[tokio::test]
async fn redis_is_never_spoken_to_in_plain_text_when_tls_was_asked_for_nor_the_other_way() {
    let authority = Authority::new();
    let plain = start_redis(None).await;
    assert_eq!(redis(plain.port(), "localhost", None).await.as_deref(), Ok("PONG"));
    assert!(redis(plain.port(), "localhost", Some(&authority)).await.is_err());
    let encrypted = start_redis(Some(authority.certificate_for("localhost"))).await;
    assert!(redis(encrypted.port(), "localhost", None).await.is_err());
}

#[test]
fn a_file_without_a_certificate_is_refused_before_anybody_connects() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, "not a certificate").unwrap();
    let path = file.to_str().unwrap();
    let settings = settings(&[
        ("POSTGRES_SSLMODE", "verify-full"),
        ("POSTGRES_SSLROOTCERT", path),
        ("REDIS_ENABLE_TLS", "true"),
        ("PARALLAX_REDIS_CA_FILE", path),
    ]);
    let of_postgres = tls::postgres_config(&settings.postgres.unwrap()).unwrap_err().to_string();
    let of_redis = tls::redis_client(&settings.redis).unwrap_err().to_string();
    assert_eq!(of_postgres, format!("{path}: holds no certificate in PEM"));
    assert_eq!(of_redis, of_postgres);
}
