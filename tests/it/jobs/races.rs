//! A backfill among writers that delete, rename, let expire and make anew; and one that is killed again and again.

use parallax::traffic::world::Dice;
use serde_json::json;

use crate::equality::{Load, assert_equal, assert_no_failures, assert_nothing_lost, drained};
use crate::jobs::{begin, plant, program, reaches};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::stores::Stores;
use crate::support::{self, wait_until};

/// Notes every change of a row that nobody wrote to, but for a newer version of the same: what an apply does twice.
const WATCH: &str = "CREATE TABLE applied_twice (key text);
    CREATE FUNCTION note_applied_twice() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO applied_twice VALUES (NEW.key); RETURN NULL; END $$;
    CREATE TRIGGER applied_twice AFTER UPDATE ON users FOR EACH ROW WHEN (NEW.key ~ '^user:[0-9]+$'
        AND (NEW.version <= OLD.version OR (NEW.doc, NEW.expires_at, NEW.deleted_at, NEW.gone_at)
            IS DISTINCT FROM (OLD.doc, OLD.expires_at, OLD.deleted_at, OLD.gone_at)))
        EXECUTE FUNCTION note_applied_twice()";
/// Kills when nobody asks for more, and of `make soak`.
const KILLS: u64 = 3;
const SOAK_KILLS: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_never_overrules_a_writer_that_deletes_renames_or_makes_anew() {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut dice = Dice::new(seed);
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    plant(&redis, 2_000).await;
    sidecar.raise("dualwrite").await;
    let id = begin(&sidecar, json!({ "job": "backfill", "kinds": ["*"], "pace": { "keys_per_second": 1000 } })).await;
    let mut ended = false;
    let mut rounds = 0;
    while !ended && rounds < 200 {
        let commands: Vec<Vec<String>> = (0..40)
            .map(|_| {
                let (one, two) = (format!("user:{}", dice.below(2_000)), format!("user:{}", dice.below(2_000)));
                let words: Vec<&str> = match dice.below(5) {
                    0 => vec!["DEL", &one],
                    1 => vec!["RENAME", &one, &two],
                    2 => vec!["PEXPIRE", &one, "30"],
                    3 => vec!["SET", &one, "anew"],
                    _ => vec!["SET", &one, "brief", "PX", "40"],
                };
                words.into_iter().map(str::to_owned).collect()
            })
            .collect();
        sidecar.pipeline(&commands).await;
        ended = !crate::jobs::job(&sidecar, &id).await["finished_at"].is_null();
        rounds += 1;
    }
    reaches(&sidecar, &id, "done").await;
    drained(&redis).await;
    assert_equal(&redis, &database).await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_backfill_that_is_killed_again_and_again_comes_to_its_end_under_load() {
    let kills = if std::env::var_os("PARALLAX_SOAK").is_some() { SOAK_KILLS } else { KILLS };
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut dice = Dice::new(seed);
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    plant(&redis, 5_000).await;
    sidecar.raise("dualwrite").await;
    let load = Load::start(&sidecar.data, 4, true);
    let client = database.client().await;
    client.batch_execute(WATCH).await.unwrap();
    let arguments = ["backfill", "--json", "--keys-per-second", "1000"];
    for _ in 0..kills {
        let mut killed = program(&redis, &database, &arguments).spawn().unwrap();
        tokio::time::timeout(std::time::Duration::from_millis(300 + dice.below(2_500)), killed.wait()).await.ok();
        killed.kill().await.ok();
    }
    wait_until("it comes to its end", PATIENCE * 2, || async {
        program(&redis, &database, &arguments).output().await.unwrap().status.success()
    })
    .await;
    let ledgers = load.finish().await;
    assert_no_failures(&ledgers);
    drained(&redis).await;
    assert_nothing_lost(&ledgers, &database).await;
    assert_equal(&redis, &database).await;
    let twice = client.query_one("SELECT count(*) FROM applied_twice", &[]).await.unwrap();
    assert_eq!(twice.get::<_, i64>(0), 0, "a row was applied twice with effect");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_is_applied_a_second_time_touches_no_row() {
    let stores = Stores::start().await;
    stores.write("1-a-1", &["SET user:one v", "SADD apikey:set:all a b", "LPUSH usage:records:one first"]).await;
    let rows = async || {
        let text = "SELECT xmin::text, seq, version FROM users UNION ALL SELECT xmin::text, 0, version FROM elements
            UNION ALL SELECT xmin::text, 0, version FROM event_logs UNION ALL SELECT xmin::text, 0, version FROM collections
            ORDER BY 1, 2, 3";
        let rows = stores.look.query(text, &[]).await.unwrap();
        rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, i64>(1), row.get::<_, i64>(2))).collect::<Vec<_>>()
    };
    let mut carried = Vec::new();
    for key in ["user:one", "usage:records:one"] {
        carried.push(stores.carry(key).await);
        stores.apply(&carried[carried.len() - 1]).await.unwrap();
    }
    let before = rows().await;
    assert!(before.len() >= 3, "{before:?}");
    for capture in carried.iter().rev().chain(&carried) {
        stores.apply(capture).await.unwrap();
    }
    assert_eq!(rows().await, before, "a second apply of the same version wrote a row");
}
