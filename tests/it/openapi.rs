//! The doors answer as their OpenAPI documents say, judged by schemathesis: it makes requests from the documents, well formed
//! and not, and holds every answer against them. Unit tests beside each door's route table hold that no path is left out.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;

use crate::arrows::project;
use crate::support;
use crate::support::sidecar::Sidecar;

/// The version that the configuration in tests/data is written for.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// How long each door is asked. Found mistakes end a run no earlier.
const SECONDS: &str = "25";
const DATA_TOKEN: &str = "data-token";
const ADMIN_TOKEN: &str = "secrets-token";

/// The program, installed into target/ the first time. `None` after saying so, where it cannot be had.
fn schemathesis() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join(SCHEMATHESIS.replace("==", "-"));
    let program = folder.join("bin/schemathesis");
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    // A run that was broken off leaves a folder without the program.
    let is_there = program.exists() || {
        let (place, pip) = (folder.to_string_lossy(), folder.join("bin/pip"));
        run("python3", &["-m", "venv", "--clear", &place])
            && run(&pip.to_string_lossy(), &["install", "--quiet", "--disable-pip-version-check", SCHEMATHESIS])
    };
    if is_there {
        return Some(program);
    }
    assert!(std::env::var_os("CI").is_none(), "CI must have schemathesis: python3 with venv, and a package index");
    println!("SKIPPED schemathesis against the doors: it cannot be installed here (python3 with venv, PyPI)");
    None
}

fn judged(program: &Path, door: &str, token: &str, more: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let config = project().join("tests/data/schemathesis.toml");
    let mut command = Command::new(program);
    command.arg("--config-file").arg(config).arg("run").arg(format!("http://{door}/openapi.json"));
    command.args(["--header", &format!("Authorization: Bearer {token}"), "--checks", "all"]);
    // A subscription has no end that could be waited for; tests/client has its tests.
    command.args(["--exclude-path-regex", "subscribe"]);
    command.args(["--max-time", SECONDS, "--generation-database", "none", "--no-color"]);
    command.args(more).current_dir(folder.path()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_doors_answer_as_their_descriptions_say() {
    let Some(program) = schemathesis() else { return };
    let (redis, database) = (support::redis().await, support::postgres().await);
    let tokens = [
        ("PARALLAX_HTTP_TOKEN", DATA_TOKEN),
        ("PARALLAX_ADMIN_SECRETS_TOKEN", ADMIN_TOKEN),
        ("PARALLAX_BARRIER_WAIT_MS", "1000"),
    ];
    let sidecar = Sidecar::start_with(&redis, Some(&database), &tokens).await;
    // The data door is asked so fast that requests without a token are soon answered 429, which that check does not know.
    let doors: [(String, &str, &[&str]); 2] = [
        (sidecar.admin.clone(), ADMIN_TOKEN, &[]),
        (sidecar.data.clone(), DATA_TOKEN, &["--exclude-checks", "ignored_auth"]),
    ];
    for (door, token, more) in doors {
        let program = program.clone();
        let output = tokio::task::spawn_blocking(move || judged(&program, &door, token, more)).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // An example can be as long as a body may be.
        let short: Vec<String> = text.lines().map(|line| line.chars().take(500).collect()).collect();
        assert!(output.status.success(), "{}\n{}", short.join("\n"), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("passed"), "nothing was tried: {text}");
    }
    // Whatever was asked, nothing is broken: no warning in the log but for jobs and reports that were refused.
    sidecar.stop_with(&[], &["asked for at the admin door"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_given_to_whoever_may_look() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &[("PARALLAX_HTTP_TOKEN", DATA_TOKEN)]).await;
    let admin: Json = sidecar.get("/openapi.json").await.json();
    assert_eq!(admin["openapi"], "3.1.0");
    assert_eq!(sidecar.data("GET", "/openapi.json", None, &[]).await.status, 401);
    let token = [("authorization", "Bearer data-token")];
    let data = sidecar.data("GET", "/openapi.json", None, &token).await.json();
    assert!(data["paths"]["/redis"].is_object() && admin["paths"]["/v1/flags"].is_object());
    assert_eq!(sidecar.data("POST", "/openapi.json", None, &token).await.status, 405);
    // Each method of the data door is either described, or refused with exactly the methods that are.
    for (path, item) in data["paths"].as_object().unwrap() {
        let path = path
            .replace("{kind}", "apikey")
            .replace("{id}", "1")
            .replace("{command}", "get")
            .replace("{argument}", "a");
        if path.contains("subscribe") {
            continue;
        }
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"] {
            let answer = sidecar.data(method, &path, Some("{}".into()), &token).await;
            let is_described = item.get(method.to_lowercase()).is_some();
            assert_eq!(answer.status == 405, !is_described, "{method} {path}: {answer:?}");
            if let Some(allowed) = answer.header("allow") {
                let described: Vec<&str> = allowed.split(", ").filter(|method| *method != "HEAD").collect();
                assert!(described.iter().all(|method| item.get(method.to_lowercase()).is_some()), "{path}: {allowed}");
            }
        }
    }
    sidecar.stop_expecting(&[]).await;
}
