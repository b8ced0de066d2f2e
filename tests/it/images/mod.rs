//! The image and the compose file, read by their own tools, since no container engine runs in CI; and what the compose file gives to
//! Postgres and to the sidecar, on a real Postgres and against the real settings.

use std::fs;
use std::process::Output;

use parallax::settings::definitions::DEFINITIONS;
use tokio::process::Command;

use crate::arrows::project;
use crate::chart::{Tools, fed, text};
use crate::support;

/// The sidecar's variables that the original plan names.
const OF_THE_PLAN: [&str; 10] = [
    "POSTGRES_HOST",
    "POSTGRES_PORT",
    "POSTGRES_DB",
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "POSTGRES_POOL_SIZE",
    "POSTGRES_IDLE_TIMEOUT",
    "ENABLE_POSTGRES",
    "CACHE_TTL_SECONDS",
    "ENABLE_WRITE_THROUGH_CACHE",
];

fn read(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap()
}

fn compose(tools: &Tools, compose: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/images/compose.py");
    fed(tools.python_program("python3").arg(script), compose)
}

#[test]
fn hadolint_has_no_complaint_about_the_image() {
    let Some(tools) = Tools::find("the image") else { return };
    let lint = |dockerfile: &str| fed(tools.python_program("hadolint").arg("-"), dockerfile);
    let output = lint(&read("Dockerfile"));
    assert!(output.status.success(), "{}", text(&output));
    let worse = lint(&read("Dockerfile").replace("WORKDIR /src", "WORKDIR src"));
    assert!(text(&worse).contains("DL3000"), "{}", text(&worse));
}

#[test]
fn the_image_holds_the_binary_alone_and_nobody_is_root_in_it() {
    let dockerfile = read("Dockerfile");
    let (_, last) = dockerfile.rsplit_once("\nFROM ").unwrap();
    let instructions: Vec<&str> =
        last.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(instructions, ["scratch", "COPY", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"]);
    assert!(last.contains("USER 65532:65532") && last.contains("ENTRYPOINT [\"/parallax\"]"), "{last}");
    let ignored = read(".dockerignore");
    for needed in ["src", "catalog", "migrations", "tests/model", "Cargo.lock"] {
        assert!(project().join(needed).exists(), "{needed}");
        assert!(!ignored.lines().any(|line| line == needed), "{needed} is needed by the build");
    }
}

#[test]
fn the_compose_file_has_the_services_and_variables_of_the_plan() {
    let Some(tools) = Tools::find("the compose file") else { return };
    let file = read("compose.yaml");
    let output = compose(&tools, &file);
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    let variables: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once(' ')).collect();
    for service in ["postgres", "redis", "app", "sidecar"] {
        assert!(variables.iter().any(|(name, _)| *name == service), "no service {service}: {said}");
    }
    let settings: Vec<&str> = DEFINITIONS.iter().flat_map(|definition| definition.variables).copied().collect();
    let of_the_sidecar: Vec<&str> =
        variables.iter().filter(|(service, _)| *service == "sidecar").map(|(_, variable)| *variable).collect();
    for variable in &of_the_sidecar {
        assert!(settings.contains(variable), "{variable} is no setting");
    }
    for variable in OF_THE_PLAN {
        assert!(of_the_sidecar.contains(&variable), "the plan's {variable} is not handed on");
    }
    for version in ["image: postgres:15\n", "image: redis:7\n", "./scripts/init-db.sql:"] {
        assert!(file.contains(version), "{version}");
    }
    for (right, wrong) in [("restart:", "restrat:"), ("      redis:\n", "      redsi:\n")] {
        assert!(!compose(&tools, &file.replace(right, wrong)).status.success(), "{wrong} was accepted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_of_the_compose_file_leaves_a_database_that_parallax_migrates() {
    let database = support::postgres().await;
    let server = support::client(&database.server.url()).await;
    let name = format!("composed_{}", database.name);
    server.batch_execute(&format!("CREATE ROLE {name} LOGIN")).await.unwrap();
    server.batch_execute(&format!("CREATE DATABASE {name} OWNER {name} TEMPLATE template0")).await.unwrap();
    let url = database.server.url_of(&name).replace("postgres://postgres@", &format!("postgres://{name}@"));
    support::client(&url).await.batch_execute(&read("scripts/init-db.sql")).await.unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_parallax"))
        .arg("migrate")
        .env_clear()
        .env("DATABASE_URL", &url)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    server.batch_execute(&format!("CREATE ROLE {name}_stranger")).await.unwrap();
    let asked = format!("SELECT has_schema_privilege('{name}_stranger', 'public', 'USAGE'), count(*) FROM proofs");
    let row = support::client(&url).await.query_one(&asked, &[]).await.unwrap();
    assert_eq!((row.get::<_, bool>(0), row.get::<_, i64>(1)), (false, 0));
}
