//! The pods that the charts make: the sidecar's place in them, the settings it is handed, and what they are not allowed.

use std::fs;

use parallax::settings::definitions::DEFINITIONS;
use parallax::settings::load;
use parallax::settings::sources::Inputs;

use crate::chart::{CASES, Case, Tools, charts};

const RELAY: [Case; 2] = [CASES[3], CASES[4]];

/// The names of the environment variables in a template or in what it renders.
fn variables(yaml: &str) -> Vec<&str> {
    let names = yaml.lines().filter_map(|line| line.trim().strip_prefix("- name: "));
    names.filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')).collect()
}

/// The text of the first container called `name`, to the end of its list or the next container.
fn container<'a>(pod: &'a str, name: &str) -> &'a str {
    let start = format!("- name: {name}\n");
    let (before, rest) = pod.split_once(&start).unwrap_or_else(|| panic!("no container {name} in {pod}"));
    let indent = before.rsplit('\n').next().unwrap_or_default().len();
    let is_inside = |line: &&str| line.is_empty() || line.len() - line.trim_start().len() > indent;
    let length: usize = rest.lines().take_while(is_inside).map(|line| line.len() + 1).sum();
    &rest[..length.min(rest.len())]
}

#[test]
fn parallax_starts_before_the_application_and_stops_after_it() {
    let Some(tools) = Tools::find("the charts") else { return };
    for case in RELAY {
        let text = tools.rendered(case);
        let (_, deployment) = text.split_once("kind: Deployment").expect("the relay is a Deployment");
        let pod = deployment.split("\n---").next().unwrap_or_default();
        let (before, application) = pod.split_once("\n      containers:").expect("an application follows");
        let sidecar = container(before.split_once("initContainers:").expect("an init container").1, "parallax");
        assert!(sidecar.contains("restartPolicy: Always"), "an init container that keeps running is a native sidecar");
        assert!(sidecar.contains("path: /readyz") && sidecar.contains("path: /livez"), "{sidecar}");
        assert!(application.contains("preStop:") && !application.contains("- name: parallax\n"), "{application}");
        let redis_port = "- name: REDIS_HOST\n              value: 127.0.0.1\n            - name: REDIS_PORT\n              value: \"6380\"";
        assert!(application.contains(redis_port), "the relay speaks to the sidecar: {application}");
    }
}

#[test]
fn every_container_of_ours_runs_without_rights() {
    let Some(tools) = Tools::find("the charts") else { return };
    let rendered = CASES.map(|case| tools.rendered(case)).join("\n---\n");
    for name in ["parallax", "migrate", "backfill", "verify", "backup"] {
        let container = container(&rendered, name);
        for wanted in [
            "runAsNonRoot: true",
            "readOnlyRootFilesystem: true",
            "allowPrivilegeEscalation: false",
            "drop: [\"ALL\"]",
            "type: RuntimeDefault",
            "memory: ",
        ] {
            assert!(container.contains(wanted), "{name} has no `{wanted}`: {container}");
        }
    }
    assert_eq!(
        rendered.matches("automountServiceAccountToken: false").count(),
        rendered.matches("restartPolicy: Never").count() + 2
    );
}

#[test]
fn no_secret_stands_in_the_rendered_text() {
    let Some(tools) = Tools::find("the charts") else { return };
    for case in CASES {
        let text = tools.rendered(case);
        let secrets = variables(&text).into_iter().filter(|name| name.contains("PASSWORD") || name.contains("TOKEN"));
        for name in secrets {
            assert!(name.ends_with("_FILE"), "{case:?}: {name} would show its value in the pod's description");
        }
        assert!(!text.contains("kind: Secret\n"), "{case:?}: secrets are named, never made");
    }
}

#[test]
fn every_variable_of_the_chart_is_a_setting_of_the_binary() {
    let templates = ["_helpers.tpl", "_sidecar.tpl", "_jobs.tpl", "migrate.yaml"];
    let text =
        templates.map(|name| fs::read_to_string(charts().join("parallax/templates").join(name)).unwrap()).join("\n");
    let names = variables(&text);
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
fn the_binary_accepts_the_settings_that_the_charts_hand_it() {
    let Some(tools) = Tools::find("the charts") else { return };
    let folder = tempfile::tempdir().unwrap();
    for (case, name) in [(RELAY[0], "parallax"), (RELAY[1], "parallax"), (CASES[1], "backfill"), (CASES[1], "verify")] {
        let text = tools.rendered(case);
        let mut variables = environment(container(&text, name));
        for (_, value) in &mut variables {
            if let Some(path) = value.strip_prefix("/etc/parallax/") {
                let file = folder.path().join(path.replace('/', "-"));
                fs::write(&file, "content").unwrap();
                *value = file.to_string_lossy().into_owned();
            }
        }
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let settings =
            load(&Inputs::of_variables(&variables)).unwrap_or_else(|errors| panic!("{case:?}: {errors}")).settings;
        assert!(settings.http.listen.ip().is_loopback() && settings.postgres.is_some(), "{case:?}");
        if name == "parallax" {
            assert_eq!(settings.admin.listen.to_string(), "0.0.0.0:8381", "{case:?}");
            assert!(
                settings.admin.hosts.contains(&"relay-parallax-admin.relay.svc".to_owned()),
                "{:?}",
                settings.admin.hosts
            );
        }
    }
}
