//! How each store is reached, and whom of those who answer there to believe. What was asked for is what is done: nothing
//! here falls back to plain text, or to a server that was not verified.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use secrecy::ExposeSecret;

use crate::settings::otlp::OtlpTarget;
use crate::settings::{PostgresSettings, RedisSettings, SslMode};
use crate::stores::redis::wire::Upstream;

/// Why TLS cannot be spoken as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with the authorities does not do.
    #[error("{path}: {reason}", path = .path.display())]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system has no authorities to trust.
    #[error("this system has no certificate authorities ({0}): install them (ca-certificates), or name a CA file")]
    NoSystemRoots(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Makes ring the crypto of this process. To be called once, before anything connects; a second call does nothing.
pub fn install_provider() {
    // The only way to fail is that a provider is installed already, which is what was asked for.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// Host, port, database, user and password of Postgres, TLS demanded where it is configured.
#[must_use]
pub fn postgres_target(settings: &PostgresSettings) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(&settings.host).port(settings.port).dbname(&settings.database).user(&settings.user);
    config.application_name("parallax");
    if let Some(password) = &settings.password {
        config.password(password.expose_secret());
    }
    config.ssl_mode(match settings.sslmode {
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        // Never `Prefer`, which goes on in plain text when the server, or somebody before it, says so.
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
    });
    config
}

/// How to speak TLS with Postgres; nothing when it is not to be spoken.
///
/// # Errors
/// When the authorities cannot be read.
pub fn postgres_config(settings: &PostgresSettings) -> Result<Option<ClientConfig>, TlsError> {
    let roots = || roots(settings.sslrootcert.as_deref());
    let trust = match (settings.sslmode, &settings.sslrootcert) {
        (SslMode::Disable, _) => return Ok(None),
        (SslMode::Require, None) => Trust::Anybody,
        // As libpq does: who names an authority means it.
        (SslMode::Require, Some(_)) | (SslMode::VerifyCa, _) => Trust::Chain(roots()?),
        (SslMode::VerifyFull, _) => Trust::ChainAndName(roots()?),
    };
    client_config(trust).map(Some)
}

/// How to speak TLS with a collector of traces, whose chain and name are verified. Trusts nobody where its address does not
/// ask for TLS.
///
/// # Errors
/// When the authorities cannot be read.
pub fn collector_config(settings: &OtlpTarget) -> Result<ClientConfig, TlsError> {
    let is_tls = settings.endpoint.scheme_str() == Some("https");
    let trusted = if is_tls { roots(settings.ca_file.as_deref())? } else { Arc::new(RootCertStore::empty()) };
    client_config(Trust::ChainAndName(trusted))
}

/// A client for Redis: verified TLS where it is configured, else plain text. Does not connect yet.
///
/// # Errors
/// When the authorities cannot be read.
pub fn redis_client(settings: &RedisSettings) -> Result<redis::Client, TlsError> {
    let mut login = RedisConnectionInfo::default().set_db(i64::from(settings.database));
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password.expose_secret());
    }
    let setup = |error: redis::RedisError| TlsError::Setup(error.to_string());
    let (host, port) = (settings.host.clone(), settings.port);
    let Some(tls) = &settings.tls else {
        let address =
            if host.starts_with('/') { ConnectionAddr::Unix(host.into()) } else { ConnectionAddr::Tcp(host, port) };
        let info = address.into_connection_info().map_err(setup)?;
        return redis::Client::open(info.set_redis_settings(login)).map_err(setup);
    };
    install_provider();
    let root_cert = match &tls.ca_file {
        // Read as Postgres' is, so that a file without a certificate is refused here and not at the first connection.
        Some(path) => {
            roots(Some(path))?;
            Some(std::fs::read(path).map_err(|error| ca_error(path, error))?)
        }
        None => None,
    };
    let address = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
    let info = address.into_connection_info().map_err(setup)?.set_redis_settings(login);
    redis::Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert }).map_err(setup)
}

/// The same Redis for callers' commands: the address and login of `client`, with the TLS that is configured.
///
/// # Errors
/// When the authorities cannot be read.
pub fn redis_upstream(settings: &RedisSettings, client: &redis::Client) -> Result<Upstream, TlsError> {
    let trust = match &settings.tls {
        Some(tls) => Some(Trust::ChainAndName(roots(tls.ca_file.as_deref())?)),
        None => None,
    };
    let config = trust.map(client_config).transpose()?.map(Arc::new);
    Upstream::of(client, config).map_err(TlsError::Setup)
}

enum Trust {
    Anybody,
    Chain(Arc<RootCertStore>),
    ChainAndName(Arc<RootCertStore>),
}

fn client_config(trust: Trust) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let lenient = |roots| Arc::new(Lenient { roots, algorithms: provider.signature_verification_algorithms });
    let dangerous = |verifier| builder.clone().dangerous().with_custom_certificate_verifier(verifier);
    Ok(match trust {
        Trust::Anybody => dangerous(lenient(None)).with_no_client_auth(),
        Trust::Chain(roots) => dangerous(lenient(Some(roots))).with_no_client_auth(),
        Trust::ChainAndName(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
    })
}

fn roots(ca_file: Option<&Path>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = ca_file {
        let pem = std::fs::read(path).map_err(|error| ca_error(path, error))?;
        for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
            let certificate = certificate.map_err(|error| ca_error(path, error))?;
            store.add(certificate).map_err(|error| ca_error(path, error))?;
        }
        if store.is_empty() {
            return Err(ca_error(path, "holds no certificate in PEM"));
        }
        return Ok(Arc::new(store));
    }
    let found = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoSystemRoots(reasons.join("; ")));
    }
    Ok(Arc::new(store))
}

fn ca_error(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::CaFile { path: path.to_owned(), reason: reason.to_string() }
}

/// Believes a server whose certificate comes from `roots`, whatever its name; anybody, without roots. That the server
/// holds the key of the certificate it shows is checked either way.
#[derive(Debug)]
struct Lenient {
    roots: Option<Arc<RootCertStore>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, self.algorithms.all)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
