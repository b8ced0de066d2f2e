//! Rollback: reads leave Postgres at once, everywhere. No precondition, and nothing to drain, because Redis has every write.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::dual::Engine;
use crate::dual::flags::{Actor, ChangeError, flag_change};
use crate::dual::keeper::json;
use crate::dual::view::{DEFAULT, View, rolled_back};
use crate::stores::postgres::journal::FlagAudit;
use crate::stores::redis::change::Written;
use crate::telemetry::traces::spans::FlagWork;

/// How often the flags are written again when others write them at the same time.
const WRITES_MAX: usize = 20;
/// How often the fleet is asked whether it has confirmed.
const POLL: Duration = Duration::from_millis(20);

/// A sidecar that has not confirmed a rollback.
#[derive(Clone, Debug, Serialize)]
pub struct Waiting {
    /// Its name.
    pub instance: String,
    /// After so many milliseconds it cannot read Postgres any more, whatever it does.
    pub lease_ends_in_ms: i64,
}

/// What a rollback did.
#[derive(Clone, Debug, Serialize)]
pub struct RollbackReport {
    /// The version of the flags that says so; 0 when the store did not answer.
    pub version: u64,
    /// The stage that kinds landed in, if they stood above it.
    pub landed: &'static str,
    /// The kinds (or `*`) whose flags were written.
    pub kinds: Vec<String>,
    /// Sidecars that have confirmed.
    pub confirmed: Vec<String>,
    /// Sidecars that have not.
    pub waiting: Vec<Waiting>,
    /// How long it took.
    pub elapsed_ms: u64,
    /// Whether this sidecar has stopped reading Postgres.
    pub this_sidecar: bool,
    /// Whether the flags of the fleet say so.
    pub fleet: bool,
}

impl RollbackReport {
    /// A rollback of one flag that the store has.
    pub(super) fn of_fleet(version: u64, scope: &str) -> Self {
        Self {
            version,
            landed: "shadow",
            kinds: vec![scope.to_owned()],
            confirmed: Vec::new(),
            waiting: Vec::new(),
            elapsed_ms: 0,
            this_sidecar: true,
            fleet: true,
        }
    }

    pub(super) fn took(&mut self, elapsed: Duration) {
        self.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    }
}

impl Engine {
    /// Takes reads back to Redis for a kind or for all (`*`): this sidecar at once, the fleet as soon as the flags are written.
    /// Answers when every live sidecar has confirmed, or none can read Postgres any more.
    ///
    /// # Errors
    /// When there is no such kind. A store that does not answer is told in the report, not as an error.
    pub async fn rollback(&self, scope: &str, reason: String, actor: Actor) -> Result<RollbackReport, ChangeError> {
        let rolled_back = self.rolled_back(scope, reason, actor);
        self.traced_change(FlagWork::Rollback, scope, rolled_back, |report| report.version).await
    }

    async fn rolled_back(&self, scope: &str, reason: String, actor: Actor) -> Result<RollbackReport, ChangeError> {
        let began = Instant::now();
        let (kinds, _) = if scope == DEFAULT {
            (self.catalog.kinds().to_vec(), Default::default())
        } else {
            self.scope(&self.keeper.view(), scope)?
        };
        let names: Vec<String> = kinds.iter().map(|kind| kind.name.clone()).collect();
        self.keeper.lower(&names).await;
        let written = self.write_rollback(scope, &reason, &actor).await;
        let mut report = RollbackReport {
            version: 0,
            landed: "shadow",
            kinds: Vec::new(),
            confirmed: Vec::new(),
            waiting: Vec::new(),
            elapsed_ms: 0,
            this_sidecar: true,
            fleet: written.is_ok(),
        };
        match written {
            Ok((version, kinds)) => {
                report.version = version;
                report.kinds = kinds;
                self.await_fleet(&mut report).await;
            }
            Err(error) => tracing::error!(%error, "the fleet's flags could not be rolled back; this sidecar is"),
        }
        report.took(began.elapsed());
        self.metrics.rolled_back(began.elapsed());
        tracing::info!(
            scope,
            version = report.version,
            elapsed_ms = report.elapsed_ms,
            "reads were rolled back to redis"
        );
        Ok(report)
    }

    async fn write_rollback(
        &self,
        scope: &str,
        reason: &str,
        actor: &Actor,
    ) -> Result<(u64, Vec<String>), ChangeError> {
        for _ in 0..WRITES_MAX {
            self.keeper.renew(&self.looks).await?;
            let view = self.keeper.view();
            let audits = audits(&view, scope, &self.scope(&view, scope)?.1, reason, actor);
            let kinds = audits.iter().map(|audit| audit.kind.clone()).collect();
            let version = view.version;
            drop(view);
            if let Written::Done(version) = self.write(flag_change(version, &audits)).await? {
                return Ok((version, kinds));
            }
        }
        Err(ChangeError::Store("others write the flags all the time".to_owned()))
    }

    pub(super) async fn await_fleet(&self, report: &mut RollbackReport) {
        let deadline = Instant::now() + self.lease + self.command_deadline * 2 + Duration::from_secs(1);
        loop {
            let renewed = self.keeper.renew(&self.looks).await;
            let asked = self.unconfirmed(report.version).await;
            if let (Ok(_), Ok((confirmed, waiting))) = (renewed, asked) {
                let waiting = waiting.into_iter();
                report.confirmed = confirmed;
                report.waiting =
                    waiting.map(|(instance, lease_ends_in_ms)| Waiting { instance, lease_ends_in_ms }).collect();
                if report.waiting.is_empty() {
                    return;
                }
            }
            if Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The flags that a rollback writes: the one that is meant, or every one that is kept.
fn audits(view: &View, scope: &str, current: &crate::model::flag::Flag, reason: &str, actor: &Actor) -> Vec<FlagAudit> {
    let meant = |name: &str| scope == DEFAULT || name == scope;
    let mut flags: Vec<(String, crate::model::flag::Flag)> =
        view.stored.iter().filter(|(name, _)| meant(name)).map(|(name, flag)| (name.clone(), flag.clone())).collect();
    if flags.is_empty() {
        flags.push((scope.to_owned(), current.clone()));
    }
    let audit = |(kind, before): (String, crate::model::flag::Flag)| FlagAudit {
        version: view.version + 1,
        kind,
        after: json(&rolled_back(&before)),
        before: json(&before),
        who: actor.who.clone(),
        origin: actor.origin.clone(),
        reason: reason.to_owned(),
    };
    flags.into_iter().map(audit).collect()
}
