//! The keeper of the lineage: the first anchor, the heartbeat of Postgres, and what is done when a store went back (C1, L2, P1).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};

use crate::dual::gaps;
use crate::dual::lift::{self, LiftError};
use crate::model::catalog::Catalog;
use crate::stores::postgres::pool::{PostgresError, QUESTION_DEADLINE, within};
use crate::stores::postgres::{Postgres, lineage as postgres_lineage};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::{Redis, lineage as redis_lineage};
use crate::telemetry::labels::GapCause;
use crate::telemetry::metrics::Metrics;

/// How often the heartbeat is committed.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// How the two stores stand to what we knew of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// Both are those we knew.
    Good,
    /// Redis has no anchor though Postgres has rows: it was lost. Nothing is captured until it is restored (L2).
    RedisLost,
    /// The anchor names another run: Redis failed over or restarted with data, and the lift is not at its end (L1).
    RedisChanged,
    /// Postgres cannot be reached.
    PostgresDown,
}

/// Why the lineage could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// Redis' side.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Postgres' side.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

impl From<LiftError> for LineageError {
    fn from(error: LiftError) -> Self {
        match error {
            LiftError::Redis(error) => Self::Redis(error),
            LiftError::Postgres(error) => Self::Postgres(error),
        }
    }
}

/// Watches over the anchor and the heartbeat.
pub struct Lineage {
    catalog: Arc<Catalog>,
    redis: Arc<Redis>,
    postgres: Option<Postgres>,
    instance: String,
    metrics: Metrics,
    standing: Mutex<Standing>,
    wake: Notify,
    repairs: AtomicU64,
}

impl Lineage {
    /// Watches over these two stores.
    #[must_use]
    pub fn new(
        catalog: Arc<Catalog>,
        redis: Arc<Redis>,
        postgres: Option<Postgres>,
        instance: String,
        metrics: Metrics,
    ) -> Self {
        Self {
            catalog,
            redis,
            postgres,
            instance,
            metrics,
            standing: Mutex::default(),
            wake: Notify::new(),
            repairs: AtomicU64::new(0),
        }
    }

    /// How the stores stand.
    pub async fn standing(&self) -> Standing {
        *self.standing.lock().await
    }

    /// Somebody was refused: look at once.
    pub fn doubt(&self) {
        self.wake.notify_one();
    }

    /// A token for a mark that a repair sets.
    #[must_use]
    pub fn repair_token(&self) -> String {
        let sequence = self.repairs.fetch_add(1, Ordering::Relaxed);
        format!("{}-{}-r{sequence}", chrono::Utc::now().timestamp_millis(), self.instance)
    }

    /// Watches for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            let next = match self.look().await {
                Ok(standing) => standing,
                Err(LineageError::Postgres(error)) => {
                    tracing::debug!(%error, "the heartbeat could not be committed");
                    Standing::PostgresDown
                }
                Err(LineageError::Redis(error)) => {
                    tracing::debug!(%error, "the anchor could not be read");
                    self.standing().await
                }
            };
            self.note(next).await;
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT) => {}
                () = self.wake.notified() => tokio::time::sleep(HEARTBEAT / 10).await,
            }
        }
    }

    /// Takes up how the stores stand, and tells of it when it is new.
    pub(super) async fn note(&self, next: Standing) {
        let before = std::mem::replace(&mut *self.standing.lock().await, next);
        if before != next {
            Self::tell(next);
        }
    }

    fn tell(standing: Standing) {
        match standing {
            Standing::Unknown => {}
            Standing::Good => tracing::info!("both stores are those we know"),
            Standing::PostgresDown => tracing::warn!("postgres cannot be reached: marks are kept in redis"),
            Standing::RedisLost => tracing::error!(
                "redis has no anchor though postgres holds rows: redis was lost; nothing is captured until it is restored"
            ),
            Standing::RedisChanged => tracing::warn!("redis changed once more during the lift: it is begun anew"),
        }
    }

    /// One look: beats the heart, and does what the stores' standing asks for.
    ///
    /// # Errors
    /// When a store cannot be reached.
    pub async fn look(&self) -> Result<Standing, LineageError> {
        let Some(postgres) = &self.postgres else { return Ok(Standing::PostgresDown) };
        let server = self.redis.server().await?;
        // Redis first: what it knows was committed in Postgres before, so Postgres must know at least as much.
        let (anchor, known) = redis_lineage::read(&self.redis).await?;
        let Some(anchor) = anchor else { return self.first_anchor(postgres).await };
        if anchor.run_id != server.run_id {
            return self.redis_changed(postgres, &server.run_id, anchor.epoch).await;
        }
        let beat = known.as_ref().map_or(0, |known| known.beat);
        let beat =
            async { Ok((postgres_lineage::beat(postgres, beat).await?, postgres_lineage::epoch(postgres).await?)) };
        // A server that hangs is down, as far as anybody can tell.
        let (identity, epoch) = within(QUESTION_DEADLINE, beat).await?;
        let is_known = known.as_ref().is_none_or(|known| {
            known.system == identity.system && known.timeline == identity.timeline && identity.beat > known.beat
        });
        if !is_known || epoch < anchor.epoch {
            // Who else noticed may have raised the epoch by now: then it is the one to go on with.
            let next = if epoch > anchor.epoch { epoch } else { anchor.epoch + 1 };
            return self.postgres_went_back(postgres, next).await;
        }
        if epoch > anchor.epoch {
            // Somebody raised the epoch and did not come to the anchor: it is his to finish, and ours when he died.
            redis_lineage::anchor(&self.redis, epoch, 0, &described(&identity)).await?;
        }
        redis_lineage::beat(&self.redis, &described(&identity)).await?;
        Ok(Standing::Good)
    }

    /// Another run of Redis, with data: it failed over or restarted. The lift, then every backfill is owed (L1).
    async fn redis_changed(&self, postgres: &Postgres, run_id: &str, epoch: i64) -> Result<Standing, LineageError> {
        tracing::warn!("the anchor names another run of redis: it restarted or failed over; the lift begins");
        redis_lineage::disown(&self.redis).await?;
        let token = self.repair_token();
        match lift::lift(&self.redis, postgres, &self.catalog, run_id, epoch, &token, &self.metrics).await? {
            Some(lifted) => {
                tracing::warn!(
                    epoch = lifted.epoch,
                    ghosts = lifted.ghosts,
                    "redis is lifted: what it lost is listed in the table ghosts, and every kind owes a backfill"
                );
                Ok(Standing::Good)
            }
            None => Ok(Standing::RedisChanged),
        }
    }

    /// A Redis without an anchor: the first one if Postgres is empty too; otherwise Redis was lost (L2).
    async fn first_anchor(&self, postgres: &Postgres) -> Result<Standing, LineageError> {
        let epoch = postgres_lineage::epoch(postgres).await?;
        if postgres_lineage::has_rows(postgres).await? {
            return Ok(Standing::RedisLost);
        }
        let identity = postgres_lineage::beat(postgres, 0).await?;
        postgres_lineage::raise_epoch(postgres, epoch + 1).await?;
        let clock = postgres_lineage::highest_version(postgres).await? + 1;
        redis_lineage::anchor(&self.redis, epoch + 1, clock, &described(&identity)).await?;
        Ok(Standing::Good)
    }

    /// Postgres went back, or is another one (P1): the epoch rises, which sends all reads to Redis and makes every backfill owed.
    async fn postgres_went_back(&self, postgres: &Postgres, epoch: i64) -> Result<Standing, LineageError> {
        self.metrics.postgres_went_back();
        tracing::error!(epoch, "postgres went back in time: reads go to redis, and every kind owes a backfill");
        postgres.forget_idle();
        // The epoch first: while it is the old one, the counter must stay behind what readers expect.
        postgres_lineage::raise_epoch(postgres, epoch).await?;
        let identity = postgres_lineage::beat(postgres, 0).await?;
        let highest = postgres_lineage::highest_version(postgres).await?;
        let clock = redis_lineage::clock(&self.redis).await?.max(highest + 1);
        gaps::record(postgres, &self.metrics, GapCause::PostgresWentBack, highest, clock).await?;
        redis_lineage::anchor(&self.redis, epoch, clock, &described(&identity)).await?;
        Ok(Standing::Good)
    }
}

fn described(identity: &postgres_lineage::Identity) -> redis_lineage::Postgres {
    redis_lineage::Postgres {
        system: identity.system.clone(),
        timeline: identity.timeline.clone(),
        beat: identity.beat,
    }
}
