//! Addresses in one piece: takes `redis://..` and `postgres://..` apart and sets the pieces beside those given singly.
//!
//! A piece that is given singly wins over an address of a lower rank, and the other way round; where both have the same
//! rank and say different things, nobody can know what was meant, and that is an error.

use percent_encoding::percent_decode_str;
use url::Url;

use crate::settings::SettingError;
use crate::settings::sources::{Given, Resolved};

/// (key, value) of each piece that an address states.
type Pieces = Vec<(&'static str, String)>;

/// Merges both addresses into their pieces.
pub(super) fn merge(resolved: &mut Resolved, errors: &mut Vec<SettingError>) {
    merge_one(resolved, "redis.url", redis_pieces, errors);
    merge_one(resolved, "postgres.url", postgres_pieces, errors);
}

fn merge_one(
    resolved: &mut Resolved,
    url_key: &'static str,
    take_apart: fn(&str) -> Result<Pieces, String>,
    errors: &mut Vec<SettingError>,
) {
    let addresses = resolved.given.get(url_key).cloned().unwrap_or_default();
    for address in addresses {
        let pieces = match take_apart(address.text()) {
            Ok(pieces) => pieces,
            Err(problem) => {
                errors.push(SettingError::new(address.source.to_string(), problem));
                continue;
            }
        };
        for (key, value) in pieces {
            let all = resolved.given.entry(key).or_default();
            let rank = address.source.rank();
            let rival = all.iter().find(|given| given.source.rank() == rank && given.text() != value);
            if let Some(rival) = rival {
                let what = key.rsplit('.').next().unwrap_or(key);
                let problem = format!("{} says something else about the {what}: keep one of them", rival.source);
                errors.push(SettingError::new(address.source.to_string(), problem));
                continue;
            }
            let at = all.iter().position(|given| given.source.rank() >= rank).unwrap_or(all.len());
            all.insert(at, Given { value: value.into(), source: address.source.clone() });
        }
    }
}

fn redis_pieces(text: &str) -> Result<Pieces, String> {
    let url = parse(text, "redis://[user:password@]host[:port][/db]")?;
    let tls = match url.scheme() {
        "redis" => "false",
        "rediss" => "true",
        other => return Err(format!("`{other}` is not understood: give redis:// or rediss:// (TLS)")),
    };
    let mut pieces = vec![
        ("redis.host", host(&url)?),
        ("redis.port", url.port().unwrap_or(6379).to_string()),
        ("redis.enable_tls", tls.to_owned()),
    ];
    pieces.extend(login(&url, "redis.username", "redis.password")?);
    let database = url.path().trim_matches('/');
    if !database.is_empty() {
        pieces.push(("redis.db", database.to_owned()));
    }
    if let Some((name, _)) = url.query_pairs().next() {
        return Err(format!("the parameter `{name}` is not understood"));
    }
    Ok(pieces)
}

fn postgres_pieces(text: &str) -> Result<Pieces, String> {
    let url = parse(text, "postgres://[user:password@]host[:port]/db")?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(format!("`{}` is not understood: give postgres://", url.scheme()));
    }
    let mut pieces = vec![("postgres.host", host(&url)?), ("postgres.port", url.port().unwrap_or(5432).to_string())];
    pieces.extend(login(&url, "postgres.user", "postgres.password")?);
    let database = decoded(url.path().trim_matches('/'))?;
    if !database.is_empty() {
        pieces.push(("postgres.db", database));
    }
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "sslmode" => pieces.push(("postgres.sslmode", value.into_owned())),
            "sslrootcert" => pieces.push(("postgres.sslrootcert", value.into_owned())),
            other => {
                return Err(format!("the parameter `{other}` is not understood; `sslmode` and `sslrootcert` are"));
            }
        }
    }
    Ok(pieces)
}

fn parse(text: &str, form: &str) -> Result<Url, String> {
    // Nothing of the text may stand in the error: it may hold a password.
    Url::parse(text).map_err(|error| format!("not an address ({error}): give {form}"))
}

/// The host as a socket wants it: an IPv6 address without its brackets.
fn host(url: &Url) -> Result<String, String> {
    match url.host_str() {
        Some(host) if !host.is_empty() => decoded(host.trim_matches(['[', ']'])),
        Some(_) | None => Err("the address names no host".to_owned()),
    }
}

fn login(url: &Url, user_key: &'static str, password_key: &'static str) -> Result<Pieces, String> {
    let mut pieces = Vec::new();
    if !url.username().is_empty() {
        pieces.push((user_key, decoded(url.username())?));
    }
    if let Some(password) = url.password() {
        pieces.push((password_key, decoded(password)?));
    }
    Ok(pieces)
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| "the address holds bytes that are not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_states_what_it_holds_and_nothing_else() {
        let pieces = redis_pieces("rediss://:p%40ss@[::1]:7000/3").unwrap();
        assert_eq!(
            pieces,
            [
                ("redis.host", "::1".to_owned()),
                ("redis.port", "7000".to_owned()),
                ("redis.enable_tls", "true".to_owned()),
                ("redis.password", "p@ss".to_owned()),
                ("redis.db", "3".to_owned()),
            ]
        );
        let pieces = postgres_pieces("postgresql://u@db.example/name?sslmode=verify-full").unwrap();
        assert!(pieces.contains(&("postgres.sslmode", "verify-full".to_owned())));
        assert!(!pieces.iter().any(|(key, _)| *key == "postgres.password"));
    }

    #[test]
    fn an_address_that_is_not_understood_is_refused_without_being_quoted() {
        for text in ["redis://", "http://s3cret@h", "unix:///s3cret", "s3cret", "redis://h:s3cret"] {
            let problem = redis_pieces(text).unwrap_err();
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        assert!(postgres_pieces("mysql://h/db").is_err());
        assert!(postgres_pieces("postgres://h/db?connect_timeout=3").is_err());
    }
}
