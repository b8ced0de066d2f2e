//! What Parallax stands on, checked at the start: versions, one primary, scripts, eviction, grants, schema.

use crate::model::catalog::Table;
use crate::model::command::Command;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::lineage::facts;
use crate::stores::postgres::pool::PostgresError;
use crate::stores::redis::Redis;
use crate::stores::redis::connection::RedisError;

/// A thing that is not as it must be, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
    /// Whether Parallax cannot start with it.
    pub is_fatal: bool,
}

impl Remedy {
    fn fatal(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into(), is_fatal: true }
    }
}

/// Checks Redis.
///
/// # Errors
/// When it cannot be reached.
pub async fn check_redis(redis: &Redis) -> Result<Vec<Remedy>, RedisError> {
    let server = redis.server().await?;
    let mut remedies = Vec::new();
    let major: u32 = server.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major < 7 {
        remedies.push(Remedy::fatal(
            format!("redis is of version {}", server.version),
            "upgrade to Redis 7.0 or Valkey 7.2 or newer",
        ));
    }
    if server.mode != "standalone" {
        remedies.push(Remedy::fatal(
            format!("redis runs in mode {}", server.mode),
            "give the address of one primary: Redis Cluster and Sentinel addresses are not built yet",
        ));
    }
    if server.role != "master" {
        remedies.push(Remedy::fatal("this redis is a replica", "give the address of its primary"));
    }
    if let Err(error) = redis.command(Command::new(["EVAL", "return 1", "0"])).await {
        remedies.push(Remedy::fatal(
            format!("scripts are not allowed ({error})"),
            "grant EVAL, EVALSHA and the other commands of the ACL line in docs/requirements.md",
        ));
    }
    let policy = &server.eviction;
    if !policy.is_empty() && policy != "noeviction" {
        remedies.push(Remedy {
            reason: format!("maxmemory-policy is {policy}: redis may evict records"),
            remedy: "set maxmemory-policy noeviction; evictions are counted, but what is evicted is gone from redis"
                .to_owned(),
            is_fatal: false,
        });
    }
    Ok(remedies)
}

/// Checks Postgres.
///
/// # Errors
/// When it cannot be reached.
pub async fn check_postgres(postgres: &Postgres) -> Result<Vec<Remedy>, PostgresError> {
    let mut tables: Vec<&str> = Table::ALL.iter().map(|table| table.name()).collect();
    tables.extend([
        "collections",
        "control",
        "heartbeat",
        "flag_changes",
        "mismatches",
        "dead_letters",
        "log_gaps",
        "capture_gaps",
        "ghosts",
        "jobs",
        "proofs",
    ]);
    let facts = facts(postgres, &tables).await?;
    let mut remedies = Vec::new();
    if facts.version < 150_000 {
        remedies.push(Remedy::fatal(
            format!("postgres is of version {}", facts.version / 10_000),
            "upgrade to PostgreSQL 15 or newer",
        ));
    }
    if facts.is_replica == 1 {
        remedies.push(Remedy::fatal("this postgres is a replica", "give the address of its primary"));
    }
    if !facts.missing.is_empty() {
        remedies.push(Remedy::fatal(
            format!("the schema is not complete: {} missing", facts.missing.join(", ")),
            "run `parallax migrate`, or set PARALLAX_MIGRATE_ON_START=true",
        ));
    }
    if !facts.forbidden.is_empty() {
        remedies.push(Remedy::fatal(
            format!("the role may not read and write {}", facts.forbidden.join(", ")),
            "grant what docs/requirements.md lists for the serving role",
        ));
    }
    Ok(remedies)
}
