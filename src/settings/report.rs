//! What `parallax config check` prints: what holds, who said so, and what deserves a second look. Secrets are masked.

use crate::settings::definitions::{DEFINITIONS, Definition, Secrecy};
use crate::settings::sources::{Resolved, Source};
use crate::settings::{Loaded, Settings, SslMode};

const MASK: &str = "********";

/// The effective settings, a line each.
#[must_use]
pub fn effective(loaded: &Loaded) -> String {
    let mut text = String::new();
    let mut heading = "";
    let widest = DEFINITIONS.iter().map(|definition| definition.key.len()).max().unwrap_or(0);
    for definition in DEFINITIONS.iter().filter(|definition| definition.secrecy != Secrecy::Address) {
        if definition.heading() != heading {
            heading = definition.heading();
            text += &format!("{}{heading}\n", if text.is_empty() { "" } else { "\n" });
        }
        let (value, source) = shown(definition, loaded);
        let note = note(definition, &loaded.settings);
        let line = format!("  {:widest$}  {value:<24}  {source}{note}", definition.key);
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// What may be meant and may be a mistake.
#[must_use]
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_near = |host: &str| host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if settings.redis.tls.is_none() && !is_near(&settings.redis.host) {
        warnings.push(format!(
            "redis at {} is spoken to in plain text: anybody on the way reads along (REDIS_ENABLE_TLS=true)",
            settings.redis.host
        ));
    }
    if let Some(postgres) = &settings.postgres
        && !is_near(&postgres.host)
    {
        let host = &postgres.host;
        match (postgres.sslmode, &postgres.sslrootcert) {
            (SslMode::Disable, _) => warnings.push(format!(
                "postgres at {host} is spoken to in plain text: anybody on the way reads along (POSTGRES_SSLMODE=verify-full)"
            )),
            (SslMode::Require, None) => warnings.push(format!(
                "postgres at {host} is not verified: anybody on the way can pretend to be it (POSTGRES_SSLMODE=verify-full)"
            )),
            (SslMode::Require, Some(_)) | (SslMode::VerifyCa | SslMode::VerifyFull, _) => {}
        }
    }
    warnings
}

fn shown(definition: &Definition, loaded: &Loaded) -> (String, String) {
    if definition.key == "instance" {
        let source = source_of(definition, &loaded.resolved);
        let source = if source.is_empty() { "random, another at each start".to_owned() } else { source };
        return (loaded.settings.instance.clone(), source);
    }
    let value = match loaded.resolved.winner(definition.key) {
        None => "(not set)".to_owned(),
        Some(given) if given.text().is_empty() => "(not set)".to_owned(),
        Some(given) => match definition.secrecy {
            Secrecy::Plain => given.text().to_owned(),
            Secrecy::Address | Secrecy::Secret => MASK.to_owned(),
        },
    };
    (value, source_of(definition, &loaded.resolved))
}

fn source_of(definition: &Definition, resolved: &Resolved) -> String {
    resolved.winner(definition.key).map(|given| given.source.to_string()).unwrap_or_default()
}

fn note(definition: &Definition, settings: &Settings) -> &'static str {
    if definition.key.starts_with("cache.") {
        return "   (no effect before cachefirst)";
    }
    let is_of_postgres = definition.key.starts_with("postgres.") && definition.key != "postgres.enabled";
    if is_of_postgres && settings.postgres.is_none() {
        return "   (no effect while ENABLE_POSTGRES is false)";
    }
    if definition.key.starts_with("traces.") && settings.traces.is_none() {
        return "   (no effect: traces are off)";
    }
    if definition.key.starts_with("metrics.") && settings.metrics.is_none() {
        return "   (no effect: metrics are scraped, and sent nowhere)";
    }
    if definition.key.starts_with("otlp.") && settings.traces.is_none() && settings.metrics.is_none() {
        return "   (no effect: nothing is sent to a collector)";
    }
    ""
}

/// Whether anybody named a Redis, and whether anybody named a Postgres. `parallax dev` starts what nobody named.
#[must_use]
pub fn stores_named(resolved: &Resolved) -> (bool, bool) {
    let is_named = |keys: [&str; 3]| {
        keys.iter().any(|key| resolved.winner(key).is_some_and(|given| given.source != Source::Default))
    };
    (is_named(["redis.url", "redis.host", "redis.port"]), is_named(["postgres.url", "postgres.host", "postgres.port"]))
}
