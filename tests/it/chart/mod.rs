//! The Helm charts lint, render, and render what Kubernetes accepts; with real Helm, since a chart is a program and only Helm
//! runs it. `make chart` fetches the tools; without them the tests say SKIPPED, but never under CI.

mod refused;
mod sidecar;
mod valid;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::arrows::project;

/// A chart with values that the documents name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// The folder below `helm`.
    chart: &'static str,
    /// A file of values in that folder; none: the defaults.
    values: Option<&'static str>,
    /// What its rendered text is kept as.
    name: &'static str,
}

const fn case(chart: &'static str, values: Option<&'static str>, name: &'static str) -> Case {
    Case { chart, values, name }
}

/// Everything that is rendered, validated and kept.
pub(crate) const CASES: [Case; 5] = [
    case("parallax", None, "parallax"),
    case("parallax", Some("ci/everything-values.yaml"), "parallax-everything"),
    case("parallax", Some("ci/redis-only-values.yaml"), "parallax-redis-only"),
    case("relay", None, "relay"),
    case("relay", Some("ci/production-values.yaml"), "relay-production"),
];

/// What the charts and images are looked at with.
pub(crate) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// The programs that scripts/helm-tool leaves. `None` after saying so, where they are not there.
    pub(crate) fn find(what: &str) -> Option<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("chart-tools");
        if folder.join("helm").exists() && folder.join("venv/checkers").exists() {
            return Some(Self { folder });
        }
        assert!(std::env::var_os("CI").is_none(), "CI must have the chart tools: scripts/setup fetches them");
        println!("SKIPPED {what}: nothing in {} (make chart fetches the tools)", folder.display());
        None
    }

    /// A program of the virtual environment, Python among them.
    pub(crate) fn python_program(&self, name: &str) -> Command {
        Command::new(self.folder.join("venv/bin").join(name))
    }

    fn helm(&self, verb: &[&str], case: Case, more: &[&str]) -> Output {
        let chart = charts().join(case.chart);
        let mut command = Command::new(self.folder.join("helm"));
        command.args(verb).arg(&chart).args(more);
        if let Some(values) = case.values {
            command.arg("--values").arg(chart.join(values));
        }
        command.output().unwrap()
    }

    fn rendered(&self, case: Case) -> String {
        let output = self.helm(&["template", "relay", "--namespace", "relay"], case, &[]);
        assert!(output.status.success(), "{case:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn charts() -> PathBuf {
    project().join("helm")
}

/// What a program said on both of its channels.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a program to its end with this as its input.
pub(crate) fn fed(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().expect("piped").write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}
