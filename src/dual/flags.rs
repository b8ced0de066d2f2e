//! Changing flags: one stage at a time, with a barrier where the protocol asks for one, and an audit row for each (S1-S4).

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::dual::gaps;
use crate::dual::gate::{Asked, Condition};
use crate::dual::keeper::json;
use crate::dual::step::{self, Judged};
use crate::dual::view::{DEFAULT, View};
use crate::dual::{Engine, EngineError};
use crate::model::catalog::{Kind, Policy};
use crate::model::flag::{FieldError, Flag, FlagChange, Stage};
use crate::stores::postgres::journal::{self, FlagAudit};
use crate::stores::redis::change::{Change, Written};
use crate::stores::redis::lease;
use crate::telemetry::labels::GapCause;
use crate::telemetry::traces::spans::FlagWork;

/// How often a barrier looks whether everybody is there.
const BARRIER_POLL: Duration = Duration::from_millis(20);

/// Who changes something, and from where.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The name of the right or token.
    pub who: String,
    /// The address.
    pub origin: String,
}

/// The flag of one kind, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct KindFlag {
    /// The kind.
    pub kind: String,
    /// Its flag.
    pub flag: Flag,
    /// Whether it has one of its own; otherwise it follows `*`.
    pub own: bool,
    /// Whether its backfill is committed in the epoch that holds.
    pub backfilled: bool,
    /// What the stage does to its reads and writes now, in a sentence.
    pub meaning: String,
}

/// All flags.
#[derive(Clone, Debug, Serialize)]
pub struct FlagsReport {
    /// The version: what `If-Match` is about.
    pub version: u64,
    /// Whether this sidecar's lease holds.
    pub lease_valid: bool,
    /// Mirrored kinds in the order of the catalog.
    pub kinds: Vec<KindFlag>,
    /// The flag of kinds without one of their own.
    pub default: Flag,
}

/// Why a flag was not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// The catalog has no such kind.
    #[error("the catalog has no such kind")]
    UnknownKind,
    /// Somebody else changed the flags meanwhile.
    #[error("the flags are at version {current}")]
    Stale {
        /// The version they are at.
        current: u64,
    },
    /// A field is wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The step is not allowed now.
    #[error("not now: {}", unmet.iter().map(|condition| condition.detail.as_str()).collect::<Vec<_>>().join("; "))]
    Refused {
        /// Each condition that is not met, with its figures.
        unmet: Vec<Condition>,
    },
    /// Some sidecars have not confirmed what holds now.
    #[error("these sidecars have not confirmed yet: {}", waiting.join(", "))]
    Barrier {
        /// Their names.
        waiting: Vec<String>,
    },
    /// The store of the flags does not answer.
    #[error("the store of the flags does not answer: {0}")]
    Store(String),
}

impl From<crate::stores::redis::connection::RedisError> for ChangeError {
    fn from(error: crate::stores::redis::connection::RedisError) -> Self {
        Self::Store(error.to_string())
    }
}

impl Engine {
    /// The flags as this sidecar sees them.
    #[must_use]
    pub fn flags(&self) -> FlagsReport {
        let view = self.keeper.view();
        let kinds = self.catalog.kinds().iter().filter(|kind| kind.is_mirrored()).map(|kind| KindFlag {
            kind: kind.name.clone(),
            flag: view.flag(kind).clone(),
            own: view.is_own(kind),
            backfilled: view.is_backfilled(kind),
            meaning: meaning(kind, view.flag(kind)),
        });
        FlagsReport {
            version: view.version,
            lease_valid: self.keeper.has_lease(),
            kinds: kinds.collect(),
            default: view.stored.get(DEFAULT).cloned().unwrap_or_default(),
        }
    }

    /// Changes the flag of a kind, or of all kinds without one of their own (`*`).
    ///
    /// # Errors
    /// Why not; nothing is changed then.
    pub async fn change_flag(
        &self,
        kind: &str,
        change: FlagChange,
        expected_version: u64,
        actor: Actor,
    ) -> Result<FlagsReport, ChangeError> {
        let changed = self.changed_flag(kind, change, expected_version, actor);
        self.traced_change(FlagWork::Change, kind, changed, |report| report.version).await
    }

    async fn changed_flag(
        &self,
        kind: &str,
        change: FlagChange,
        expected_version: u64,
        actor: Actor,
    ) -> Result<FlagsReport, ChangeError> {
        self.keeper.renew(&self.looks).await?;
        let view = self.keeper.view();
        self.scope(&view, kind)?;
        if view.version != expected_version {
            return Err(ChangeError::Stale { current: view.version });
        }
        let judged = self.judged(&view, kind, &change).await?;
        let reason = judged.reason(&change)?;
        let Judged { kinds, before, after, conditions: _ } = judged;
        let ends_marking = |kind: &&Arc<Kind>| view.flag(kind).stage.marks() && !after.stage.marks();
        let unmarked: Vec<String> = kinds.iter().filter(ends_marking).map(|kind| kind.name.clone()).collect();
        if !unmarked.is_empty() {
            // Nobody may read Postgres any more when marking ends (S1, S2).
            self.barrier(view.version, self.barrier_wait).await?;
            gaps::note(&self.looks, GapCause::MarkingEnded, &unmarked).await?;
        }
        let audit = FlagAudit {
            version: view.version + 1,
            kind: kind.to_owned(),
            before: json(&before),
            after: json(&after),
            who: actor.who,
            origin: actor.origin,
            reason,
        };
        drop(view);
        let change = self.of_a_known_fleet(flag_change(expected_version, &[audit]).unmarking(&unmarked));
        match self.write(change).await? {
            Written::Done(_) => Ok(self.flags()),
            Written::Stale(current) => Err(ChangeError::Stale { current }),
            Written::PlanMoved | Written::NotLeading => Err(ChangeError::Stale { current: expected_version }),
            Written::Unrenewed => Err(self.unrenewed(expected_version).await?),
        }
    }

    /// The change, if no sidecar may act on flags that Redis has lost.
    pub(super) fn of_a_known_fleet(&self, change: Change) -> Change {
        change.of_a_known_fleet(u64::try_from(self.outlasts().as_millis()).unwrap_or(u64::MAX))
    }

    /// How long a command may outlast the lease of its sidecar: as long as it may wait to be sent, and as long again for its answer.
    fn outlasts(&self) -> Duration {
        self.command_deadline * 2
    }

    /// Who has not renewed since Redis failed over.
    pub(super) async fn unrenewed(&self, version: u64) -> Result<ChangeError, ChangeError> {
        let waiting = self.unconfirmed(version).await?.1;
        Ok(ChangeError::Barrier { waiting: waiting.into_iter().map(|(name, _)| name).collect() })
    }

    /// Writes a change, and takes it up.
    pub(super) async fn write(&self, change: Change) -> Result<Written, ChangeError> {
        let written = change.write(&self.looks).await?;
        self.keeper.renew(&self.looks).await?;
        self.keeper.wake();
        self.audits.wake();
        Ok(written)
    }

    /// The kinds that a name means, and the flag that it stands for.
    pub(super) fn scope(&self, view: &View, name: &str) -> Result<(Vec<Arc<Kind>>, Flag), ChangeError> {
        if name == DEFAULT {
            let follows = |kind: &&Arc<Kind>| kind.is_mirrored() && !view.is_own(kind);
            let kinds = self.catalog.kinds().iter().filter(follows).cloned().collect();
            return Ok((kinds, view.stored.get(DEFAULT).cloned().unwrap_or_default()));
        }
        let kind = self.catalog.by_name(name).ok_or(ChangeError::UnknownKind)?;
        if kind.policy == Policy::Ephemeral {
            let told = format!("the kind {name} is ephemeral: it never goes to postgres");
            return Err(step::refused(Asked::Mirrored, told));
        }
        Ok((vec![Arc::clone(kind)], view.flag(kind).clone()))
    }

    /// Waits until every sidecar has confirmed `version`, or its lease and the longest command after it have ended (S2).
    pub(crate) async fn barrier(&self, version: u64, wait: Duration) -> Result<(), ChangeError> {
        let began = Instant::now();
        loop {
            self.keeper.renew(&self.looks).await?;
            let waiting = self.unconfirmed(version).await?.1;
            if waiting.is_empty() {
                return Ok(());
            }
            if began.elapsed() >= wait {
                return Err(ChangeError::Barrier { waiting: waiting.into_iter().map(|(name, _)| name).collect() });
            }
            tokio::time::sleep(BARRIER_POLL).await;
        }
    }

    /// Sidecars that have confirmed `version`, and those that have not with the milliseconds after which they no longer count.
    pub(super) async fn unconfirmed(&self, version: u64) -> Result<(Vec<String>, Vec<(String, i64)>), ChangeError> {
        let (now_ms, sidecars) = lease::sidecars(&self.looks).await?;
        let after = i64::try_from(self.outlasts().as_millis()).unwrap_or(i64::MAX);
        let (mut confirmed, mut waiting) = (Vec::new(), Vec::new());
        for (name, sidecar) in sidecars {
            let left = sidecar.lease_until.saturating_add(after) - now_ms;
            if sidecar.confirmed >= version {
                confirmed.push(name);
            } else if left > 0 {
                waiting.push((name, left));
            }
        }
        Ok((confirmed, waiting))
    }

    /// The changes of a flag, newest first.
    ///
    /// # Errors
    /// When Postgres cannot be reached.
    pub async fn flag_history(&self, kind: &str) -> Result<Vec<serde_json::Value>, EngineError> {
        const HISTORY_MAX: i64 = 200;
        let postgres = self.postgres_or_error()?;
        journal::history(postgres, kind, HISTORY_MAX)
            .await
            .map_err(|error| EngineError::PostgresUnavailable(error.to_string()))
    }

    /// Brings the flags back from Postgres' copy when Redis has lost them (L3).
    pub(super) async fn recover_flags(&self) {
        let Some(postgres) = &self.postgres else { return };
        let Ok(Some((version, flags))) = journal::latest_flags(postgres).await else { return };
        let Ok(renewal) = self.keeper.renew(&self.looks).await else { return };
        if renewal.version >= version {
            return;
        }
        let flags = flags.into_iter().collect();
        let change = Change::of_flags(renewal.version, version, flags);
        if let Ok(Written::Done(version)) = change.write(&self.looks).await {
            tracing::warn!(version, "flags that redis had lost were brought back from postgres");
        }
    }

    pub(super) fn postgres_or_error(&self) -> Result<&crate::stores::postgres::Postgres, EngineError> {
        self.postgres.as_ref().ok_or_else(|| EngineError::PostgresUnavailable("it is switched off".to_owned()))
    }
}

/// The flags that audit rows tell of, and the rows with them.
pub(super) fn flag_change(expected: u64, audits: &[FlagAudit]) -> Change {
    let flags = audits.iter().map(|audit| (audit.kind.clone(), audit.after.clone())).collect();
    let row = |audit: &FlagAudit| serde_json::to_string(audit).expect("an audit row is always JSON");
    Change::of_flags(expected, expected + 1, flags).audited(audits.iter().map(row).collect())
}

/// What a stage does to reads and writes, in a sentence.
fn meaning(kind: &Kind, flag: &Flag) -> String {
    let latched = if flag.latched { " Latched: it cannot be raised until somebody resumes with a reason." } else { "" };
    let sentence = match flag.stage {
        Stage::Off => "Redis alone: writes leave no mark, and Redis answers every read.".to_owned(),
        Stage::Dualwrite => "Every write reaches Postgres; Redis answers every read.".to_owned(),
        Stage::Shadow => {
            format!("Every write reaches Postgres; Redis answers every read, and {} of them are compared.", share(flag))
        }
        Stage::Live if !kind.is_readable() => {
            "Every write reaches Postgres; Redis answers every read, as it always does for this kind.".to_owned()
        }
        Stage::Live => format!(
            "Every write reaches Postgres; Postgres answers reads of {} % of the keys, Redis the others, and {} are compared.",
            flag.percent,
            share(flag)
        ),
    };
    sentence + latched
}

fn share(flag: &Flag) -> String {
    format!("{} %", flag.sample_rate * 100.0)
}

/// Carries audit rows from Redis, where each stands since the change it tells of, to Postgres.
pub(super) struct Audits(Arc<tokio::sync::Notify>);

impl Audits {
    /// How often it looks without being told.
    const POLL: Duration = Duration::from_secs(5);

    pub(super) fn start(
        redis: Arc<crate::stores::redis::Redis>,
        postgres: Option<crate::stores::postgres::Postgres>,
    ) -> Self {
        let wake = Arc::new(tokio::sync::Notify::new());
        if let Some(postgres) = postgres {
            let wake = Arc::clone(&wake);
            tokio::spawn(async move {
                loop {
                    while let Ok(Some(row)) = lease::next_audit(&redis).await {
                        let Ok(audit) = serde_json::from_slice::<FlagAudit>(&row) else {
                            // Not ours to read, and it would stand in the way of all others.
                            tracing::error!("an audit row that cannot be read was dropped");
                            let _ = lease::audit_written(&redis, &row).await;
                            continue;
                        };
                        if journal::audit(&postgres, &audit).await.is_err() {
                            break;
                        }
                        let _ = lease::audit_written(&redis, &row).await;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(Self::POLL) => {}
                        () = wake.notified() => {}
                    }
                }
            });
        }
        Self(wake)
    }

    fn wake(&self) {
        self.0.notify_one();
    }
}
