//! The protocol at small scopes: no order of steps breaks a property, and each mutant of a rule is seen to break the one it must.

use std::fs;
use std::path::Path;

use parallax_model::mutant::Mutant;
use parallax_model::suite::{self, HUNT_STATES_MAX};

/// More than any small scope has.
const STATES_MAX: usize = 4_000_000;

fn holds(model: &str, is_meant: impl Fn(&str) -> bool) {
    let spaces: Vec<_> =
        suite::small().into_iter().filter(|space| space.model() == model && is_meant(space.name())).collect();
    assert!(!spaces.is_empty(), "no scope is meant");
    for space in spaces {
        let outcome = space.explore(None, STATES_MAX);
        println!("{}: {} states, {} steps deep", space.name(), outcome.states, outcome.depth);
        if let Some(violation) = outcome.violation {
            let steps: Vec<String> =
                violation.trace.iter().map(|(step, state)| format!("{step}\n    {state}")).collect();
            panic!("{}: broken: {}\n{}", space.name(), violation.property.sentence(), steps.join("\n"));
        }
        assert!(outcome.is_exhausted, "{}: more than {STATES_MAX} states", space.name());
    }
}

fn is_about_failover(scope: &str) -> bool {
    scope.contains("failover")
}

fn is_about_loss(scope: &str) -> bool {
    is_about_failover(scope) || scope.contains("restart") || scope.contains("went back")
}

#[test]
fn no_order_of_writes_expiry_and_drains_breaks_a_record() {
    holds("record", |scope| !is_about_loss(scope));
}

#[test]
fn no_failover_breaks_a_record() {
    holds("record", is_about_failover);
}

#[test]
fn neither_a_lost_redis_nor_a_postgres_that_went_back_breaks_a_record() {
    holds("record", |scope| is_about_loss(scope) && !is_about_failover(scope));
}

#[test]
fn no_read_of_two_records_is_torn() {
    holds("pair", |_| true);
}

#[test]
fn no_order_of_chunks_and_marks_breaks_a_collection() {
    holds("collection", |_| true);
}

#[test]
fn no_entry_of_a_log_is_lost_without_a_gap() {
    holds("log", |_| true);
}

#[test]
fn no_way_through_the_stages_leaves_a_write_unmarked_while_postgres_is_read() {
    holds("stages", |_| true);
}

#[test]
fn every_mutant_is_seen_to_break_the_property_that_its_rule_keeps() {
    let mut wrong = Vec::new();
    for mutant in Mutant::ALL {
        let (scope, property) = suite::hunt(*mutant);
        let found = suite::ground(*mutant).explore(Some(*mutant), HUNT_STATES_MAX).violation;
        let broken = found.as_ref().map(|violation| violation.property);
        if broken != Some(property) {
            wrong.push(format!("{} in scope {scope}: {broken:?} and not {property:?}", mutant.name()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_results_that_are_kept_name_every_scope_and_every_mutant() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/results/model.txt");
    let text = fs::read_to_string(path).expect("the results are kept");
    let lines: Vec<&str> = text.lines().collect();
    let spaces = suite::small().into_iter().chain(suite::large()).map(|space| space.name());
    for name in spaces.chain(Mutant::ALL.iter().map(|mutant| mutant.name())) {
        assert!(lines.iter().any(|line| line.contains(&format!(" {name} "))), "not in the results: {name}");
    }
    assert!(!text.contains("NOT FOUND"));
}
