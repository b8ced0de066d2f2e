//! `parallax plan`: posts a plan for a kind or group, shows it, and does with it what an operator wants.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use crate::cli::operate::{Door, DoorArguments, at, list, number, table, text};
use crate::cli::terminal;

const EXAMPLES: &str = "\
  parallax plan                                          all plans
  parallax plan post auth --step 1:600 --step 10:3600 --step 100:86400 --confirm last --reason \"the way up\"
  parallax plan show auth                                how it stands, what holds it, what the guard saw last
  parallax plan promote auth                             says yes to the next step, or ends the time of this one
  parallax plan resume auth --reason \"index repaired\"    goes on after a pause or a breach, from the first step
  parallax plan decisions apikey                         what was decided about it, with the numbers";

/// What `parallax plan` can be told.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct PlanArguments {
    #[command(subcommand)]
    what: Option<PlanCommand>,
    #[command(flatten)]
    door: DoorArguments,
}

#[derive(Subcommand)]
enum PlanCommand {
    /// Begin a plan
    Post(PostArguments),
    /// Show one plan
    Show(NamedArguments),
    /// Say yes to the next step, or end the time of this one
    Promote(NamedArguments),
    /// Stop it where it is; the guard goes on watching
    Pause(NamedArguments),
    /// Go on after a pause or a breach; needs a reason
    Resume(NamedArguments),
    /// Give it up, and its reads back to Redis; needs a reason
    Abort(NamedArguments),
    /// What was decided about a kind or group, newest first
    Decisions(NamedArguments),
}

/// A plan, from words.
#[derive(Args)]
struct PostArguments {
    /// The kind or group, by its name in the catalog
    name: String,
    /// A step: so many percent of the keys, for so many seconds before the next
    #[arg(long = "step", value_name = "PERCENT:SECONDS", required = true)]
    steps: Vec<String>,
    /// A limit that differs from the usual one: `mismatch_ratio`, `trouble_ratio`, `p99_ratio`, `oldest_mark_seconds`, `proof_age_hours`
    #[arg(long = "check", value_name = "CHECK=LIMIT")]
    checks: Vec<String>,
    /// Ask a person before this step: first or last
    #[arg(long, value_name = "STEP")]
    confirm: Vec<String>,
    /// Why, for the audit
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    door: DoorArguments,
}

#[derive(Args)]
struct NamedArguments {
    /// The kind or group, by its name in the catalog
    name: String,
    /// Why, for the audit
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    door: DoorArguments,
}

/// Shows plans or changes one.
pub(crate) async fn run(arguments: PlanArguments) -> anyhow::Result<ExitCode> {
    match arguments.what {
        None => all(arguments.door.door()?).await,
        Some(PlanCommand::Post(post)) => {
            let (path, body) = (path(&post.name, ""), body(&post)?);
            change(post.door.door()?, &path, &body).await
        }
        Some(PlanCommand::Show(named)) => show(named.door.door()?, &path(&named.name, "")).await,
        Some(PlanCommand::Promote(named)) => wish(named, "/promote").await,
        Some(PlanCommand::Pause(named)) => wish(named, "/pause").await,
        Some(PlanCommand::Resume(named)) => wish(named, "/resume").await,
        Some(PlanCommand::Abort(named)) => wish(named, "/abort").await,
        Some(PlanCommand::Decisions(named)) => decisions(named).await,
    }
}

fn path(name: &str, more: &str) -> String {
    format!("/v1/flags/{}/plan{more}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

async fn all(mut door: Door) -> anyhow::Result<ExitCode> {
    let answer = door.get("/v1/plans").await?;
    if !door.print_json(&answer) {
        let row = |plan: &Value| {
            let steps = list(at(plan, "spec"), "steps").len();
            let holding: Vec<&str> = list(plan, "holding").iter().filter_map(Value::as_str).collect();
            vec![
                text(plan, "name").to_owned(),
                text(plan, "state").to_owned(),
                format!("{} of {steps}", number(plan, "step") + 1),
                holding.join("; "),
            ]
        };
        let rows: Vec<Vec<String>> = list(&answer.json()?, "plans").iter().map(row).collect();
        terminal::say(&table::aligned(&["plan", "state", "step", "what holds it"], &rows));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(mut door: Door, path: &str) -> anyhow::Result<ExitCode> {
    let answer = door.get(path).await?;
    if !door.print_json(&answer) {
        terminal::say(&shown(&answer.json()?));
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(plan: &Value) -> String {
    let steps = list(at(plan, "spec"), "steps");
    let mut lines = vec![format!(
        "plan {}: {}, step {} of {}",
        text(plan, "name"),
        text(plan, "state"),
        number(plan, "step") + 1,
        steps.len()
    )];
    lines.extend(steps.iter().map(|step| format!("  {} % for {} s", at(step, "percent"), at(step, "bake_seconds"))));
    lines.extend(list(plan, "holding").iter().filter_map(Value::as_str).map(|held| format!("held: {held}")));
    let numbers = at(at(plan, "judgement"), "numbers").as_object().into_iter().flatten();
    lines.extend(numbers.map(|(name, number)| format!("  {name} {number}")));
    lines.join("\n")
}

async fn wish(named: NamedArguments, verb: &str) -> anyhow::Result<ExitCode> {
    let path = path(&named.name, verb);
    let body = match named.reason {
        Some(reason) => json!({ "reason": reason }),
        None => json!({}),
    };
    change(named.door.door()?, &path, &body).await
}

async fn change(mut door: Door, path: &str, body: &Value) -> anyhow::Result<ExitCode> {
    let answer = door.send(Method::POST, path, &[], Some(body)).await?;
    if !door.print_json(&answer) {
        terminal::say(&shown(&answer.json()?));
    }
    Ok(ExitCode::SUCCESS)
}

async fn decisions(named: NamedArguments) -> anyhow::Result<ExitCode> {
    let mut door = named.door.door()?;
    let path = format!("/v1/flags/{}/decisions", utf8_percent_encode(&named.name, NON_ALPHANUMERIC));
    let answer = door.get(&path).await?;
    if !door.print_json(&answer) {
        let row = |decision: &Value| {
            let reasons: Vec<&str> = list(decision, "reasons").iter().filter_map(Value::as_str).collect();
            let at = chrono::DateTime::from_timestamp_millis(number(decision, "at_ms")).unwrap_or_default();
            vec![
                at.format("%Y-%m-%d %H:%M:%S").to_string(),
                text(decision, "decision").to_owned(),
                text(decision, "who").to_owned(),
                reasons.join("; "),
            ]
        };
        let rows: Vec<Vec<String>> = list(&answer.json()?, "decisions").iter().map(row).collect();
        terminal::say(&table::aligned(&["when (UTC)", "decision", "by", "why"], &rows));
    }
    Ok(ExitCode::SUCCESS)
}

fn body(post: &PostArguments) -> anyhow::Result<Value> {
    let steps = post.steps.iter().map(|step| step_of(step)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut checks = Map::new();
    for check in &post.checks {
        let Some((name, limit)) = check.split_once('=') else { bail!("--check {check}: must be CHECK=LIMIT") };
        let limit: f64 = limit.parse().with_context(|| format!("--check {check}: the limit must be a number"))?;
        checks.insert(name.to_owned(), json!(limit));
    }
    Ok(json!({ "steps": steps, "checks": checks, "confirm": post.confirm, "reason": post.reason }))
}

fn step_of(step: &str) -> anyhow::Result<Value> {
    let Some((percent, seconds)) = step.split_once(':') else { bail!("--step {step}: must be PERCENT:SECONDS") };
    let percent: f64 = percent.parse().with_context(|| format!("--step {step}: the percent must be a number"))?;
    let seconds: u64 = seconds.parse().with_context(|| format!("--step {step}: the seconds must be a whole number"))?;
    Ok(json!({ "percent": percent, "bake_seconds": seconds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_percent_and_a_time() {
        assert_eq!(step_of("0.5:600").unwrap(), json!({ "percent": 0.5, "bake_seconds": 600 }));
        for wrong in ["5", "x:5", "5:x", "5:1.5"] {
            assert!(step_of(wrong).unwrap_err().to_string().starts_with(&format!("--step {wrong}: ")), "{wrong}");
        }
    }

    #[test]
    fn a_plan_is_shown_with_what_holds_it_and_what_was_seen() {
        let spec = json!({ "steps": [{ "percent": 1.0, "bake_seconds": 5 }] });
        let judgement = json!({ "numbers": { "reads": 7.0 } });
        let plan = json!({ "name": "auth", "state": "waiting", "step": 0, "spec": spec, "holding": ["H"], "judgement": judgement });
        assert_eq!(shown(&plan), "plan auth: waiting, step 1 of 1\n  1.0 % for 5 s\nheld: H\n  reads 7.0");
    }
}
