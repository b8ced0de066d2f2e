//! The pages that are written from the code say what the code says.

use std::fs;

use parallax::settings::definitions::DEFINITIONS;

use crate::arrows::project;

fn assert_fresh(file: &str, written: &str) {
    let kept = fs::read_to_string(project().join(file)).unwrap_or_default();
    let stale = written.lines().zip(kept.lines().chain(std::iter::repeat(""))).find(|(new, old)| new != old);
    assert!(kept == written, "{file} is stale, first at {:?}: run `make references`", stale.map(|(new, _)| new));
}

#[test]
fn the_reference_of_the_settings_is_what_the_code_says() {
    let page = parallax::settings::reference::markdown();
    assert_fresh("docs/configuration.md", &page);
    for definition in DEFINITIONS {
        assert!(page.contains(&format!("| `{}` |", definition.key)), "{}", definition.key);
    }
    // A limit stands there as the reader checks it, in the unit that it is counted in.
    assert!(page.contains("| `20000` | 1000 to 86400000 milliseconds |"), "the limits of the lease");
}

#[test]
fn the_reference_of_the_metrics_is_what_the_code_says() {
    let page = parallax::telemetry::reference::markdown();
    assert_fresh("docs/metrics.md", &page);
    for line in include_str!("metric-names.txt").lines() {
        let (name, shape) = line.split_once(' ').unwrap();
        assert!(page.contains(&format!("| `{name}` | {shape} |")), "{line}");
    }
}
