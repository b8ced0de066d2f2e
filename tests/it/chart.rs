//! The Helm chart lints, renders, and renders what Kubernetes accepts; with real Helm, since a chart is a program and only
//! Helm runs it. `make chart` fetches the tools; without them the tests say SKIPPED, but never under CI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use parallax::settings::definitions::DEFINITIONS;
use parallax::settings::load;
use parallax::settings::sources::Inputs;

use crate::arrows::project;

/// The oldest version the chart says it runs on, and a recent one.
const KUBERNETES: [&str; 2] = ["1.29", "1.37"];

/// The value files that the chart is tried with; an empty name stands for the defaults.
const VALUES: [&str; 3] = ["", "ci/everything-values.yaml", "ci/redis-only-values.yaml"];

struct Tools {
    helm: PathBuf,
    validate: PathBuf,
}

/// Where scripts/helm-tool leaves the tools. `None` after saying so, where they are not there.
fn tools() -> Option<Tools> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("chart-tools");
    let tools = Tools { helm: folder.join("helm"), validate: folder.join("venv/bin/kubernetes-validate") };
    if tools.helm.exists() && tools.validate.exists() {
        return Some(tools);
    }
    assert!(std::env::var_os("CI").is_none(), "CI must have the chart tools: scripts/setup fetches them");
    println!("SKIPPED the chart: no Helm in {} (make chart fetches it)", folder.display());
    None
}

fn chart() -> PathBuf {
    project().join("helm/parallax")
}

fn helm(tools: &Tools, verb: &[&str], values: &str, more: &[&str]) -> Output {
    let mut command = Command::new(&tools.helm);
    command.args(verb).arg(chart()).args(more);
    if !values.is_empty() {
        command.arg("--values").arg(chart().join(values));
    }
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn rendered(tools: &Tools, values: &str) -> String {
    let output = helm(tools, &["template", "relay"], values, &[]);
    assert!(output.status.success(), "{values}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The names of the environment variables in a template or in what it renders.
fn variables(yaml: &str) -> Vec<&str> {
    let names = yaml.lines().filter_map(|line| line.trim().strip_prefix("- name: "));
    names.filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')).collect()
}

#[test]
fn the_chart_passes_a_strict_lint() {
    let Some(tools) = tools() else { return };
    for values in VALUES {
        let output = helm(&tools, &["lint", "--strict"], values, &[]);
        assert!(output.status.success(), "{values}: {}", text(&output));
    }
}

#[test]
fn what_the_chart_renders_is_valid_kubernetes() {
    let Some(tools) = tools() else { return };
    for values in VALUES {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rendered.yaml");
        fs::write(&file, rendered(&tools, values)).unwrap();
        for version in KUBERNETES {
            let mut command = Command::new(&tools.validate);
            let output = command.args(["--kubernetes-version", version, "--strict"]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{values}, Kubernetes {version}: {}", text(&output));
        }
    }
}

#[test]
fn the_validator_would_see_a_field_that_kubernetes_does_not_know() {
    let Some(tools) = tools() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.yaml");
    fs::write(&file, rendered(&tools, "").replace("restartPolicy: Always", "restartPolitics: Always")).unwrap();
    let output = Command::new(&tools.validate).args(["-k", "1.29", "--strict"]).arg(&file).output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
}

#[test]
fn a_value_that_the_chart_does_not_know_is_refused() {
    let Some(tools) = tools() else { return };
    for wrong in ["redis.hots=cache", "postgres.sslmode=prefer", "redis.port=0", "doors.admin.tokensSecret.name="] {
        let output = helm(&tools, &["template", "relay"], "", &["--set", wrong]);
        assert!(!output.status.success(), "{wrong} was accepted");
    }
}

#[test]
fn parallax_starts_before_the_application_and_stops_after_it() {
    let Some(tools) = tools() else { return };
    let deployment = rendered(&tools, "");
    let (_, rest) = deployment.split_once("initContainers:").expect("the sidecar is an init container");
    let pod = rest.split("\n---").next().unwrap_or_default();
    let (sidecar, application) = pod.split_once("\n      containers:").expect("an application follows");
    assert!(sidecar.contains("restartPolicy: Always"), "an init container that keeps running is a native sidecar");
    assert!(sidecar.contains("path: /readyz") && sidecar.contains("path: /livez"), "{sidecar}");
    assert!(!application.contains("image: \"parallax"), "{application}");
}

#[test]
fn no_secret_stands_in_the_rendered_text() {
    let Some(tools) = tools() else { return };
    for values in VALUES {
        for name in variables(&rendered(&tools, values)) {
            let is_secret = name.contains("PASSWORD") || name.contains("TOKEN");
            assert!(
                !is_secret || name.ends_with("_FILE"),
                "{values}: {name} would show its value in the pod's description"
            );
        }
    }
}

#[test]
fn every_variable_of_the_chart_is_a_setting_of_the_binary() {
    let template = fs::read_to_string(chart().join("templates/_helpers.tpl")).unwrap();
    let names = variables(&template);
    assert!(names.len() > 10, "the templates are read wrongly: {names:?}");
    let settings: Vec<&str> = DEFINITIONS.iter().flat_map(|definition| definition.variables).copied().collect();
    let is_setting = |name: &&str| settings.contains(name) || settings.contains(&name.trim_end_matches("_FILE"));
    let unknown: Vec<_> = names.into_iter().filter(|name| !is_setting(name)).collect();
    assert!(unknown.is_empty(), "no setting has these names: {unknown:?}");
}

/// The variables that a container of the rendered text gets, with their values.
fn environment(container: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = container.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter_map(|pair| {
        let name = pair[0].strip_prefix("- name: ")?;
        let value = pair[1].strip_prefix("value: ")?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    });
    pairs.collect()
}

#[test]
fn the_binary_accepts_the_settings_that_the_chart_hands_it() {
    let Some(tools) = tools() else { return };
    let folder = tempfile::tempdir().unwrap();
    for values in VALUES {
        let text = rendered(&tools, values);
        let (_, sidecar) = text.split_once("initContainers:").unwrap();
        let mut variables = environment(sidecar);
        for (_, value) in &mut variables {
            if let Some(path) = value.strip_prefix("/etc/parallax/") {
                let file = folder.path().join(path.replace('/', "-"));
                fs::write(&file, "content").unwrap();
                *value = file.to_string_lossy().into_owned();
            }
        }
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let loaded = load(&Inputs::of_variables(&variables)).unwrap_or_else(|errors| panic!("{values}: {errors}"));
        assert_eq!(loaded.settings.admin.listen.to_string(), "0.0.0.0:8381", "{values}");
        assert!(loaded.settings.http.listen.ip().is_loopback(), "{values}");
        assert_eq!(loaded.settings.postgres.is_some(), !values.contains("redis-only"), "{values}");
    }
}
