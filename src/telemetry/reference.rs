//! The reference of the metrics, `docs/metrics.md`: written from the declarations of the instruments and of the label sets.

use crate::telemetry::instruments::{DESCRIBED, Described, Told};
use crate::telemetry::series::SECONDS;

const HEAD: &str = "\
<!-- Written by `make references` from src/telemetry: edit the declarations there, not this page. -->

# Metrics

What `/metrics` of the admin door shows, and what goes to a collector where one is configured for metrics ([telemetry.md](telemetry.md)). Every
value of a label comes from a closed set or from the catalog, never from a request, so the number of series is known at the start. A series with
few labels is there from the start, at 0; those of instruments with more than a thousand show once they were touched. Names, labels and values are an interface:
they change only with an entry in the changelog.
";

/// What OpenTelemetry's exporter adds by itself.
const EXPORTERS_OWN: &str = "| `target_info` | gauge |  | `service_name`, `service_version`, `service_instance_id` | 1, with the name of the sidecar |\n";

/// The page, in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut page = format!("{HEAD}\n| name | type | unit | labels | what it says |\n|---|---|---|---|---|\n");
    let mut sorted: Vec<&Described> = DESCRIBED.iter().collect();
    sorted.sort_by_key(|described| described.name);
    for described in &sorted {
        page += &row(described);
    }
    page += EXPORTERS_OWN;
    let bounds: Vec<String> = SECONDS.iter().map(f64::to_string).collect();
    page += &format!("\nUpper bounds of the buckets of every histogram, in seconds: {}.\n", bounds.join(", "));
    page += "\n## Labels that are known at the start only\n\n| label | values |\n|---|---|\n";
    for (label, told) in distinct(&sorted) {
        if let Told::Open(words) = told {
            page += &format!("| `{label}` | {words} |\n");
        }
    }
    page += "\n## Closed sets of values\n";
    for (label, told) in distinct(&sorted) {
        if let Told::Closed { about, names, meanings } = told {
            let of: Vec<String> = sorted.iter().filter(|one| bears(one, label, about)).map(|one| shown(one)).collect();
            page += &format!("\n### `{label}`: {}\n\n", about.trim_end_matches('.'));
            page += &format!("Of {}.\n\n| value | meaning |\n|---|---|\n", of.join(", "));
            for (name, meaning) in names.iter().zip(*meanings) {
                page += &format!("| `{name}` | {} |\n", meaning.trim_end_matches('.'));
            }
        }
    }
    page
}

fn row(described: &Described) -> String {
    let labels: Vec<String> = described.labels.iter().map(|(label, _)| format!("`{label}`")).collect();
    let help = described.help.trim_end_matches('.').replace('|', "\\|");
    format!(
        "| {} | {} | {} | {} | {help} |\n",
        shown(described),
        described.shape,
        unit(described.name),
        labels.join(", ")
    )
}

fn shown(described: &Described) -> String {
    let end = if described.shape == "counter" { "_total" } else { "" };
    format!("`{}{end}`", described.name)
}

/// The unit, which the end of a name says.
fn unit(name: &str) -> &'static str {
    let units = [("_seconds", "seconds"), ("_bytes", "bytes"), ("_ratio", "0 to 1")];
    units.into_iter().find(|(end, _)| name.ends_with(end)).map_or("", |(_, unit)| unit)
}

/// Each label with each of its sets once.
fn distinct(sorted: &[&'static Described]) -> Vec<(&'static str, &'static Told)> {
    let mut found: Vec<(&str, &Told)> = Vec::new();
    for (label, told) in sorted.iter().flat_map(|described| described.labels) {
        if !found.iter().any(|(known, other)| known == label && title(other) == title(told)) {
            found.push((label, told));
        }
    }
    found.sort_by_key(|(label, told)| (*label, title(told)));
    found
}

fn bears(described: &Described, label: &str, about: &str) -> bool {
    described.labels.iter().any(|(own, told)| *own == label && title(told) == about)
}

fn title(told: &Told) -> &'static str {
    match told {
        Told::Open(words) => words,
        Told::Closed { about, .. } => about,
    }
}
