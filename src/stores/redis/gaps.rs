//! Capture gaps on their way to Postgres.
//!
//! They are noted where the writes are, so that a Postgres that is down or a sidecar that dies loses none. One for each kind and cause: a second one widens the first.

use std::collections::BTreeMap;

use crate::model::command::Command;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::parts::Parts;
use crate::stores::redis::script::Scripts;
use crate::stores::redis::{GAPS, script};

/// A gap as it waits in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The kind, or `*`.
    pub kind: String,
    /// Its cause.
    pub cause: String,
    /// The version up to which nothing was missed.
    pub from_version: i64,
    /// The version from which on nothing is missed any more.
    pub version: i64,
    /// What more is known of it; empty where nothing is.
    pub detail: String,
}

impl Noted {
    fn parse(name: &str, value: &str) -> Option<Self> {
        let ((kind, cause), mut parts) = (name.rsplit_once(' ')?, value.splitn(3, ' '));
        let (from_version, version) = (parts.next()?, parts.next()?);
        Some(Self {
            kind: kind.to_owned(),
            cause: cause.to_owned(),
            from_version: from_version.parse().ok()?,
            version: version.parse().ok()?,
            detail: parts.next().unwrap_or_default().to_owned(),
        })
    }

    fn name(&self) -> String {
        format!("{} {}", self.kind, self.cause)
    }

    fn value(&self) -> String {
        let detail = if self.detail.is_empty() { String::new() } else { format!(" {}", self.detail) };
        format!("{} {}{detail}", self.from_version, self.version)
    }
}

/// Notes a gap of these kinds that ends now; it began behind `from_version`, or now. `detail` says what more is known of it.
///
/// # Errors
/// When Redis cannot be reached, or is outside the lineage.
pub async fn note(
    redis: &Redis,
    cause: &str,
    from_version: Option<i64>,
    kinds: &[String],
    detail: &str,
) -> Result<(), RedisError> {
    let from = from_version.map(|version| version.to_string()).unwrap_or_default();
    let mut args: Vec<&[u8]> = vec![cause.as_bytes(), from.as_bytes(), detail.as_bytes()];
    args.extend(kinds.iter().map(|kind| kind.as_bytes()));
    redis.script(&script::GAP, &[], &args).await.map(drop)
}

/// The gaps that Postgres may not have.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn noted(redis: &Redis) -> Result<Vec<Noted>, RedisError> {
    let all = Parts::of(redis.command(Command::new(["HGETALL", GAPS])).await?)?.all_pairs()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all: BTreeMap<String, String> = all.iter().map(|(name, value)| (text(name), text(value))).collect();
    Ok(all.iter().filter_map(|(name, value)| Noted::parse(name, value)).collect())
}

/// Forgets a gap: Postgres has it.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn written(redis: &Redis, gap: &Noted) -> Result<(), RedisError> {
    let (name, value) = (gap.name(), gap.value());
    redis.script(&script::GAP_WRITTEN, &[], &[name.as_bytes(), value.as_bytes()]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_comes_back_as_it_was_noted() {
        for detail in ["", "hset 3, set 1"] {
            let (kind, cause, detail) = ("*".to_owned(), "bypassed".to_owned(), detail.to_owned());
            let gap = Noted { kind, cause, from_version: 3, version: 9, detail };
            assert_eq!(Noted::parse(&gap.name(), &gap.value()), Some(gap));
        }
        assert_eq!(Noted::parse("user", "3 9"), None);
    }
}
