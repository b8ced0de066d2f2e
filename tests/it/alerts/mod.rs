//! The alerts: Prometheus' own tool accepts and tries them, each has its section in the runbook and each section its alert.
//! Without promtool the tests that need it say SKIPPED, but never under CI.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::arrows::project;
use crate::chart::text;

const RULES: &str = "helm/parallax/files/alerts.yaml";
const TRIALS: [&str; 2] = ["tests/it/alerts/rules.yaml", "tests/it/alerts/days.yaml"];

/// What the section of an alert must say.
const PARTS: [&str; 4] = ["**Means** ", "**Look at** ", "**Do** ", "**Roll back** "];

fn read(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap()
}

/// Whether promtool accepts these files. `None` after saying so, where it is not installed.
fn promtool(arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new("promtool").args(arguments).current_dir(project()).output() {
        Ok(output) => Some((output.status.success(), text(&output))),
        Err(_) => {
            assert!(std::env::var_os("CI").is_none(), "CI must have promtool: scripts/setup installs it");
            println!("SKIPPED the alerts: promtool is not installed (Debian: apt install prometheus)");
            None
        }
    }
}

/// The alerts, each with its lines.
fn alerts() -> Vec<(String, String)> {
    let rules = read(RULES);
    let alerts = rules.split("      - alert: ").skip(1);
    let named = alerts.map(|text| (text.lines().next().unwrap_or_default().to_owned(), text.to_owned()));
    named.collect()
}

/// The sections of the runbook, each with its text.
fn sections() -> Vec<(String, String)> {
    let runbook = read("docs/runbook.md");
    let sections = runbook.split("\n## ").skip(1);
    sections.map(|text| (text.lines().next().unwrap_or_default().to_owned(), text.to_owned())).collect()
}

#[test]
fn promtool_accepts_the_rules() {
    let Some((accepted, said)) = promtool(&["check", "rules", "--lint=all", "--lint-fatal", RULES]) else { return };
    assert!(accepted, "{said}");
}

#[test]
fn every_alert_fires_and_does_not_fire_when_it_nearly_might() {
    let Some((passed, said)) = promtool(&["test", "rules", TRIALS[0], TRIALS[1]]) else { return };
    assert!(passed, "{said}");
    let trials = TRIALS.map(read).concat();
    for (name, _) in alerts() {
        let of_it = trials.split("  - name: ").filter(|trial| trial.contains(&format!("alertname: {name}\n")));
        let silent = of_it.clone().filter(|trial| trial.contains("exp_alerts: []")).count();
        assert!(silent >= 1, "{name} is never tried where it must not fire");
        assert!(of_it.count() > silent, "{name} is never tried where it must fire");
    }
}

#[test]
fn every_alert_leads_to_its_section_and_every_section_to_an_alert() {
    let names: BTreeSet<String> = alerts().into_iter().map(|(name, _)| name).collect();
    let of_alerts = |(name, _): &(String, String)| name.starts_with("Parallax");
    let (written, _): (Vec<_>, Vec<_>) = sections().into_iter().partition(of_alerts);
    let written: BTreeSet<String> = written.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, written, "alerts and sections of docs/runbook.md");
    for (name, alert) in alerts() {
        let anchor = format!("runbook_url: docs/runbook.md#{}\n", name.to_lowercase());
        assert!(alert.contains(&anchor), "{name} does not lead to its section");
        assert!(alert.contains("summary: ") && alert.contains("description: "), "{name} says nothing");
        assert!(
            ["critical", "warning", "info"].iter().any(|level| alert.contains(&format!("severity: {level}\n"))),
            "{name}"
        );
    }
}

#[test]
fn every_section_says_what_it_means_and_what_to_do_and_stands_in_the_contents() {
    let sections = sections();
    let contents = sections.iter().find(|(name, _)| name == "Contents").map(|(_, text)| text).unwrap();
    for (name, text) in sections.iter().filter(|(name, _)| name.starts_with("Parallax")) {
        for part in PARTS {
            assert_eq!(text.matches(part).count(), 1, "{name}: {part}");
        }
        assert!(contents.contains(&format!("(#{})", name.to_lowercase())), "{name} is not in the contents");
    }
}

#[test]
fn every_metric_of_the_alerts_exists() {
    let listed = read("tests/it/metric-names.txt");
    let names: BTreeSet<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    for (name, alert) in alerts() {
        let words = alert.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        for word in words.filter(|word| word.starts_with("parallax_")) {
            assert!(names.contains(word.trim_end_matches("_bucket")), "{name} asks for {word}, which is no metric");
        }
    }
}
