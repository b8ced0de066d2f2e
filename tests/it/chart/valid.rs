//! What the charts render for every documented file of values: linted, valid for the oldest and a recent Kubernetes and for the
//! Prometheus operator, and kept as text, so that a change of a template is seen as what it changes in a cluster
//! (`UPDATE_EXPECT=1 make chart` keeps it anew).

use std::fs;

use expect_test::expect_file;

use crate::chart::{CASES, Tools, fed, text};

/// The oldest version the chart says it runs on, and a recent one.
const KUBERNETES: [&str; 2] = ["1.29", "1.37"];

#[test]
fn the_charts_pass_a_strict_lint() {
    let Some(tools) = Tools::find("the charts") else { return };
    for case in CASES {
        let output = tools.helm(&["lint", "--strict"], case, &[]);
        assert!(output.status.success(), "{case:?}: {}", text(&output));
    }
}

#[test]
fn what_the_charts_render_is_valid_kubernetes() {
    let Some(tools) = Tools::find("the charts") else { return };
    let folder = tempfile::tempdir().unwrap();
    let files = CASES.map(|case| {
        let file = folder.path().join(case.name);
        fs::write(&file, tools.rendered(case)).unwrap();
        file
    });
    for version in KUBERNETES {
        let mut command = tools.python_program("kubernetes-validate");
        let output = command.args(["--kubernetes-version", version, "--strict"]).args(&files).output().unwrap();
        assert!(output.status.success(), "Kubernetes {version}: {}", text(&output));
    }
}

#[test]
fn the_validator_would_see_a_field_that_kubernetes_does_not_know() {
    let Some(tools) = Tools::find("the charts") else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.yaml");
    let sidecar = tools.rendered(CASES[3]);
    fs::write(&file, sidecar.replace("restartPolicy: Always", "restartPolitics: Always")).unwrap();
    let mut command = tools.python_program("kubernetes-validate");
    let output = command.args(["-k", "1.29", "--strict"]).arg(&file).output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
}

#[test]
fn what_the_charts_render_is_valid_for_the_prometheus_operator() {
    let Some(tools) = Tools::find("the charts") else { return };
    let check = |rendered: &str| {
        let mut command = tools.python_program("python3");
        fed(command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/chart/custom_resources.py")), rendered)
    };
    let rendered = CASES.map(|case| tools.rendered(case)).join("\n---\n");
    let output = check(&rendered);
    assert!(output.status.success(), "{}", text(&output));
    let broken = check(&rendered.replace("path: /metrics", "pfad: /metrics"));
    assert!(text(&broken).contains("endpoints[0].pfad is no field"), "{}", text(&broken));
}

/// What is kept of a rendered chart: all but files that are tested where they stand.
fn kept(rendered: &str) -> String {
    let is_elsewhere = |part: &&str| part.contains("kind: PrometheusRule") || part.contains("grafana_dashboard");
    rendered.split("---\n").filter(|part| !is_elsewhere(part)).collect::<Vec<_>>().join("---\n")
}

#[test]
fn what_the_charts_render_changes_only_with_what_is_kept_of_it() {
    let Some(tools) = Tools::find("the charts") else { return };
    for case in CASES {
        expect_file![format!("kept/{}.yaml", case.name)].assert_eq(&kept(&tools.rendered(case)));
    }
}
