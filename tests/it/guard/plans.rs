//! How a plan climbs: by its bake times and a person's word, past a leader that dies, and no further than its data go.

use serde_json::json;

use super::{becomes, decisions, flag, plan, post, proven, read, wish};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_climbs_when_its_data_and_a_person_say_so_also_under_another_leader() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let first = proven(&redis, &database, &[]).await;
    let steps = json!([{ "percent": 50.0, "bake_seconds": 1 }, { "percent": 100.0, "bake_seconds": 1 }]);
    let spec = json!({ "steps": steps, "confirm": ["first", "last"], "reason": "a story" });
    let posted = post(&first, "user", spec.clone()).await;
    assert_eq!((&posted["state"], &posted["kinds"]), (&json!("waiting"), &json!(["user"])));
    let again = first.admin("POST", "/v1/flags/user/plan", Some(spec), &[]).await;
    assert_eq!(again.status, 409, "one plan for each kind: {:?}", again.body);
    let waits = async |sidecar: &Sidecar, told: &str| {
        wait_until(&format!("it is held: {told}"), PATIENCE, async || {
            plan(sidecar, "user").await["holding"].to_string().contains(told)
        })
        .await;
    };
    waits(&first, "a person has to say yes").await;
    assert_eq!(flag(&first).await["stage"], "shadow");
    assert_eq!(wish(&first, "user", "promote", None).await, 200);
    becomes(&first, "user", "baking").await;
    assert_eq!((&flag(&first).await["stage"], &flag(&first).await["percent"]), (&json!("live"), &json!(50.0)));

    // The leader dies; another one goes on where it was.
    let second = Sidecar::start(&redis, &database).await;
    first.kill().await;
    waits(&second, "a person has to say yes").await;
    assert_eq!(wish(&second, "user", "promote", None).await, 200);
    waits(&second, "no data: no read was sent to postgres").await;
    assert_eq!(flag(&second).await["percent"], 50.0);
    wait_until("the last step is taken", PATIENCE, async || {
        assert_eq!(read(&second, 0, 200).await, 0);
        flag(&second).await["percent"] == 100.0
    })
    .await;
    becomes(&second, "user", "done").await;
    let decided = decisions(&second, "user").await;
    let decided: Vec<&str> = decided.iter().rev().map(|decision| decision["decision"].as_str().unwrap()).collect();
    let steps = decided.iter().filter(|decision| **decision == "stepped").count();
    assert_eq!((decided.first(), decided.last(), steps), (Some(&"posted"), Some(&"ended"), 2), "{decided:?}");
    second.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_paused_resumed_and_given_up_and_ends_when_somebody_rolls_back() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = proven(&redis, &database, &[]).await;
    let spec = json!({ "steps": [{ "percent": 100.0, "bake_seconds": 600 }], "reason": "a story" });
    post(&sidecar, "user", spec.clone()).await;
    becomes(&sidecar, "user", "baking").await;
    assert_eq!(wish(&sidecar, "user", "pause", None).await, 200);
    assert_eq!(wish(&sidecar, "user", "promote", None).await, 409);
    assert_eq!(wish(&sidecar, "user", "resume", None).await, 422, "a resume needs a reason");
    assert_eq!(wish(&sidecar, "user", "resume", Some("seen")).await, 200);
    becomes(&sidecar, "user", "baking").await;
    sidecar.admin("POST", "/v1/rollback", Some(json!({ "scope": "user", "reason": "by hand" })), &[]).await;
    becomes(&sidecar, "user", "breached").await;
    assert_eq!(wish(&sidecar, "user", "resume", Some("understood")).await, 200);
    becomes(&sidecar, "user", "baking").await;
    assert_eq!((&flag(&sidecar).await["stage"], &flag(&sidecar).await["latched"]), (&json!("live"), &json!(false)));
    assert_eq!(wish(&sidecar, "user", "abort", Some("enough")).await, 200);
    let after = flag(&sidecar).await;
    assert_eq!((&after["stage"], &after["percent"], &after["latched"]), (&json!("shadow"), &json!(0.0), &json!(false)));
    assert_eq!(wish(&sidecar, "user", "resume", Some("no")).await, 409);
    assert_eq!(wish(&sidecar, "nobody", "abort", Some("no")).await, 404);
    // A group is as good a name; of its kinds those go along that can be read from Postgres.
    let group = post(&sidecar, "auth", spec).await;
    assert!(group["kinds"].as_array().unwrap().contains(&json!("apikey")), "{group}");
    wait_until("it waits for the gates", PATIENCE, async || {
        plan(&sidecar, "auth").await["holding"].to_string().contains("one stage at a time")
    })
    .await;
    assert!(decisions(&sidecar, "apikey").await.iter().any(|decision| decision["decision"] == "held"));
    sidecar.stop_expecting(&["the guard took reads back"]).await;
}
