//! `make model`: explores every scope and hunts every mutant, and prints the report that is kept in `docs/results/model.txt`.
//! `make model ARGS=a-mutant` prints the shortest trace of one, `make model ARGS=300000` gives a scope up after so many states.

use std::fmt::Write;
use std::sync::Mutex;

use parallax_model::explorer::{Outcome, Violation};
use parallax_model::mutant::Mutant;
use parallax_model::suite::{self, HUNT_STATES_MAX, Space};

/// States after which an exploration is given up: what fits into a gigabyte for each thread.
const STATES_MAX: usize = 5_000_000;
/// Explorations at once.
const THREADS: usize = 2;

#[expect(clippy::disallowed_types, reason = "a program without a runtime measures how long it took")]
type Clock = std::time::Instant;

fn main() -> std::process::ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let limit = match names.as_slice() {
        [] => Some(STATES_MAX),
        [one] => one.parse().ok(),
        _ => None,
    };
    if let Some(states_max) = limit {
        let (report, is_good) = report(states_max);
        println!("{report}");
        return if is_good { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE };
    }
    for name in names {
        let Some(mutant) = Mutant::of_name(&name) else {
            eprintln!("there is no mutant `{name}`; docs/results/model.txt names them all");
            return std::process::ExitCode::FAILURE;
        };
        print!("{}", trace(mutant));
    }
    std::process::ExitCode::SUCCESS
}

/// The shortest trace of a mutant, a line for each step and one for the state after it.
fn trace(mutant: Mutant) -> String {
    let space = suite::ground(mutant);
    let outcome = space.explore(Some(mutant), HUNT_STATES_MAX);
    let mut text = format!("{} ({}), model {}, scope {}\n", mutant.name(), mutant.rule(), space.model(), space.name());
    match outcome.violation {
        None => text.push_str("not found\n"),
        Some(violation) => text.push_str(&told(&violation)),
    }
    text
}

fn told(violation: &Violation) -> String {
    let mut text = String::new();
    for (number, (label, state)) in violation.trace.iter().enumerate() {
        let _ = writeln!(text, "{:3}. {label}\n     {state}", number + 1);
    }
    let _ = writeln!(text, "broken: {}", violation.property.sentence());
    text
}

/// Explorations and hunts, two at a time, in the order of the tables; and whether all came out as they must.
fn report(states_max: usize) -> (String, bool) {
    let spaces: Vec<Space> = suite::small().into_iter().chain(suite::large()).collect();
    let explored = all(&spaces, |space| space.explore(None, states_max));
    let hunted = all(Mutant::ALL, |mutant| suite::ground(*mutant).explore(Some(*mutant), HUNT_STATES_MAX));
    let mut text =
        format!("The rules: every order of steps, at most {states_max} states a scope, no property broken.\n\n");
    let _ = writeln!(text, "{:11} {:36} {:>10} {:>5} {:>8}  end", "model", "scope", "states", "depth", "seconds");
    let mut is_good = true;
    for (space, (outcome, seconds)) in spaces.iter().zip(&explored) {
        let end = match (&outcome.violation, outcome.is_exhausted) {
            (Some(violation), _) => violation.property.name(),
            (None, true) => "all states",
            (None, false) => "limit of states",
        };
        is_good &= outcome.violation.is_none();
        if let Some(violation) = &outcome.violation {
            eprintln!("{}:\n{}", space.name(), told(violation));
        }
        let Outcome { states, depth, .. } = outcome;
        let _ = writeln!(text, "{:11} {:36} {states:10} {depth:5} {seconds:8.1}  {end}", space.model(), space.name());
    }
    text.push_str("\nThe mutants: each breaks a property; the shortest way there.\n\n");
    let _ = writeln!(text, "{:4} {:42} {:20} {:>5}  {:11} scope", "rule", "mutant", "property", "steps", "model");
    for (mutant, (outcome, _)) in Mutant::ALL.iter().zip(&hunted) {
        let space = suite::ground(*mutant);
        let found = outcome.violation.as_ref();
        is_good &= found.is_some();
        let (property, steps) = found.map_or(("NOT FOUND", 0), |found| (found.property.name(), found.trace.len()));
        let (rule, name) = (mutant.rule(), mutant.name());
        let _ = writeln!(text, "{rule:4} {name:42} {property:20} {steps:5}  {:11} {}", space.model(), space.name());
    }
    (text.trim_end().to_owned(), is_good)
}

/// Works off `items` on some threads; answers in their order, with the seconds that each took.
fn all<T: Sync>(items: &[T], work: impl Fn(&T) -> Outcome + Sync) -> Vec<(Outcome, f64)> {
    let queue = Mutex::new(items.iter().enumerate());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no thread panics with the queue").next();
                    let Some((place, item)) = next else { return };
                    let began = Clock::now();
                    let outcome = work(item);
                    eprintln!("{} of {}: {} states", place + 1, items.len(), outcome.states);
                    let mut done = done.lock().expect("no thread panics with the outcomes");
                    done.push((place, (outcome, began.elapsed().as_secs_f64())));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("all threads have ended");
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}
