//! A Postgres in trouble costs a few reads their deadline, and the others nothing.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, source, wait_until};

const USER: &str = "user:u1";
/// So long that a read which waits it out cannot be mistaken for one that does not.
const DEADLINE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_hangs_costs_a_few_reads_their_deadline_and_is_asked_again_by_itself() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(Default::default()).await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("shadow").await;
    sidecar.command(&["SET", USER, "v"]).await;
    sidecar.drained().await;
    sidecar.raise_from_shadow().await;
    sidecar.flag("*", json!({ "deadline_ms": DEADLINE.as_millis(), "sample_rate": 0.0 })).await;
    wait_until("postgres answers", PATIENCE, async || source(&sidecar, USER).await.1 == "postgres").await;

    database.server.pause().unwrap();
    let mut waited = 0;
    // Whoever reads records tells the same breaker.
    for _ in 0..6 {
        let began = Instant::now();
        let record = sidecar.data("GET", "/v1/records/user/u1", None, &[]).await;
        assert_eq!((record.status, record.header("parallax-source")), (200, Some("redis")));
        waited += u32::from(began.elapsed() >= DEADLINE);
    }
    assert_eq!(sidecar.metric("parallax_breaker_open", &[("kind", "user")]).await, 1.0);
    for _ in 0..34 {
        let began = Instant::now();
        assert_eq!(source(&sidecar, USER).await, ("v".to_owned(), "redis".to_owned()));
        waited += u32::from(began.elapsed() >= DEADLINE);
    }
    // Five open it; the tries come after pauses of which each is longer than the one before.
    assert!((5..12).contains(&waited), "{waited} of 40 reads waited");
    assert_eq!(sidecar.metric("parallax_breaker_open", &[("kind", "user")]).await, 1.0);
    let skipped = sidecar.metric("parallax_reads_total", &[("kind", "user"), ("reason", "breaker")]).await;
    assert!(skipped >= 28.0, "{skipped} reads went by postgres");

    database.server.resume().unwrap();
    // The guard may have taken the reads back meanwhile, as it should.
    wait_until("postgres answers again", PATIENCE, async || {
        sidecar.read_again("user").await;
        source(&sidecar, USER).await.1 == "postgres"
    })
    .await;
    assert_eq!(sidecar.metric("parallax_breaker_open", &[("kind", "user")]).await, 0.0);
    sidecar.stop_with(&["postgres is in trouble"], &["lease", "postgres"]).await;
}

/// The 99th percentile of so many reads, one after the other.
async fn p99(sidecar: &Sidecar, reads: usize) -> Duration {
    let mut took = Vec::with_capacity(reads);
    for _ in 0..reads {
        let began = Instant::now();
        assert_eq!(source(sidecar, USER).await.0, "v");
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took[reads * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_postgres_that_hangs_costs_at_most_the_deadline_and_then_no_more_than_dualwrite() {
    // On a machine with other stories to run a ratio of two tails says little; alone it is the contract's.
    let is_soak = std::env::var_os("PARALLAX_SOAK").is_some();
    let (ratio_max, slack) = if is_soak { (1.2, Duration::ZERO) } else { (10.0, DEADLINE) };
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(Default::default()).await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    sidecar.command(&["SET", USER, "v"]).await;
    sidecar.drained().await;
    let dualwrite = p99(&sidecar, 2_000).await;
    sidecar.raise_from_dualwrite().await;
    sidecar.flag("*", json!({ "deadline_ms": DEADLINE.as_millis() })).await;
    wait_until("postgres answers", PATIENCE, async || source(&sidecar, USER).await.1 == "postgres").await;

    database.server.pause().unwrap();
    let hung = p99(&sidecar, 10).await;
    assert!(hung <= DEADLINE.mul_f64(1.2) + slack, "{hung:?}");
    assert_eq!(sidecar.metric("parallax_breaker_open", &[("kind", "user")]).await, 1.0);
    let skipped = p99(&sidecar, 2_000).await;
    let ratio = skipped.as_secs_f64() / dualwrite.as_secs_f64();
    eprintln!(
        "p99 in dualwrite {dualwrite:?}, with a hung postgres {hung:?}, behind the breaker {skipped:?}: {ratio:.2}"
    );
    assert!(ratio <= ratio_max, "{skipped:?} against {dualwrite:?}");
    database.server.resume().unwrap();
    sidecar.stop_with(&["postgres is in trouble"], &["lease", "postgres"]).await;
}
