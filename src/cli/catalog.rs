//! `parallax catalog check`: does the catalog describe the keys that are really there?

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::setting_flags::SettingFlags;
use crate::cli::terminal;
use crate::failure::EXIT_SETTINGS;
use crate::model::catalog::{Catalog, Kind, Policy};
use crate::model::key::CONTROL_PREFIX;
use crate::model::text;
use crate::settings;
use crate::stores::tls;

/// Keys asked for in one step of the scan: enough to be quick, little enough that Redis answers others in between.
const SCAN_COUNT: usize = 1000;
/// Prefixes that match nothing are counted apart up to this many; what is beyond is counted together.
const PREFIXES_MAX: usize = 1000;
/// As many of them are shown.
const PREFIXES_SHOWN_MAX: usize = 20;
/// The characters of a line of names.
const LINE_CHARS_MAX: usize = 96;
/// The characters of a prefix that are shown.
const PREFIX_CHARS_MAX: usize = 40;

/// What `catalog check` can be told.
#[derive(Args)]
pub(super) struct CheckArguments {
    /// Check the catalog alone, without a Redis
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

/// What was counted.
#[derive(Debug, Default)]
struct Count {
    /// By the index of the kind.
    kinds: Vec<u64>,
    /// Of keys that match nothing.
    prefixes: BTreeMap<String, u64>,
    /// Keys that match nothing, and whose prefix came too late to be counted apart.
    other_prefixes: u64,
    total: u64,
}

/// The configured catalog, or everything that is wrong with it.
pub(super) fn read(path: Option<&Path>) -> Result<Catalog, String> {
    let Some(path) = path else {
        return Ok(Catalog::embedded());
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name} cannot be read: {error}"))?;
    Catalog::parse(&name, &text).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Checks the catalog, and holds it against the keys of the configured Redis.
pub(super) async fn check(arguments: CheckArguments) -> anyhow::Result<ExitCode> {
    let settings = settings::load(&arguments.settings.inputs())?.settings;
    let catalog = match read(settings.catalog.as_deref()) {
        Ok(catalog) => catalog,
        Err(problems) => {
            terminal::complain(&problems);
            return Ok(ExitCode::from(EXIT_SETTINGS));
        }
    };
    if arguments.offline {
        terminal::say(&format!("the catalog is in order: {} kinds", catalog.kinds().len()));
        return Ok(ExitCode::SUCCESS);
    }
    let place = format!("{}:{}", settings.redis.host, settings.redis.port);
    let client = tls::redis_client(&settings.redis)?;
    let count = count(&client, &catalog).await.with_context(|| format!("the keys of Redis at {place}"))?;
    terminal::say(report(&catalog, &count).trim_end());
    Ok(ExitCode::SUCCESS)
}

async fn count(client: &redis::Client, catalog: &Catalog) -> redis::RedisResult<Count> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let keys: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await?;
    let progress = progress(keys);
    let mut count = Count { kinds: vec![0; catalog.kinds().len()], ..Count::default() };
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(SCAN_COUNT);
        let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut connection).await?;
        keys.iter().for_each(|key| count.add(catalog, key));
        progress.set_position(count.total);
        if next == 0 {
            break;
        }
        cursor = next;
    }
    progress.finish_and_clear();
    Ok(count)
}

fn progress(keys: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} keys, {eta} left");
    ProgressBar::new(keys).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Count {
    fn add(&mut self, catalog: &Catalog, key: &[u8]) {
        if key.starts_with(CONTROL_PREFIX) {
            return;
        }
        self.total += 1;
        let kind = catalog.kind_of(key);
        if let Some(count) = self.kinds.get_mut(kind.index) {
            *count += 1;
        }
        if kind.index + 1 != catalog.kinds().len() {
            return;
        }
        let prefix = prefix_of(key);
        if let Some(count) = self.prefixes.get_mut(&prefix) {
            *count += 1;
        } else if self.prefixes.len() < PREFIXES_MAX {
            self.prefixes.insert(prefix, 1);
        } else {
            self.other_prefixes += 1;
        }
    }
}

/// What stands before the first colon. Never more: what follows may be a secret, and a key without a colon may be one.
fn prefix_of(key: &[u8]) -> String {
    let Some(end) = key.iter().position(|byte| *byte == b':') else {
        return "(no colon)".to_owned();
    };
    let head: String = text::encode(key.get(..end).unwrap_or_default()).chars().take(PREFIX_CHARS_MAX).collect();
    format!("{head}:")
}

fn report(catalog: &Catalog, count: &Count) -> String {
    let of = |kind: &Kind| count.kinds.get(kind.index).copied().unwrap_or(0);
    let (unmatched, named) = match catalog.kinds().split_last() {
        Some((unmatched, named)) => (of(unmatched), named),
        None => (0, catalog.kinds()),
    };
    let mut found: Vec<_> = named.iter().filter(|kind| of(kind) > 0).collect();
    found.sort_by_key(|kind| std::cmp::Reverse(of(kind)));
    let mut text = format!("{} keys, {} of {} kinds found\n", count.total, found.len(), named.len());
    let widest = named.iter().map(|kind| kind.name.len()).max().unwrap_or(0);
    for kind in found {
        text += &format!("  {:>10}  {:widest$}  {}\n", of(kind), kind.name, policy_name(kind));
    }
    let absent: Vec<&str> = named.iter().filter(|kind| of(kind) == 0).map(|kind| kind.name.as_str()).collect();
    if !absent.is_empty() {
        text += &format!("\nno key matches these kinds:\n{}", wrapped(&absent));
    }
    if unmatched == 0 {
        return text + "\nevery key matches a kind\n";
    }
    text += &format!("\n{unmatched} keys match no kind, by prefix:\n");
    let mut prefixes: Vec<_> = count.prefixes.iter().collect();
    prefixes.sort_by_key(|(_, keys)| std::cmp::Reverse(**keys));
    for (prefix, keys) in prefixes.iter().take(PREFIXES_SHOWN_MAX) {
        text += &format!("  {keys:>10}  {prefix}\n");
    }
    let hidden: u64 = prefixes.iter().skip(PREFIXES_SHOWN_MAX).map(|(_, keys)| **keys).sum();
    if hidden + count.other_prefixes > 0 {
        text += &format!("  {:>10}  others\n", hidden + count.other_prefixes);
    }
    text
}

/// The names side by side, in lines that a terminal holds.
fn wrapped(names: &[&str]) -> String {
    let mut text = String::new();
    let mut line = String::new();
    for name in names {
        if line.len() + name.len() > LINE_CHARS_MAX {
            text += &format!(" {line}\n");
            line.clear();
        }
        line += &format!(" {name}");
    }
    text + &format!(" {line}\n")
}

fn policy_name(kind: &Kind) -> &'static str {
    match kind.policy {
        Policy::Mirror => "mirror",
        Policy::Ephemeral => "ephemeral",
        Policy::Derived => "derived",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_by_kind_and_what_matches_nothing_by_what_stands_before_the_colon() {
        let catalog = Catalog::embedded();
        let mut count = Count { kinds: vec![0; catalog.kinds().len()], ..Count::default() };
        let keys: [&[u8]; 5] = [b"parallax:outbox", b"nonsense:s3cret", b"nonsense:x", b"s3cret", b"\xff:1"];
        for key in keys {
            count.add(&catalog, key);
        }
        count.add(&catalog, b"apikey:5b1bd4d9-4b32-4a25-9c0c-0b8f5b6d9a11");
        let text = report(&catalog, &count);
        assert_eq!(count.total, 5);
        assert!(text.starts_with("5 keys, 1 of "), "{text}");
        assert!(text.contains("4 keys match no kind"), "{text}");
        assert!(
            text.contains("2  nonsense:\n") && text.contains("1  (no colon)\n") && text.contains("1  \\xff:\n"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
    }

    #[test]
    fn prefixes_without_end_are_counted_together() {
        let catalog = Catalog::embedded();
        let mut count = Count { kinds: vec![0; catalog.kinds().len()], ..Count::default() };
        for number in 0..PREFIXES_MAX + 5 {
            count.add(&catalog, format!("nonsense{number}:x").as_bytes());
        }
        assert_eq!((count.prefixes.len(), count.other_prefixes), (PREFIXES_MAX, 5));
        assert!(report(&catalog, &count).contains("985  others"), "{}", report(&catalog, &count));
    }
}
