//! Readers and writers on several sidecars while flags flip at random through all stages, Postgres stops and hangs, and a
//! sidecar is cut off from Redis: no read goes back in time, and every acknowledged write is seen. 50,000 operations; a
//! million with `PARALLAX_SOAK`, in parts: a run that was broken off goes on behind the parts that are done.

mod check;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use parallax::dev::servers::{PostgresOptions, PrivateRedis};
use parallax::traffic::world::Dice;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use self::check::{Operation, What, violations};
use crate::equality::{assert_equal, drained};
use crate::support::parts::Parts;
use crate::support::proxy::{Fault, Proxy};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, Database};

/// Operations of one part, and parts of a soak.
const OPERATIONS: u64 = 50_000;
const SOAK_PARTS: usize = 20;
/// Sidecars; the last one may be cut off from Redis.
const SIDECARS: usize = 3;
/// Writers, each with a key at a time, and readers.
const WRITERS: usize = 6;
const READERS: usize = 6;
/// Reads of one request.
const BURST: usize = 20;
/// Reads that Postgres has answered at least when a part ends.
const READS_MIN: f64 = 500.0;
/// A lease that ends while a story waits.
const SHORT: [(&str, &str); 3] =
    [("PARALLAX_LEASE_MS", "2000"), ("PARALLAX_COMMAND_DEADLINE_MS", "1000"), ("PARALLAX_BARRIER_WAIT_MS", "500")];

struct World {
    sidecars: Vec<Sidecar>,
    database: Database,
    proxy: Proxy,
    started: Instant,
    operations: AtomicU64,
    failures: AtomicU64,
    stop: AtomicBool,
    history: Mutex<Vec<Operation>>,
    /// The key that each writer writes to now.
    keys: Vec<AtomicU64>,
    next_key: AtomicU64,
    ack: &'static str,
}

impl World {
    async fn start(redis: &PrivateRedis, ack: &'static str) -> Arc<Self> {
        let database = support::postgres_of_its_own(PostgresOptions { durable: true, ..Default::default() }).await;
        let proxy = Proxy::to(redis.port()).await;
        let mut sidecars = Vec::new();
        for n in 0..SIDECARS {
            let url = if n + 1 == SIDECARS { proxy.url(&redis.url(), redis.port()) } else { redis.url() };
            let more: Vec<(&str, &str)> = SHORT.iter().copied().chain([("REDIS_URL", url.as_str())]).collect();
            sidecars.push(Sidecar::start_with(redis, Some(&database), &more).await);
        }
        let keys = (0..WRITERS).map(|n| AtomicU64::new(n as u64)).collect();
        Arc::new(Self {
            sidecars,
            database,
            proxy,
            started: Instant::now(),
            operations: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            history: Mutex::default(),
            keys,
            next_key: AtomicU64::new(WRITERS as u64),
            ack,
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap()
    }

    fn note(&self, operations: impl IntoIterator<Item = Operation>) {
        let mut history = self.history.lock().unwrap();
        let before = history.len();
        history.extend(operations);
        self.operations.fetch_add((history.len() - before) as u64, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Writes 1, 2, 3 ... to a key. After an outcome that is not known the key is left alone: the write may yet come.
    async fn write(self: Arc<Self>, writer: usize, seed: u64) {
        let mut dice = Dice::new(seed);
        let mut value = 0;
        while !self.is_over() {
            let key = usize::try_from(self.keys[writer].load(Ordering::Relaxed)).unwrap();
            value += 1;
            let sidecar = &self.sidecars[pick(&mut dice, SIDECARS)];
            let began = self.now();
            let command = json!(["SET", name(key), value.to_string()]).to_string();
            let sent = sidecar.try_data("/redis", command, &[("parallax-ack", self.ack)]).await;
            let is_acknowledged = sent.is_ok();
            let ended = self.now();
            self.note([Operation { key, what: What::Wrote { is_acknowledged }, value, began, ended }]);
            if !is_acknowledged || value >= 50 {
                self.failures.fetch_add(u64::from(!is_acknowledged), Ordering::Relaxed);
                self.keys[writer].store(self.next_key.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
                value = 0;
            }
        }
    }

    /// A key that is written now, or one that may be at rest: what is written all the time is pending, and Redis answers.
    fn picked(&self, dice: &mut Dice) -> usize {
        let now = self.keys[pick(dice, WRITERS)].load(Ordering::Relaxed);
        let lately = self.next_key.load(Ordering::Relaxed).saturating_sub(1 + dice.below(4 * WRITERS as u64));
        usize::try_from(if dice.below(2) == 0 { now } else { lately }).unwrap()
    }

    /// Reads keys, in bursts.
    async fn read(self: Arc<Self>, seed: u64) {
        let mut dice = Dice::new(seed);
        while !self.is_over() {
            let picked: Vec<usize> = (0..BURST).map(|_| self.picked(&mut dice)).collect();
            let commands: Vec<Json> = picked.iter().map(|key| json!(["GET", name(*key)])).collect();
            let sidecar = &self.sidecars[pick(&mut dice, SIDECARS)];
            let began = self.now();
            let answered = sidecar.try_data("/redis/pipeline", json!(commands).to_string(), &[]).await;
            let ended = self.now();
            let Ok(answers) = answered else { continue };
            let value = |answer: &Json| match answer.get("result") {
                Some(Json::String(text)) => text.parse().ok(),
                Some(Json::Null) => Some(0),
                Some(_) | None => None,
            };
            let answers = answers.as_array().cloned().unwrap_or_default();
            let read = picked.into_iter().zip(&answers).filter_map(|(key, answer)| Some((key, value(answer)?)));
            self.note(read.map(|(key, value)| Operation { key, what: What::Read, value, began, ended }));
        }
    }

    /// Flips the flag through all stages, mostly upward, whatever the answers: a refused step is as good as any.
    async fn flip(self: Arc<Self>, seed: u64) {
        let mut dice = Dice::new(seed);
        while !self.is_over() {
            let sidecar = &self.sidecars[pick(&mut dice, SIDECARS - 1)];
            let now = sidecar.get("/v1/flags/user").await.json();
            let is_owed = now["backfilled"] == false && now["flag"]["stage"] == "shadow";
            let (up, down) = match now["flag"]["stage"].as_str().unwrap() {
                "off" => ("dualwrite", "off"),
                "dualwrite" => ("shadow", "off"),
                "shadow" => ("live", "dualwrite"),
                _ => ("live", "shadow"),
            };
            let percent = f64::from(u32::try_from(dice.below(101)).unwrap());
            let to = |stage: &str| {
                json!({ "stage": stage, "percent": percent, "deadline_ms": 200, "sample_rate": 0.2, "resume": true,
                    "override": true, "reason": "a history" })
            };
            let _answered = match dice.below(12) {
                0 => sidecar.try_admin("/v1/rollback", json!({ "scope": "*", "reason": "a history" })).await,
                1 => sidecar.try_change("user", to(down)).await,
                // Live comes behind a backfill alone; one that nobody needs does no harm.
                drawn if drawn == 2 || (drawn < 8 && is_owed) => {
                    sidecar.try_admin("/v1/jobs", json!({ "job": "backfill", "kinds": ["user"] })).await
                }
                _ => sidecar.try_change("user", to(up)).await,
            };
            tokio::time::sleep(Duration::from_millis(20 + dice.below(150))).await;
        }
    }

    /// Stops, hangs and kills Postgres, and cuts one sidecar off from Redis; each ends before the next begins.
    async fn disturb(self: Arc<Self>, seed: u64) {
        let mut dice = Dice::new(seed);
        let server = &self.database.server;
        while !self.is_over() {
            tokio::time::sleep(Duration::from_millis(1_000 + dice.below(2_000))).await;
            let lasts = Duration::from_millis(100 + dice.below(1_500));
            match dice.below(3) {
                0 => {
                    server.pause().unwrap();
                    tokio::time::sleep(lasts).await;
                    server.resume().unwrap();
                }
                1 => {
                    server.kill().unwrap();
                    tokio::time::sleep(lasts).await;
                    server.restart().await.unwrap();
                }
                _ => {
                    self.proxy.set(Fault::Partition);
                    tokio::time::sleep(lasts).await;
                    self.proxy.set(Fault::None);
                }
            }
        }
    }
}

fn name(key: usize) -> String {
    format!("user:h{key}")
}

fn pick(dice: &mut Dice, below: usize) -> usize {
    usize::try_from(dice.below(below as u64)).unwrap()
}

/// One part: so many operations, judged.
async fn part(seed: u64, ack: &'static str, operations: u64) -> String {
    eprintln!("seed {seed}, ack = {ack}");
    let redis = support::redis().await;
    let world = World::start(&redis, ack).await;
    for stage in ["dualwrite", "shadow", "live"] {
        if stage == "live" {
            world.sidecars[0].backfill().await;
        }
        world.sidecars[0].flag("user", json!({ "stage": stage, "percent": 100.0, "deadline_ms": 200 })).await;
    }
    let mut dice = Dice::new(seed);
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        tasks.spawn(Arc::clone(&world).write(writer, dice.below(u64::MAX)));
    }
    for _ in 0..READERS {
        tasks.spawn(Arc::clone(&world).read(dice.below(u64::MAX)));
    }
    tasks.spawn(Arc::clone(&world).flip(dice.below(u64::MAX)));
    tasks.spawn(Arc::clone(&world).disturb(dice.below(u64::MAX)));
    support::wait_until("there are enough operations", PATIENCE * 10, async || {
        world.operations.load(Ordering::Relaxed) >= operations && answered_by_postgres(&world).await > READS_MIN
    })
    .await;
    world.stop.store(true, Ordering::Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let history = std::mem::take(&mut *world.history.lock().unwrap());
    assert_eq!(violations(&history), [], "seed {seed}");
    let from_postgres = answered_by_postgres(&world).await;
    let told = format!(
        "seed {seed}, ack = {ack}: {} operations, {from_postgres} reads from postgres, {} writes of unknown outcome, 0 violations",
        history.len(),
        world.failures.load(Ordering::Relaxed)
    );
    eprintln!("{told}");
    nothing_is_lost(&world, &redis, &history).await;
    let world = Arc::into_inner(world).expect("all tasks have ended");
    for sidecar in world.sidecars {
        sidecar.stop_with(&[], &["postgres", "lease", "redis", "admin door", "backfill", "verify is owed"]).await;
    }
    told
}

async fn answered_by_postgres(world: &World) -> f64 {
    let mut sum = 0.0;
    for sidecar in &world.sidecars {
        sum += sidecar.metric("parallax_reads_total", &[("store", "postgres")]).await;
    }
    sum
}

/// Every acknowledged write is in Redis, and once the kind is marked and backfilled both stores hold the same.
async fn nothing_is_lost(world: &World, redis: &PrivateRedis, history: &[Operation]) {
    let mut acknowledged: BTreeMap<usize, u64> = BTreeMap::new();
    for operation in history.iter().filter(|done| done.what == What::Wrote { is_acknowledged: true }) {
        let highest = acknowledged.entry(operation.key).or_default();
        *highest = operation.value.max(*highest);
    }
    for (key, value) in acknowledged {
        let found: Option<u64> = crate::equality::ask(redis, &["GET", &name(key)]).await;
        assert!(found >= Some(value), "{key}: {found:?} and {value} was acknowledged");
    }
    let sidecar = &world.sidecars[0];
    support::wait_until("every kind is marked again", PATIENCE, async || {
        sidecar.try_change("*", json!({ "stage": "dualwrite" })).await;
        sidecar.try_change("user", json!({ "stage": "shadow", "sample_rate": 0.0 })).await;
        sidecar.try_change("user", json!({ "stage": "dualwrite" })).await == Some(200)
    })
    .await;
    support::standing(sidecar, "good").await;
    sidecar.backfill().await;
    drained(redis).await;
    assert_equal(redis, &world.database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_no_read_goes_back_while_flags_flip_and_stores_fail() {
    let acks = ["redis", "both"];
    if std::env::var_os("PARALLAX_SOAK").is_none() {
        let seed: u64 = rand::random();
        part(seed, acks[usize::from(seed.is_multiple_of(3))], OPERATIONS).await;
        return;
    }
    let mut parts = Parts::of("history", SOAK_PARTS);
    while let Some(n) = parts.next() {
        parts.done(part(rand::random(), acks[n % 2], OPERATIONS).await);
    }
}
