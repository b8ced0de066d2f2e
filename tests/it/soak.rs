//! SIGKILL of the sidecar at random moments under load: its successor drains, both stores are equal, and every acknowledged
//! write is there. Ten times in CI, two hundred with `make soak`.

use futures_util::StreamExt;

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

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_stands_in_the_same_step_as_the_write_and_before_it() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    let monitor = redis::Client::open(redis.url()).unwrap().get_async_monitor().await.unwrap();
    let seen = tokio::spawn(async move {
        let lines = monitor.into_on_message::<String>();
        // The last command of this story ends the look.
        let until_the_end = lines.take_while(|line| std::future::ready(!line.contains("the-end")));
        until_the_end.collect::<Vec<String>>().await
    });
    let writes =
        [&["SET", "user:marked", "v"][..], &["HDEL", "user:hash", "f"], &["ZADD", "cost_rank:today", "1", "m"]];
    sidecar.command(&["HSET", "user:hash", "f", "v"]).await;
    for write in writes {
        sidecar.command(write).await;
    }
    sidecar.command(&["GET", "lock:the-end"]).await;
    let seen = seen.await.unwrap();
    for write in writes {
        let (name, key) = (format!("\"{}\"", write[0]), format!("\"{}\"", write[1]));
        let is_write = |line: &String| line.contains(&name) && line.contains(&key) && !line.contains("EVAL");
        let at = seen.iter().position(is_write).unwrap_or_else(|| panic!("{write:?} is not in {seen:#?}"));
        let begin = seen[..at].iter().rposition(|line| line.contains("\"MULTI\"")).unwrap();
        let end = at + seen[at..].iter().position(|line| line.contains("\"EXEC\"")).unwrap();
        let is_mark = |line: &String| line.contains("parallax:outbox") && line.contains(&key);
        assert!(
            seen[begin..at].iter().any(is_mark),
            "{write:?} has no mark before it in its step: {:#?}",
            &seen[begin..=end]
        );
        assert!(!seen[begin + 1..end].iter().any(|line| line.contains("\"EXEC\"")), "not one step");
    }
    sidecar.stop_expecting(&[]).await;
}
