//! `parallax gaps`: what could have missed a write, and which kinds owe a comparison since.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::cli::operate::{Door, DoorArguments, exit, list, number, table, text};
use crate::cli::terminal;

/// What can be asked of gaps.
#[derive(Args)]
pub(crate) struct GapsArguments {
    /// At most so many, newest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    door: DoorArguments,
}

/// Lists them. Exit status 1 while one is open.
pub(crate) async fn run(arguments: GapsArguments) -> anyhow::Result<ExitCode> {
    let mut door: Door = arguments.door.door()?;
    let answer = door.get(&format!("/v1/gaps?limit={}", arguments.limit)).await?;
    let report = answer.json()?;
    if !door.print_json(&answer) {
        terminal::say(&screen(&report));
    }
    Ok(exit(|| list(&report, "gaps").iter().all(|gap| list(gap, "open_for").is_empty())))
}

fn screen(report: &Value) -> String {
    let gaps = list(report, "gaps");
    let names = |value: &Value, name: &str| {
        let names = list(value, name).iter().map(|name| name.as_str().map_or_else(|| name.to_string(), str::to_owned));
        names.collect::<Vec<_>>().join(" ")
    };
    let row = |gap: &Value| {
        vec![
            number(gap, "id").to_string(),
            text(gap, "at").to_owned(),
            text(gap, "kind").to_owned(),
            [text(gap, "cause"), text(gap, "detail")].join(" ").trim_end().to_owned(),
            names(gap, "open_for"),
            names(gap, "closed_by"),
        ]
    };
    let rows: Vec<Vec<String>> = gaps.iter().map(row).collect();
    let told = if rows.is_empty() {
        "no gaps: nothing is known that could have missed a write".to_owned()
    } else {
        table::aligned(&["gap", "at", "kind", "cause", "open for", "closed by proofs"], &rows)
    };
    match names(report, "unproven") {
        unproven if unproven.is_empty() => told,
        unproven => format!("{told}\n\nparallax verify is owed for: {unproven}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gap_says_for_which_kinds_it_is_open() {
        let gap = json!({ "id": 7, "at": "2026-01-01", "kind": "*", "cause": "lifted", "open_for": ["user"], "closed_by": [3] });
        let screen = screen(&json!({ "gaps": [gap], "unproven": ["user"] }));
        assert!(screen.contains("lifted") && screen.contains("owed for: user"), "{screen}");
        assert!(super::screen(&json!({ "gaps": [], "unproven": [] })).starts_with("no gaps"));
    }
}
