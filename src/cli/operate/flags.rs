//! `parallax flags` and `parallax flags set`: where each kind stands, and moving one.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::{Method, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use crate::cli::operate::{Door, DoorArguments, at, exit, list, table, text};
use crate::cli::terminal;

const EXAMPLES: &str = "\
  parallax flags                                                  where each kind stands, in words
  parallax flags set apikey --stage dualwrite --reason \"first\"     writes reach Postgres from here on
  parallax flags set apikey --stage live --percent 5              Postgres answers 5 % of the keys
  parallax flags set '*' --sample-rate 0.05                       the default of kinds without a flag of their own
  parallax flags set apikey --stage live --percent 5 --dry-run    what stands in the way of that, with figures
  parallax flags set apikey --resume --reason \"index repaired\"    takes the latch of a rollback away";

/// What `parallax flags` can be told.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct FlagsArguments {
    #[command(subcommand)]
    change: Option<FlagsCommand>,
    #[command(flatten)]
    door: DoorArguments,
}

#[derive(Subcommand)]
enum FlagsCommand {
    /// Change the flag of a kind, or of all kinds without one of their own ('*')
    Set(SetArguments),
}

/// What a flag can be set to; what is not named stays.
#[derive(Args)]
struct SetArguments {
    /// The kind, by its name in the catalog, or '*'
    kind: String,
    /// off, dualwrite, shadow or live: one step at a time
    #[arg(long)]
    stage: Option<String>,
    /// Percent of the keys that Postgres answers in stage live: 0 to 100
    #[arg(long)]
    percent: Option<f64>,
    /// Share of the reads that are compared: 0 to 1
    #[arg(long)]
    sample_rate: Option<f64>,
    /// When a mirrored write is answered: redis, or both
    #[arg(long)]
    ack: Option<String>,
    /// How long a read may wait for Postgres before Redis is asked
    #[arg(long)]
    deadline_ms: Option<u64>,
    /// Take the latch of a rollback away; needs a reason
    #[arg(long, requires = "reason")]
    resume: bool,
    /// Go past the gates that say whether a step is wise, never past a rule; needs a reason
    #[arg(long = "override", requires = "reason")]
    overrides: bool,
    /// Change nothing, and say what the change would do and which conditions it meets
    #[arg(long)]
    dry_run: bool,
    /// Why, for the audit row
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    door: DoorArguments,
}

/// Shows flags or changes one.
pub(crate) async fn run(arguments: FlagsArguments) -> anyhow::Result<ExitCode> {
    match arguments.change {
        None => show(arguments.door.door()?).await,
        Some(FlagsCommand::Set(set)) => change(set).await,
    }
}

async fn show(mut door: Door) -> anyhow::Result<ExitCode> {
    let answer = door.get("/v1/flags").await?;
    if !door.print_json(&answer) {
        terminal::say(&shown(&answer.json()?));
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(report: &Value) -> String {
    let rows: Vec<Vec<String>> = list(report, "kinds").iter().map(row).collect();
    let lease = if at(report, "lease_valid") == true { "" } else { "; this sidecar has NO lease and reads Redis" };
    let head = ["kind", "stage", "percent", "sampled", "ack", "backfilled", "what it means now"];
    format!("flags at version {}{lease}\n\n{}", at(report, "version"), table::aligned(&head, &rows))
}

fn row(kind: &Value) -> Vec<String> {
    let flag = at(kind, "flag");
    let own = if at(kind, "own") == true { "" } else { " (by *)" };
    vec![
        text(kind, "kind").to_owned() + own,
        text(flag, "stage").to_owned(),
        at(flag, "percent").to_string(),
        at(flag, "sample_rate").to_string(),
        text(flag, "ack").to_owned(),
        if at(kind, "backfilled") == true { "yes" } else { "no" }.to_owned(),
        text(kind, "meaning").to_owned(),
    ]
}

async fn change(set: SetArguments) -> anyhow::Result<ExitCode> {
    let (body, is_dry_run) = (body(&set), set.dry_run);
    let mut door = set.door.door()?;
    let path = format!("/v1/flags/{}", utf8_percent_encode(&set.kind, NON_ALPHANUMERIC));
    // The version seen here is named in the change: whatever somebody else changed in between is not written over.
    let seen = door.get(&path).await?;
    let version = seen.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default();
    if is_dry_run {
        let judged = door.send(Method::PATCH, &(path + "?dry_run=true"), &[("if-match", version)], Some(&body)).await?;
        let preview = judged.json()?;
        if !door.print_json(&judged) {
            terminal::say(&previewed(&preview));
        }
        return Ok(exit(|| at(&preview, "allowed") == true));
    }
    let answer = door.send(Method::PATCH, &path, &[("if-match", version)], Some(&body)).await?;
    if !door.print_json(&answer) {
        let changed = answer.json()?;
        let meaning = match text(&changed, "meaning") {
            "" => format!("the default is now {}", at(&changed, "flag")),
            meaning => format!("{}: {meaning}", set.kind),
        };
        terminal::say(&format!("{meaning}\nflags at version {}", at(&changed, "version")));
    }
    Ok(ExitCode::SUCCESS)
}

/// Each condition of a change that was only judged.
fn previewed(preview: &Value) -> String {
    let row = |condition: &Value| {
        let met = match (at(condition, "met") == true, at(condition, "overridable") == true) {
            (true, _) => "yes",
            (false, true) => "no, may be overridden",
            (false, false) => "NO",
        };
        let figures = at(condition, "figures").as_object().into_iter().flatten();
        let figures: Vec<String> = figures.map(|(name, figure)| format!("{name} {figure}")).collect();
        let detail = text(condition, "detail");
        let told = if figures.is_empty() { detail.to_owned() } else { format!("{detail} ({})", figures.join(", ")) };
        vec![text(condition, "condition").to_owned(), met.to_owned(), told]
    };
    let rows: Vec<Vec<String>> = list(preview, "conditions").iter().map(row).collect();
    let verdict = if at(preview, "allowed") == true { "it would be made" } else { "it would be refused" };
    format!("{}\n\n{verdict}; nothing was changed", table::aligned(&["condition", "met", "detail"], &rows))
}

fn body(set: &SetArguments) -> Value {
    let members = [
        ("stage", set.stage.as_ref().map(|stage| json!(stage))),
        ("percent", set.percent.map(|percent| json!(percent))),
        ("sample_rate", set.sample_rate.map(|rate| json!(rate))),
        ("ack", set.ack.as_ref().map(|ack| json!(ack))),
        ("deadline_ms", set.deadline_ms.map(|deadline| json!(deadline))),
        ("resume", set.resume.then_some(json!(true))),
        ("override", set.overrides.then_some(json!(true))),
        ("reason", set.reason.as_ref().map(|reason| json!(reason))),
    ];
    let given = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_was_only_judged_is_told_with_its_figures() {
        let condition = |met| json!({ "condition": "lag", "met": met, "overridable": true, "detail": "D", "figures": { "oldest": 2.5 } });
        let shown = previewed(&json!({ "allowed": false, "conditions": [condition(false)] }));
        assert!(shown.contains("lag        no, may be overridden  D (oldest 2.5)"), "{shown}");
        assert!(shown.ends_with("it would be refused; nothing was changed"), "{shown}");
    }

    #[test]
    fn the_table_says_who_stands_where_and_whose_word_it_is() {
        let flag = json!({ "stage": "live", "percent": 5.0, "sample_rate": 0.01, "ack": "redis" });
        let kind =
            |name: &str, own| json!({ "kind": name, "flag": flag, "own": own, "backfilled": own, "meaning": "M." });
        let report =
            json!({ "version": 7, "lease_valid": false, "kinds": [kind("apikey", true), kind("user", false)] });
        let shown = shown(&report);
        assert!(shown.starts_with("flags at version 7; this sidecar has NO lease"), "{shown}");
        assert!(shown.contains("\napikey       live   5.0      0.01     redis  yes         M."), "{shown}");
        assert!(shown.contains("\nuser (by *)  live"), "{shown}");
    }
}
