//! The dashboards: what helm/dashboards.toml asks is what Grafana's JSON in the chart asks, and a real Prometheus that scrapes a real
//! sidecar has an answer to each of its queries.

mod grafana;
mod live;

use std::collections::BTreeSet;
use std::fs;

use expect_test::expect_file;
use serde::Deserialize;

use crate::arrows::project;

/// Everything that is shown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    dashboard: Vec<Dashboard>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dashboard {
    name: String,
    title: String,
    about: String,
    row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    title: String,
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    title: String,
    show: Show,
    /// Grafana's name of the unit; a plain number without one.
    unit: Option<String>,
    about: Option<String>,
    /// Whether its points lead to traces.
    #[serde(default)]
    exemplars: bool,
    queries: Vec<Query>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Show {
    Lines,
    Numbers,
    Bars,
    Traces,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    expr: String,
    /// What a line is called; nothing for traces.
    legend: Option<String>,
}

impl Description {
    fn read() -> Self {
        let text = fs::read_to_string(project().join("helm/dashboards.toml")).unwrap();
        toml::from_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.dashboard.iter().flat_map(|dashboard| &dashboard.row).flat_map(|row| &row.panels)
    }

    /// The queries of panels that are `traces`, or of those that are not.
    fn queries(&self, of: fn(Show) -> bool) -> impl Iterator<Item = &Query> {
        self.panels().filter(move |panel| of(panel.show)).flat_map(|panel| &panel.queries)
    }
}

fn is_traces(show: Show) -> bool {
    show == Show::Traces
}

fn is_metrics(show: Show) -> bool {
    show != Show::Traces
}

/// What the words of `text` between other characters are; `:` belongs to the names of recording rules.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
}

#[test]
fn the_dashboards_of_the_chart_are_made_of_their_description() {
    let description = Description::read();
    let folder = project().join("helm/parallax/files/dashboards");
    for dashboard in &description.dashboard {
        let file = format!("../../../helm/parallax/files/dashboards/{}.json", dashboard.name);
        expect_file![file].assert_eq(&grafana::text(dashboard));
    }
    let files: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_end_matches(".json").to_owned())
        .collect();
    let described: BTreeSet<String> = description.dashboard.into_iter().map(|dashboard| dashboard.name).collect();
    assert_eq!(files, described);
}

#[test]
fn the_dashboards_ask_for_metrics_and_rates_that_exist() {
    let metrics = fs::read_to_string(project().join("tests/it/metric-names.txt")).unwrap();
    let rules = fs::read_to_string(project().join("helm/parallax/files/alerts.yaml")).unwrap();
    let known: BTreeSet<&str> = metrics.lines().filter_map(|line| line.split(' ').next()).collect();
    let recorded: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    let description = Description::read();
    for query in description.queries(is_metrics) {
        for word in words(&query.expr).filter(|word| word.starts_with("parallax")) {
            let of_a_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            let is_known = known.contains(of_a_histogram.unwrap_or(word)) || recorded.contains(word);
            assert!(is_known, "{word} is neither a metric nor a recorded rate: {}", query.expr);
        }
        assert!(query.legend.is_some() && query.expr.contains("$fleet"), "{}", query.expr);
    }
}

#[test]
fn every_metric_is_on_a_dashboard_or_has_a_reason_not_to_be() {
    let shown = fs::read_to_string(project().join("helm/dashboards.toml")).unwrap();
    let rules = fs::read_to_string(project().join("helm/parallax/files/alerts.yaml")).unwrap();
    let metrics = fs::read_to_string(project().join("tests/it/metric-names.txt")).unwrap();
    let asked: BTreeSet<&str> = words(&shown).chain(words(&rules)).collect();
    let is_asked = |name: &str| {
        ["", "_bucket", "_sum", "_count"].iter().any(|end| asked.contains(format!("{name}{end}").as_str()))
    };
    let silent: Vec<&str> =
        metrics.lines().filter_map(|line| line.split(' ').next()).filter(|name| !is_asked(name)).collect();
    // How often the script ran, pushes of these very metrics (who misses them sees it), wake-ups that the sweep makes good, and
    // what OpenTelemetry says of the process.
    let with_a_reason = [
        "parallax_captures_total",
        "parallax_metric_exports_total",
        "parallax_outbox_queue_dropped_total",
        "target_info",
    ];
    assert_eq!(silent, with_a_reason);
}

#[test]
fn the_traces_are_asked_for_by_names_and_attributes_that_spans_have() {
    let told = fs::read_to_string(project().join("docs/telemetry.md")).unwrap();
    let description = Description::read();
    let mut asked = 0;
    for query in description.queries(is_traces) {
        assert!(query.expr.starts_with("{ resource.service.name = \"parallax\" && "), "{}", query.expr);
        let balanced = |open, close| query.expr.matches(open).count() == query.expr.matches(close).count();
        assert!(balanced('{', '}') && balanced('(', ')') && query.expr.matches('"').count() % 2 == 0, "{}", query.expr);
        let attributes = query.expr.split("span.").skip(1);
        for attribute in attributes {
            let name: String =
                attribute.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '.' | '_')).collect();
            assert!(told.contains(&format!("`{name}`")), "no span has {name}");
        }
        for name in query.expr.split("name = \"").skip(2).filter_map(|rest| rest.split('"').next()) {
            assert!(told.contains(&format!("{name} ")), "no span is called {name}");
        }
        asked += 1;
    }
    assert!(asked >= 3, "the traces of mismatches, comparisons and reads are asked for");
}

#[test]
fn panels_of_rates_and_latencies_lead_to_traces() {
    let description = Description::read();
    let with_exemplars: Vec<&Panel> = description.panels().filter(|panel| panel.exemplars).collect();
    for metric in
        ["parallax_mismatches_total", "parallax_store_latency_seconds_bucket", "parallax_http_request_seconds_bucket"]
    {
        let leads = |panel: &&Panel| panel.queries.iter().any(|query| query.expr.contains(metric));
        assert!(with_exemplars.iter().any(leads), "no panel of {metric} shows its exemplars");
    }
}
