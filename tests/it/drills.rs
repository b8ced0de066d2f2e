//! Rollbacks under load with random faults: Postgres stopped, a sidecar cut off from Redis, a sidecar killed in the middle of it.
//! A few in CI; a hundred in parts with `PARALLAX_SOAK`, whose worst and median are told at the end.

use std::time::Duration;

use parallax::dev::servers::PostgresOptions;
use parallax::traffic::world::Dice;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::equality::{Load, assert_equal, assert_nothing_lost, drained};
use crate::support::parts::Parts;
use crate::support::proxy::{Fault, Proxy};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, Database, source, standing, wait_until};

/// Parts of a soak, and drills of each.
const SOAK_PARTS: usize = 10;
const SOAK_DRILLS: usize = 10;
/// What a rollback may take: in a healthy fleet, with one sidecar cut off, and ever.
const HEALTHY: Duration = Duration::from_secs(2);
const PARTITIONED: Duration = Duration::from_secs(40);
const EVER: Duration = Duration::from_secs(300);
/// A machine with other stories to run is late by so much.
const BUSY: Duration = Duration::from_secs(8);

/// What goes wrong during a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Nothing,
    PostgresStopped,
    Partitioned,
    Killed,
}

const TROUBLES: [Trouble; 4] = [Trouble::Nothing, Trouble::PostgresStopped, Trouble::Partitioned, Trouble::Killed];

struct Fleet {
    redis: parallax::dev::servers::PrivateRedis,
    database: Database,
    proxy: Proxy,
    lease_ms: &'static str,
    /// The one that is asked, the one that is killed, the one that is cut off.
    sidecars: Vec<Sidecar>,
}

impl Fleet {
    async fn start(lease_ms: &'static str) -> Self {
        let (redis, database) = (
            support::redis().await,
            support::postgres_of_its_own(PostgresOptions { durable: true, ..Default::default() }).await,
        );
        let proxy = Proxy::to(redis.port()).await;
        let mut fleet = Self { redis, database, proxy, lease_ms, sidecars: Vec::new() };
        for n in 0..3 {
            let sidecar = fleet.sidecar(n).await;
            fleet.sidecars.push(sidecar);
        }
        fleet
    }

    async fn sidecar(&self, n: usize) -> Sidecar {
        let url = self.redis.url();
        let url = if n == 2 { self.proxy.url(&url, self.redis.port()) } else { url };
        let more = [
            ("REDIS_URL", url.as_str()),
            ("PARALLAX_LEASE_MS", self.lease_ms),
            ("PARALLAX_COMMAND_DEADLINE_MS", "1000"),
        ];
        Sidecar::start_with(&self.redis, Some(&self.database), &more).await
    }

    /// Every sidecar answers reads from Postgres.
    async fn goes_live(&self) {
        let one = &self.sidecars[0];
        standing(one, "good").await;
        let live = json!({ "stage": "live", "percent": 100.0, "deadline_ms": 2000, "sample_rate": 0.0, "resume": true,
            "override": true, "reason": "a drill" });
        wait_until("the kinds are live", PATIENCE * 2, async || one.try_change("*", live.clone()).await == Some(200))
            .await;
        for sidecar in &self.sidecars {
            wait_until("postgres answers", PATIENCE * 2, async || source(sidecar, "user:drill").await.1 == "postgres")
                .await;
        }
    }

    /// One rollback in this trouble: how long it took, and what it reports.
    async fn rolls_back(&mut self, trouble: Trouble) -> (Duration, Json) {
        match trouble {
            Trouble::Nothing | Trouble::Killed => {}
            Trouble::PostgresStopped => self.database.server.stop().await.unwrap(),
            Trouble::Partitioned => self.proxy.set(Fault::Partition),
        }
        let victim = (trouble == Trouble::Killed).then(|| self.sidecars.remove(1));
        let began = Instant::now();
        let wish = json!({ "scope": "*", "reason": "a drill" });
        let asked = self.sidecars[0].admin("POST", "/v1/rollback", Some(wish), &[]);
        let killed = async {
            if let Some(victim) = victim {
                victim.kill().await;
            }
        };
        let (answer, ()) = tokio::join!(asked, killed);
        let took = began.elapsed();
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        (took, answer.json())
    }

    /// What went wrong is over.
    async fn recovers(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Nothing => {}
            Trouble::PostgresStopped => self.database.server.restart().await.unwrap(),
            Trouble::Partitioned => {
                self.proxy.set(Fault::None);
                let cut = &self.sidecars[2];
                wait_until("it has its lease again", PATIENCE, async || cut.get("/readyz").await.status == 200).await;
            }
            Trouble::Killed => {
                let successor = self.sidecar(1).await;
                self.sidecars.insert(1, successor);
            }
        }
    }
}

async fn drills(
    troubles: impl Iterator<Item = Trouble>,
    lease_ms: &'static str,
    slack: Duration,
) -> Vec<(Trouble, Duration)> {
    let mut fleet = Fleet::start(lease_ms).await;
    let one = &fleet.sidecars[0];
    one.command(&["SET", "user:drill", "v"]).await;
    one.raise("live").await;
    let mut load = Load::start(&one.data, 4, false);
    let mut took = Vec::new();
    for trouble in troubles {
        fleet.goes_live().await;
        load.goes_on(20).await;
        let (lasted, report) = fleet.rolls_back(trouble).await;
        eprintln!("{trouble:?}: {lasted:?}");
        assert_eq!((&report["fleet"], &report["waiting"]), (&json!(true), &json!([])), "{trouble:?}: {report}");
        let budget = match trouble {
            Trouble::Nothing | Trouble::PostgresStopped => HEALTHY + slack,
            // The lease of one that was killed has to end as well.
            Trouble::Partitioned | Trouble::Killed => PARTITIONED,
        };
        assert!(lasted < budget && lasted < EVER, "{trouble:?}: {lasted:?}");
        for sidecar in fleet.sidecars.iter().take(if trouble == Trouble::Partitioned { 2 } else { 3 }) {
            assert_eq!(source(sidecar, "user:drill").await, ("v".to_owned(), "redis".to_owned()), "{trouble:?}");
        }
        fleet.recovers(trouble).await;
        load.goes_on(20).await;
        took.push((trouble, lasted));
    }
    let ledgers = load.finish().await;
    drained(&fleet.redis).await;
    assert_nothing_lost(&ledgers, &fleet.database).await;
    assert_equal(&fleet.redis, &fleet.database).await;
    for sidecar in fleet.sidecars {
        sidecar.stop_with(&[], &["postgres", "lease", "redis"]).await;
    }
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_rollbacks_under_load_come_within_their_budget_whatever_fails() {
    if std::env::var_os("PARALLAX_SOAK").is_none() {
        drills(TROUBLES.into_iter(), "3000", BUSY).await;
        return;
    }
    let mut parts = Parts::of("drills", SOAK_PARTS);
    while parts.next().is_some() {
        let mut dice = Dice::new(rand::random());
        let drawn: Vec<Trouble> = (0..SOAK_DRILLS).map(|_| *dice.pick(&TROUBLES)).collect();
        let took = drills(drawn.into_iter(), "20000", Duration::ZERO).await;
        let told: Vec<String> =
            took.into_iter().map(|(trouble, took)| format!("{trouble:?} {} ms", took.as_millis())).collect();
        parts.done(told.join(", "));
    }
    let Some(lines) = parts.all() else { return };
    for trouble in TROUBLES {
        let of_it = |drill: &str| {
            let ms = drill.strip_prefix(&format!("{trouble:?} "))?.strip_suffix(" ms")?;
            ms.parse::<u64>().ok()
        };
        let mut took: Vec<u64> = lines.iter().flat_map(|line| line.split(", ")).filter_map(of_it).collect();
        took.sort_unstable();
        let (Some(worst), Some(median)) = (took.last(), took.get(took.len() / 2)) else { continue };
        println!("{trouble:?}: {} drills, median {median} ms, worst {worst} ms", took.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_takes_the_reads_of_a_kind_back_and_restores_its_flag() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let (one, other) = (Sidecar::start(&redis, &database).await, Sidecar::start(&redis, &database).await);
    one.command(&["SET", "user:drill", "v"]).await;
    let drill = async || {
        one.admin("POST", "/v1/rollback", Some(json!({ "scope": "user", "reason": "a drill", "drill": true })), &[])
            .await
    };
    assert_eq!(drill().await.status, 409, "nothing is read from postgres");
    one.raise("live").await;
    wait_until("postgres answers", PATIENCE, async || source(&other, "user:drill").await.1 == "postgres").await;
    let before = one.get("/v1/flags/user").await.json()["flag"].clone();
    let report = drill().await.json();
    assert_eq!((&report["restored"], &report["waiting"]), (&json!(true), &json!([])), "{report}");
    assert_eq!(report["confirmed"].as_array().unwrap().len(), 2);
    assert_eq!(one.get("/v1/flags/user").await.json()["flag"], before);
    for sidecar in [&one, &other] {
        wait_until("postgres answers again", PATIENCE, async || source(sidecar, "user:drill").await.1 == "postgres")
            .await;
    }
    assert!(one.metric("parallax_last_drill_seconds", &[]).await > 0.0);
    wait_until("the audit knows both changes", PATIENCE, async || {
        let changes = one.get("/v1/flags/user/history").await.json()["changes"].to_string();
        changes.contains("drill: a drill") && changes.contains("drill: the flag is as it was before")
    })
    .await;
    one.stop_expecting(&[]).await;
    other.stop_expecting(&[]).await;
}
