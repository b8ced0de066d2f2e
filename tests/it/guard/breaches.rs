//! What takes reads back by itself: planted corruption, and a Postgres that is slow, dead, or never answers. Callers notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::{becomes, decisions, flag, plan, post, proven, read, user, wish};
use crate::support::parts::Parts;
use crate::support::proxy::{Fault, Proxy};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, Database, raw, wait_until};

/// How long the guard may take to bring the kind to 0 %.
const GUARD_SECONDS: u64 = 15;
/// How long a read may wait for Postgres in these stories.
const DEADLINE: Duration = Duration::from_secs(1);
/// How much later than its deadline an answer may come on a machine with other things to do.
const SLACK: Duration = Duration::from_secs(2);
/// Parts of the long proof that all that is well stays so.
const SOAK_PARTS: usize = 10;
/// Reads of one pipeline.
const BURST: usize = 20;

/// Readers that go on until they are told to stop, and what they saw.
struct Readers {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicUsize>,
    slowest_ms: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Readers {
    fn start(sidecar: &Arc<Sidecar>) -> Self {
        let (stop, failed, slowest_ms) = (Arc::default(), Arc::default(), Arc::default());
        let mut readers = Self { stop, failed, slowest_ms, tasks: Vec::new() };
        for reader in 0..2 {
            let sidecar = Arc::clone(sidecar);
            let (stop, failed) = (Arc::clone(&readers.stop), Arc::clone(&readers.failed));
            let slowest_ms = Arc::clone(&readers.slowest_ms);
            readers.tasks.push(tokio::spawn(async move {
                let mut at = reader * 500;
                while !stop.load(Ordering::Relaxed) {
                    // One read alone, whose time is looked at, and a burst, for there to be many.
                    let began = Instant::now();
                    let answer = sidecar.ask(&["GET", &user(at)], &[]).await;
                    failed.fetch_add(usize::from(answer.status != 200), Ordering::Relaxed);
                    let took = u64::try_from(began.elapsed().as_millis()).unwrap();
                    slowest_ms.fetch_max(took, Ordering::Relaxed);
                    failed.fetch_add(read(&sidecar, at, BURST).await, Ordering::Relaxed);
                    at += BURST;
                }
            }));
        }
        readers
    }

    /// Stops them. None saw an error, nor an answer later than its deadline.
    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        assert_eq!(self.failed.load(Ordering::Relaxed), 0, "reads failed");
        let slowest = Duration::from_millis(self.slowest_ms.load(Ordering::Relaxed));
        assert!(slowest < DEADLINE + SLACK, "an answer took {slowest:?}");
    }
}

/// Users live at 100 % by a plan with these checks, with readers at work.
async fn live(
    redis: &parallax::dev::servers::PrivateRedis,
    database: &Database,
    more: &[(&str, &str)],
    checks: Json,
) -> (Arc<Sidecar>, Readers) {
    let sidecar = Arc::new(proven(redis, database, more).await);
    let steps = json!([{ "percent": 100.0, "bake_seconds": 600 }]);
    post(&sidecar, "user", json!({ "steps": steps, "checks": checks, "reason": "a story" })).await;
    becomes(&sidecar, "user", "baking").await;
    let readers = Readers::start(&sidecar);
    wait_until("the guard has seen reads from postgres", PATIENCE, async || {
        let plan = plan(&sidecar, "user").await;
        assert_eq!(plan["state"], "baking", "nothing is wrong yet: {:?}", decisions(&sidecar, "user").await);
        plan["judgement"]["numbers"]["reads"].as_f64().is_some_and(|reads| reads > 0.0)
    })
    .await;
    (sidecar, readers)
}

/// Waits until the kind is at 0 %, and looks at what is said of it.
async fn is_taken_back(sidecar: &Sidecar, began: Instant, told: &str) {
    wait_until("the kind is at 0 %", PATIENCE * 2, async || {
        flag(sidecar).await["percent"] == 0.0 && plan(sidecar, "user").await["state"] == "breached"
    })
    .await;
    let took = began.elapsed();
    eprintln!("{told}: at 0 % after {took:?}");
    // A machine with other stories to run compares so little that the evidence takes longer.
    let is_soak = std::env::var_os("PARALLAX_SOAK").is_some();
    assert!(!is_soak || took < Duration::from_secs(GUARD_SECONDS), "it took {took:?}");
    let after = flag(sidecar).await;
    assert_eq!((&after["stage"], &after["percent"]), (&json!("shadow"), &json!(0.0)));
    let last = decisions(sidecar, "user").await[0].clone();
    assert_eq!((&last["decision"], &last["who"]), (&json!("breached"), &json!("guard")));
    assert!(last["reasons"].to_string().contains(told) && last["numbers"]["reads"].is_number(), "{last}");
    assert_eq!(sidecar.metric("parallax_guard_breaches_total", &[("kind", "user")]).await, 1.0);
    // Only a person leads on, and says why.
    assert_eq!(wish(sidecar, "user", "promote", None).await, 409);
    assert_eq!(wish(sidecar, "user", "resume", None).await, 422);
}

async fn stop(sidecar: Arc<Sidecar>, possible: &[&str]) {
    let sidecar = Arc::into_inner(sidecar).expect("nobody else holds it");
    sidecar.stop_with(&["the guard took reads back"], possible).await;
}

/// Users live at 100 % with everything compared: no alarm in so many comparisons.
async fn stays_well(comparisons: u32) -> String {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let (sidecar, readers) = live(&redis, &database, &[], json!({})).await;
    let compared = async |verdict: &str| {
        sidecar.metric("parallax_comparisons_total", &[("kind", "user"), ("verdict", verdict)]).await
    };
    let before = compared("match").await;
    let patience = PATIENCE + Duration::from_millis(20) * comparisons;
    wait_until("enough was compared", patience, async || {
        assert_eq!(plan(&sidecar, "user").await["state"], "baking", "{:?}", decisions(&sidecar, "user").await);
        compared("match").await - before >= f64::from(comparisons)
    })
    .await;
    let alarms = sidecar.metric("parallax_guard_breaches_total", &[]).await;
    let mismatches = sidecar.metric("parallax_mismatches_total", &[]).await;
    assert_eq!((alarms, mismatches), (0.0, 0.0));
    let told = format!("{} comparisons without a difference, {alarms} alarms", compared("match").await - before);
    readers.finish().await;
    Arc::into_inner(sidecar).expect("nobody else holds it").stop_with(&[], &["postgres"]).await;
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_million_comparisons_without_a_difference_raise_no_alarm() {
    if std::env::var_os("PARALLAX_SOAK").is_none() {
        stays_well(2_000).await;
        return;
    }
    let mut parts = Parts::of("guard", SOAK_PARTS);
    while parts.next().is_some() {
        parts.done(stays_well(100_000).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_one_corrupt_record_in_a_thousand_brings_its_kind_back() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let (sidecar, readers) = live(&redis, &database, &[], json!({})).await;
    let began = Instant::now();
    let planted = "UPDATE users SET doc = '\"planted\"' WHERE key = 'user:u500'";
    assert_eq!(database.client().await.execute(planted, &[]).await.unwrap(), 1);
    is_taken_back(&sidecar, began, "mismatches").await;
    readers.finish().await;
    stop(sidecar, &["a mismatch was confirmed", "postgres is in trouble"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_slow_postgres_brings_its_kinds_back() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let proxy = Proxy::to(database.server.port()).await;
    let url = proxy.url(&database.url(), database.server.port());
    let (sidecar, readers) = live(&redis, &database, &[("DATABASE_URL", &url)], json!({ "p99_ratio": 20.0 })).await;
    let began = Instant::now();
    proxy.set(Fault::Delay(Duration::from_millis(800)));
    is_taken_back(&sidecar, began, "postgres").await;
    proxy.set(Fault::None);
    readers.finish().await;
    stop(sidecar, &["postgres"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_dead_postgres_brings_its_kinds_back() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(Default::default()).await);
    let (sidecar, readers) = live(&redis, &database, &[], json!({})).await;
    let began = Instant::now();
    database.server.kill().unwrap();
    is_taken_back(&sidecar, began, "late or failed").await;
    readers.finish().await;
    stop(sidecar, &["postgres"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_kind_that_was_moved_by_hand_is_brought_back_and_judged_anew_when_it_is_raised_again() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(Default::default()).await);
    let sidecar = Arc::new(proven(&redis, &database, &[]).await);
    sidecar.flag("user", json!({ "stage": "live", "percent": 100.0 })).await;
    let readers = Readers::start(&sidecar);
    let seen = async || format!("{:?}", raw(&redis, "HGET parallax:judgements user").await);
    wait_until("the guard has seen reads from postgres", PATIENCE, async || seen().await.contains("trouble_ratio"))
        .await;
    assert_eq!((&flag(&sidecar).await["percent"], decisions(&sidecar, "user").await.len()), (&json!(100.0), 0));
    database.server.pause().unwrap();
    wait_until("the kind is at 0 %", PATIENCE * 2, async || flag(&sidecar).await["percent"] == 0.0).await;
    let after = flag(&sidecar).await;
    assert_eq!((&after["stage"], &after["latched"]), (&json!("shadow"), &json!(true)));
    let last = decisions(&sidecar, "user").await[0].clone();
    assert_eq!((&last["decision"], &last["who"]), (&json!("breached"), &json!("guard")));
    assert!(last["reasons"].to_string().contains("late or failed") && last["numbers"]["reads"].is_number(), "{last}");
    assert_eq!(sidecar.metric("parallax_guard_breaches_total", &[("kind", "user")]).await, 1.0);
    let raised = sidecar.try_flag("user", json!({ "stage": "live", "override": true, "reason": "again" })).await;
    assert_eq!(raised.status, 409, "latched: {:?}", raised.body);

    // What was late before is no reason to take it back once more.
    database.server.resume().unwrap();
    wait_until("a person raises it again", PATIENCE, async || {
        let wish = json!({ "stage": "live", "percent": 100.0, "resume": true, "override": true, "reason": "again" });
        sidecar.try_flag("user", wish).await.status == 200
    })
    .await;
    wait_until("the guard has seen reads from postgres again", PATIENCE, async || {
        let decided = decisions(&sidecar, "user").await;
        assert_eq!(decided.len(), 1, "taken back again: {decided:?}");
        seen().await.contains("trouble_ratio")
    })
    .await;
    let (judged, after) = (seen().await, flag(&sidecar).await);
    assert_eq!((&after["percent"], &after["latched"]), (&json!(100.0), &json!(false)), "{judged}");
    assert!(judged.contains(r#"\"breaches\":[]"#), "taken back again: {judged}");
    readers.finish().await;
    stop(sidecar, &["postgres"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_postgres_that_never_answers_brings_its_kinds_back() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(Default::default()).await);
    let (sidecar, readers) = live(&redis, &database, &[], json!({})).await;
    let began = Instant::now();
    database.server.pause().unwrap();
    is_taken_back(&sidecar, began, "late or failed").await;
    readers.finish().await;
    database.server.resume().unwrap();
    stop(sidecar, &["postgres"]).await;
}
