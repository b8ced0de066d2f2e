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
    for _ in 0..40 {
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
    wait_until("postgres answers again", PATIENCE, async || source(&sidecar, USER).await.1 == "postgres").await;
    assert_eq!(sidecar.metric("parallax_breaker_open", &[("kind", "user")]).await, 0.0);
    sidecar.stop_with(&["postgres is in trouble"], &["lease", "postgres"]).await;
}
