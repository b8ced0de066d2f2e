//! `parallax status`: one screen that says how the mirror does.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::cli::operate::{Door, DoorArguments, at, exit, list, number, table, text};
use crate::cli::terminal;
use crate::client::Answer;

/// Clears the screen and puts the cursor in its corner.
const CLEAR: &str = "\x1b[2J\x1b[H";
/// The shortest time between two looks.
const WATCH_SECONDS_MIN: u64 = 1;

/// What `parallax status` can be told.
#[derive(Args)]
pub(crate) struct StatusArguments {
    /// Look again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2")]
    watch: Option<u64>,
    #[command(flatten)]
    door: DoorArguments,
}

/// Shows the status, once or until Ctrl-C.
pub(crate) async fn run(arguments: StatusArguments) -> anyhow::Result<ExitCode> {
    let mut door = arguments.door.door()?;
    let Some(seconds) = arguments.watch else {
        let (answer, screen) = look(&mut door).await?;
        if !door.print_json(&answer) {
            terminal::say(&screen);
        }
        let status = answer.json()?;
        return Ok(exit(|| at(&status, "lease_valid") == true && at(&status, "lineage") == "good"));
    };
    loop {
        let screen = match look(&mut door).await {
            Ok((answer, _)) if door.print_json(&answer) => String::new(),
            Ok((_, screen)) => format!("{CLEAR}{screen}"),
            // A door that does not answer is what somebody who watches wants to see.
            Err(error) => format!("{CLEAR}{error:#}"),
        };
        if !screen.is_empty() {
            terminal::say(&screen);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds.max(WATCH_SECONDS_MIN))) => {}
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    }
}

async fn look(door: &mut Door) -> anyhow::Result<(Answer, String)> {
    let answer = door.get("/v1/status").await?;
    let flags = door.get("/v1/flags").await?.json()?;
    let fleet = door.get("/v1/fleet").await?.json()?;
    let screen = screen(&answer.json()?, &flags, &fleet);
    Ok((answer, screen))
}

fn screen(status: &Value, flags: &Value, fleet: &Value) -> String {
    let outbox = at(status, "outbox");
    let head = format!(
        "parallax {}  flags at version {}  lineage {}  lease {}\noutbox {} marks ({} of this sidecar)",
        text(status, "version"),
        number(status, "flags_version"),
        text(status, "lineage"),
        if at(status, "lease_valid") == true { "valid" } else { "LOST: reads come from Redis" },
        at(outbox, "depth"),
        at(outbox, "queued_here"),
    );
    let mut parts = vec![head, stages(flags), sidecars(fleet)];
    parts.extend(latencies(status));
    let unverifiable = at(status, "unverifiable").as_object().into_iter().flatten();
    parts
        .extend(unverifiable.map(|(kind, reason)| format!("unverifiable: {kind}, {}", reason.as_str().unwrap_or("?"))));
    parts.join("\n\n")
}

/// What both stores took over the last minute, side by side; nothing where neither was asked.
fn latencies(status: &Value) -> Option<String> {
    let cell = |side: &Value, name: &str| {
        side.get(name).and_then(Value::as_f64).map_or("-".to_owned(), |ms| format!("{ms:.2}"))
    };
    let row = |side: &Value| {
        let (redis, postgres) = (at(side, "redis"), at(side, "postgres"));
        vec![
            text(side, "operation").to_owned(),
            cell(redis, "p50_ms"),
            cell(postgres, "p50_ms"),
            cell(side, "difference_p50_ms"),
            cell(redis, "p99_ms"),
            cell(postgres, "p99_ms"),
            cell(side, "difference_p99_ms"),
        ]
    };
    let is_asked = |side: &&Value| at(side, "redis").is_object() || at(side, "postgres").is_object();
    let rows: Vec<Vec<String>> = list(status, "latencies").iter().filter(is_asked).map(row).collect();
    let head = ["ms, last minute", "redis p50", "postgres p50", "more", "redis p99", "postgres p99", "more"];
    (!rows.is_empty()).then(|| table::aligned(&head, &rows))
}

/// How many kinds stand in each stage, and which ones are live.
fn stages(flags: &Value) -> String {
    let kinds = list(flags, "kinds");
    let count = |stage: &str| kinds.iter().filter(|kind| text(at(kind, "flag"), "stage") == stage).count();
    let counts: Vec<String> =
        ["off", "dualwrite", "shadow", "live"].iter().map(|stage| format!("{} {stage}", count(stage))).collect();
    let is_told = |kind: &&Value| text(at(kind, "flag"), "stage") == "live" || at(at(kind, "flag"), "latched") == true;
    let rows: Vec<Vec<String>> = kinds.iter().filter(is_told).map(live).collect();
    let counts = format!("kinds: {}", counts.join(", "));
    if rows.is_empty() { counts } else { format!("{counts}\n{}", table::aligned(&["kind", "stage", "percent"], &rows)) }
}

fn live(kind: &Value) -> Vec<String> {
    let latched = if at(at(kind, "flag"), "latched") == true { " (latched)" } else { "" };
    let stage = text(at(kind, "flag"), "stage").to_owned() + latched;
    vec![text(kind, "kind").to_owned(), stage, at(at(kind, "flag"), "percent").to_string()]
}

fn sidecars(fleet: &Value) -> String {
    let row = |sidecar: &Value| {
        vec![
            text(sidecar, "instance").to_owned(),
            text(sidecar, "version").to_owned(),
            number(sidecar, "confirmed").to_string(),
            at(sidecar, "lease_ends_in_ms").to_string(),
            at(sidecar, "queued").to_string(),
            at(sidecar, "lag_ms").to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = list(fleet, "sidecars").iter().map(row).collect();
    table::aligned(&["sidecar", "version", "flags", "lease ms", "queued", "lag ms"], &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_screen_tells_of_flags_fleet_and_what_is_wrong() {
        let status = json!({ "version": "0.1.0", "flags_version": 9, "lineage": "good", "lease_valid": true,
            "outbox": { "depth": 3, "queued_here": 1 }, "unverifiable": { "log": "rewritten" },
            "latencies": [{ "operation": "read", "redis": { "p50_ms": 0.1, "p99_ms": 0.4 }, "postgres": { "p50_ms": 0.5, "p99_ms": 2.0 },
                "difference_p50_ms": 0.4, "difference_p99_ms": 1.6 }, { "operation": "compare" }] });
        let kind = |stage: &str, latched| json!({ "kind": "apikey", "flag": { "stage": stage, "percent": 5.0, "latched": latched } });
        let flags = json!({ "kinds": [kind("live", false), kind("shadow", true), kind("off", false)] });
        let fleet = json!({ "sidecars": [{ "instance": "pod-1", "version": "0.1.0", "confirmed": 9,
            "lease_ends_in_ms": 19000, "queued": 1, "lag_ms": 4 }] });
        let screen = screen(&status, &flags, &fleet);
        for told in [
            "kinds: 1 off, 0 dualwrite, 1 shadow, 1 live",
            "shadow (latched)",
            "pod-1",
            "unverifiable: log, rewritten",
            "read             0.10       0.50          0.40  0.40       2.00          1.60",
        ] {
            assert!(screen.contains(told), "{told}: {screen}");
        }
    }
}
