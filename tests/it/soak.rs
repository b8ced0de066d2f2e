//! SIGKILL of the sidecar at random moments under load: its successor drains, both stores are equal, and every acknowledged
//! write is there. Ten times in CI, two hundred with `make soak`.

use crate::equality::{Load, assert_equal, assert_nothing_lost, drained};
use crate::support;
use crate::support::sidecar::Sidecar;

/// Rounds when nobody asks for more.
const ROUNDS: u64 = 10;
/// Rounds of `make soak`.
const SOAK_ROUNDS: u64 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_sidecar_that_is_killed_under_load_loses_nothing() {
    let rounds = if std::env::var_os("PARALLAX_SOAK").is_some() { SOAK_ROUNDS } else { ROUNDS };
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut dice = parallax::traffic::world::Dice::new(seed);
    let (redis, database) = (support::redis().await, support::postgres().await);
    let mut sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    let mut load = Load::start(&sidecar.data, 8, true);
    for _ in 0..rounds {
        load.goes_on(1 + dice.below(60)).await;
        sidecar.kill().await;
        sidecar = Sidecar::start(&redis, &database).await;
        load.go_to(&sidecar.data);
    }
    load.goes_on(20).await;
    let ledgers = load.finish().await;
    drained(&redis).await;
    assert_nothing_lost(&ledgers, &database).await;
    assert_equal(&redis, &database).await;
    assert_eq!(sidecar.metric("parallax_mismatches_total", &[]).await, 0.0);
    sidecar.stop_expecting(&[]).await;
}
