//! `parallax rollback`: the one command of three o'clock in the morning. It needs no argument.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::operate::{DoorArguments, at, exit, list, number, text};
use crate::cli::terminal;

const AFTER_HELP: &str = "\
Reads leave Postgres at once; writes go on reaching both stores, so the way up stays open. It has no precondition and
answers when every sidecar has confirmed. Leaves with 0 when all have, with 1 when one has not or the fleet's flags could
not be written: what it prints then says which, and when the last of them cannot read Postgres any more.

Where the admin door does not answer, send SIGUSR2 to the sidecar or make the file that PARALLAX_ROLLBACK_FILE names.";

/// What `parallax rollback` can be told.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RollbackArguments {
    /// The kind to take back, or '*' for all
    #[arg(default_value = "*")]
    scope: String,
    /// Rehearse it on the traffic that there is, for one kind, and restore its flag
    #[arg(long)]
    drill: bool,
    /// Why, for the audit row
    #[arg(long, default_value = "asked for at the command line")]
    reason: String,
    #[command(flatten)]
    door: DoorArguments,
}

/// Takes reads back to Redis.
pub(crate) async fn run(arguments: RollbackArguments) -> anyhow::Result<ExitCode> {
    let RollbackArguments { scope, drill, reason, door } = arguments;
    let mut door = door.door()?;
    let wish = json!({ "scope": scope, "reason": reason, "drill": drill });
    let answer = door.send(Method::POST, "/v1/rollback", &[], Some(&wish)).await?;
    let report = answer.json()?;
    if !door.print_json(&answer) {
        terminal::say(&told(&report));
    }
    Ok(exit(|| at(&report, "fleet") == true && list(&report, "waiting").is_empty()))
}

fn told(report: &Value) -> String {
    let seconds = f64::from(u32::try_from(number(report, "elapsed_ms")).unwrap_or(u32::MAX)) / 1000.0;
    let mut lines = vec![if at(report, "restored") == true {
        format!("rehearsed in {seconds:.2} s: reads were with Redis, and the flag is as it was before")
    } else if at(report, "restored") == false {
        format!("rehearsed in {seconds:.2} s, and somebody changed the flag meanwhile: it is NOT as it was before")
    } else if at(report, "fleet") == true {
        format!("rolled back in {seconds:.2} s: every kind in `{}` or below, latched", text(report, "landed"))
    } else {
        "ONLY THIS SIDECAR is rolled back: the store of the flags did not answer. Repeat it, or ask each sidecar"
            .to_owned()
    }];
    let names: Vec<&str> = list(report, "confirmed").iter().filter_map(Value::as_str).collect();
    if !names.is_empty() {
        lines.push(format!("confirmed by {}", names.join(", ")));
    }
    for waiting in list(report, "waiting") {
        let ends_in = number(waiting, "lease_ends_in_ms").max(0);
        lines.push(format!(
            "NOT confirmed by {}: it cannot read Postgres any more in {ends_in} ms at the latest",
            text(waiting, "instance")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_who_has_not_confirmed_and_until_when_that_matters() {
        let waiting = json!([{ "instance": "pod-2", "lease_ends_in_ms": 1200 }]);
        let report = |fleet| json!({ "fleet": fleet, "landed": "shadow", "elapsed_ms": 1530, "confirmed": ["pod-1"], "waiting": waiting });
        let lines = told(&report(true));
        assert!(lines.starts_with("rolled back in 1.53 s"), "{lines}");
        assert!(lines.contains("NOT confirmed by pod-2") && lines.contains("1200 ms"), "{lines}");
        let drilled = |restored| told(&json!({ "fleet": true, "elapsed_ms": 20, "restored": restored }));
        assert!(drilled(true).starts_with("rehearsed in 0.02 s: ") && drilled(false).contains("NOT as it was"));
        assert!(told(&report(false)).starts_with("ONLY THIS SIDECAR"));
    }
}
