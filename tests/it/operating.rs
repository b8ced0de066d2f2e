//! What an operator does, with the program alone: look, move a kind, take everything back, also when the admin door is gone.

use std::process::Output;

use serde_json::{Value as Json, json};
use tokio::process::Command;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, source, wait_until};

const USER: &str = "user:u1";
const TOKEN: &str = "operators-token";

/// The program with these arguments and variables, and no other environment than the path.
async fn parallax(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parallax"));
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let Output { status, stdout, stderr } = command.envs(variables.iter().copied()).output().await.unwrap();
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

/// A sidecar with one record that Postgres answers.
async fn live(
    redis: &parallax::dev::servers::PrivateRedis,
    database: &support::Database,
    more: &[(&str, &str)],
) -> Sidecar {
    let sidecar = Sidecar::start_with(redis, Some(database), more).await;
    sidecar.raise("shadow").await;
    sidecar.command(&["SET", USER, "v"]).await;
    sidecar.drained().await;
    sidecar.raise_from_shadow().await;
    wait_until("postgres answers", PATIENCE, || async { answerer(&sidecar).await == "postgres" }).await;
    sidecar
}

async fn answerer(sidecar: &Sidecar) -> String {
    source(sidecar, USER).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_moves_and_takes_back_with_commands_alone() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = live(&redis, &database, &[]).await;
    let door = ["--admin", sidecar.admin.as_str()];
    let run = async |arguments: &[&str]| parallax(&[arguments, &door].concat(), &[]).await;

    let (code, shown) = run(&["flags"]).await;
    assert!(
        code == Some(0) && shown.contains("user (by *)") && shown.contains("Postgres answers reads of 100"),
        "{shown}"
    );
    let (code, shown) = run(&["status"]).await;
    assert!(code == Some(0) && shown.contains("lineage good") && shown.contains("live"), "{shown}");
    let (_, fleet) = run(&["status", "--json"]).await;
    let fleet: Json = serde_json::from_str(&fleet).unwrap();
    assert_eq!(fleet["fleet"][0]["version"], env!("CARGO_PKG_VERSION"), "{fleet}");

    let (code, shown) = run(&["flags", "set", "user", "--percent", "0", "--reason", "a pause"]).await;
    assert!(code == Some(0) && shown.starts_with("user: Every write"), "{shown}");
    assert_eq!(answerer(&sidecar).await, "redis");
    let (code, refused) = run(&["flags", "set", "user", "--stage", "off"]).await;
    assert!(code == Some(1) && refused.contains("one stage at a time"), "{refused}");
    let (code, wrong) = run(&["flags", "set", "user", "--percent", "101"]).await;
    assert!(code == Some(1) && wrong.contains("percent must be 0 to 100"), "{wrong}");
    let (code, unknown) = run(&["flags", "set", "nobody", "--percent", "1"]).await;
    assert!(code == Some(1) && unknown.contains("no such kind"), "{unknown}");

    let (code, report) = run(&["rollback", "--json"]).await;
    let report: Json = serde_json::from_str(&report).unwrap();
    assert_eq!((code, &report["fleet"], &report["waiting"]), (Some(0), &json!(true), &json!([])), "{report}");
    let (code, latched) = run(&["flags", "set", "user", "--stage", "live"]).await;
    assert!(code == Some(1) && latched.contains("latched by a rollback"), "{latched}");
    let (code, resumed) =
        run(&["flags", "set", "user", "--resume", "--reason", "understood", "--stage", "live", "--override"]).await;
    assert_eq!(code, Some(0), "{resumed}");
    let (code, nobody) = parallax(&["status", "--admin", "127.0.0.1:1"], &[]).await;
    assert!(code == Some(1) && nobody.contains("cannot be reached"), "{nobody}");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_needs_no_argument_and_no_other_setting() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = live(&redis, &database, &[]).await;
    // The variables of the container, one of them wrong: that is for another hour.
    let container = [("PARALLAX_ADMIN_LISTEN", sidecar.admin.as_str()), ("POSTGRES_PORT", "tcp://10.0.0.1:5432")];
    let (code, told) = parallax(&["rollback"], &container).await;
    assert!(code == Some(0) && told.starts_with("rolled back in "), "{told}");
    assert_eq!(answerer(&sidecar).await, "redis");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_takes_its_token_from_the_settings_or_says_that_it_needs_one() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &[("PARALLAX_ADMIN_OPERATOR_TOKEN", TOKEN)]).await;
    let listen = ("PARALLAX_ADMIN_LISTEN", sidecar.admin.as_str());
    let (code, told) = parallax(&["rollback"], &[listen]).await;
    assert!(code == Some(1) && told.contains("--token-file"), "{told}");
    let (code, told) = parallax(&["rollback"], &[listen, ("PARALLAX_ADMIN_OPERATOR_TOKEN", TOKEN)]).await;
    assert_eq!(code, Some(0), "{told}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let (code, told) = parallax(&["status", "--token-file", file.to_str().unwrap()], &[listen]).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(!told.contains(TOKEN));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_and_a_file_take_reads_back_without_the_admin_door() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("roll-back");
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = live(&redis, &database, &[("PARALLAX_ROLLBACK_FILE", file.to_str().unwrap())]).await;
    let is_back = async || answerer(&sidecar).await == "redis";
    for trigger in ["SIGUSR2", "file"] {
        match trigger {
            "file" => std::fs::write(&file, "").unwrap(),
            signal => {
                let arguments =
                    ["-s".to_owned(), signal.trim_start_matches("SIG").to_owned(), sidecar.pid().to_string()];
                assert!(Command::new("kill").args(arguments).status().await.unwrap().success());
            }
        }
        wait_until("redis answers again", PATIENCE, is_back).await;
        wait_until("the fleet's flags say so", PATIENCE, || async {
            sidecar.get("/v1/flags/%2A").await.json()["flag"]["latched"] == true
        })
        .await;
        let resume = json!({ "resume": true, "stage": "live", "percent": 100.0, "reason": "again" });
        sidecar.flag("*", resume).await;
        wait_until("postgres answers again", PATIENCE, async || answerer(&sidecar).await == "postgres").await;
    }
    sidecar.stop_expecting(&["a rollback was triggered"]).await;
}
