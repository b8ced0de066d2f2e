//! Sends bursts through the HTTP data door, with the application's own pipelining, and counts what comes back.
//!
//! One connection and one burst at a time: the recorded application has a single connection too. A burst is one
//! `POST /redis/pipeline`; what stands between MULTI and EXEC is one `POST /redis/multi-exec`; a command with bytes that
//! are not UTF-8 (JSON cannot carry them) goes alone by the path form, where they are percent-encoded.

use std::collections::BTreeMap;

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::Value;
use tokio::time::Instant;

use crate::client::{Client, ClientError};
use crate::traffic::{Burst, Command};

/// The slowest answer that the latency histogram tells apart, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What was sent and what came back.
#[derive(Debug)]
pub struct Tally {
    /// Commands sent; MULTI and EXEC count.
    pub commands: u64,
    /// HTTP requests sent.
    pub requests: u64,
    /// Error replies of Redis by their first word (`WRONGTYPE`): the application makes some itself.
    pub redis_errors: BTreeMap<String, u64>,
    /// Answers that are no reply of Redis: refusals, problems, broken connections, by their kind.
    pub failures: BTreeMap<String, u64>,
    /// Time of one HTTP request, in microseconds.
    pub latency_us: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("bounds that the histogram allows");
        Self { commands: 0, requests: 0, redis_errors: BTreeMap::new(), failures: BTreeMap::new(), latency_us }
    }
}

impl Tally {
    /// How many error replies of Redis there were.
    #[must_use]
    pub fn redis_errors_total(&self) -> u64 {
        self.redis_errors.values().sum()
    }

    /// How many commands got no reply of Redis.
    #[must_use]
    pub fn failures_total(&self) -> u64 {
        self.failures.values().sum()
    }

    fn note_error(&mut self, text: &str) {
        let word = text.split_whitespace().next().unwrap_or("empty").to_owned();
        let list = if word.starts_with("PARALLAX") { &mut self.failures } else { &mut self.redis_errors };
        *list.entry(word).or_default() += 1;
    }

    fn note_failure(&mut self, what: &str, commands: usize) {
        *self.failures.entry(what.to_owned()).or_default() += commands as u64;
    }

    /// Adds what `other` counted.
    pub fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.requests += other.requests;
        for (word, count) in &other.redis_errors {
            *self.redis_errors.entry(word.clone()).or_default() += count;
        }
        for (word, count) in &other.failures {
            *self.failures.entry(word.clone()).or_default() += count;
        }
        // Both have the same bounds, so this cannot fail.
        let _ = self.latency_us.add(&other.latency_us);
    }
}

/// A part of a burst that is one HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'a> {
    Pipeline(&'a [Command]),
    MultiExec(&'a [Command]),
    Path(&'a Command),
}

/// Sends bursts to a data door.
#[derive(Debug)]
pub struct Replay {
    client: Client,
    /// What was counted so far.
    pub tally: Tally,
}

impl Replay {
    /// A replay against the data door at `door` (`127.0.0.1:8380`).
    #[must_use]
    pub fn new(door: impl Into<String>) -> Self {
        Self { client: Client::new(door), tally: Tally::default() }
    }

    /// Sends one burst and waits for its answers.
    ///
    /// # Errors
    /// Only when the door cannot be reached at all; everything else is counted.
    pub async fn send(&mut self, burst: &Burst) -> Result<(), ClientError> {
        for part in parts(burst) {
            let began = Instant::now();
            match part {
                Part::Pipeline(commands) => self.post("/redis/pipeline", commands).await?,
                Part::MultiExec(commands) => {
                    self.post("/redis/multi-exec", commands).await?;
                    self.tally.commands += 2;
                }
                Part::Path(command) => self.by_path(command).await?,
            }
            self.tally.requests += 1;
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
            self.tally.latency_us.saturating_record(took.clamp(1, LATENCY_MAX_US));
        }
        Ok(())
    }

    async fn post(&mut self, path: &str, commands: &[Command]) -> Result<(), ClientError> {
        let texts: Vec<Vec<&str>> = commands
            .iter()
            .map(|command| command.iter().filter_map(|part| std::str::from_utf8(part).ok()).collect())
            .collect();
        let body = serde_json::to_vec(&texts).unwrap_or_default();
        let headers = [("content-type", "application/json")];
        let answer = self.client.send(Method::POST, path, &headers, Bytes::from(body)).await?;
        self.tally.commands += commands.len() as u64;
        match (answer.status, answer.json()) {
            (StatusCode::OK, Ok(Value::Array(replies))) => {
                for error in replies.iter().filter_map(|reply| reply.get("error")) {
                    self.tally.note_error(error.as_str().unwrap_or("unnamed"));
                }
                if replies.len() != commands.len() {
                    self.tally.note_failure("answers-missing", commands.len().abs_diff(replies.len()));
                }
            }
            (_, Ok(Value::Object(problem))) => {
                let text = problem.get("error").or_else(|| problem.get("type")).and_then(Value::as_str);
                if let (StatusCode::OK | StatusCode::BAD_REQUEST, Some(text)) = (answer.status, text)
                    && problem.contains_key("error")
                {
                    self.tally.note_error(text);
                } else {
                    let name = format!("{} {}", answer.status.as_u16(), text.unwrap_or("without a type"));
                    self.tally.note_failure(&name, commands.len());
                }
            }
            (status, _) => self.tally.note_failure(&format!("{} without JSON", status.as_u16()), commands.len()),
        }
        Ok(())
    }

    async fn by_path(&mut self, command: &Command) -> Result<(), ClientError> {
        let encoded: Vec<String> =
            command.iter().map(|part| percent_encode(part, NON_ALPHANUMERIC).to_string()).collect();
        let path = format!("/redis/{}", encoded.join("/"));
        let answer = self.client.send(Method::GET, &path, &[], Bytes::new()).await?;
        self.tally.commands += 1;
        match answer.json() {
            Ok(Value::Object(reply)) if reply.contains_key("result") => {}
            Ok(Value::Object(reply)) if reply.contains_key("error") => {
                self.tally.note_error(reply.get("error").and_then(Value::as_str).unwrap_or("unnamed"));
            }
            _ => self.tally.note_failure(&format!("{} by path", answer.status.as_u16()), 1),
        }
        Ok(())
    }
}

fn is_named(command: &Command, name: &str) -> bool {
    command.first().is_some_and(|first| first.eq_ignore_ascii_case(name.as_bytes()))
}

/// A burst cut into HTTP requests, in order. A MULTI without EXEC takes the rest of the burst.
fn parts(burst: &Burst) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = burst.as_slice();
    while let Some((first, after)) = rest.split_first() {
        if is_named(first, "multi") {
            let end = after.iter().position(|command| is_named(command, "exec")).unwrap_or(after.len());
            let (inside, exec) = after.split_at(end);
            parts.push(Part::MultiExec(inside));
            rest = exec.get(1..).unwrap_or_default();
        } else if first.iter().any(|part| std::str::from_utf8(part).is_err()) {
            parts.push(Part::Path(first));
            rest = after;
        } else {
            let end = rest
                .iter()
                .position(|command| {
                    is_named(command, "multi") || command.iter().any(|part| std::str::from_utf8(part).is_err())
                })
                .unwrap_or(rest.len());
            let (pipeline, tail) = rest.split_at(end);
            parts.push(Part::Pipeline(pipeline));
            rest = tail;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::command;

    #[test]
    fn a_burst_is_cut_at_transactions_and_at_bytes_that_json_cannot_carry() {
        let wild: Command = vec![b"set".to_vec(), b"k\xff".to_vec(), b"v".to_vec()];
        let burst = vec![
            command(&["get", "a"]),
            command(&["MULTI"]),
            command(&["lpush", "l", "1"]),
            command(&["ltrim", "l", "0", "199"]),
            command(&["exec"]),
            command(&["get", "b"]),
            wild.clone(),
            command(&["get", "n\0c"]),
            command(&["get", "d"]),
        ];
        let wanted = [
            Part::Pipeline(&burst[..1]),
            Part::MultiExec(&burst[2..4]),
            Part::Pipeline(&burst[5..6]),
            Part::Path(&wild),
            Part::Pipeline(&burst[7..]),
        ];
        assert_eq!(parts(&burst), wanted);
    }

    #[test]
    fn errors_of_redis_and_our_own_are_counted_apart() {
        let mut tally = Tally::default();
        tally.note_error("WRONGTYPE Operation against a key");
        tally.note_error("PARALLAX refused");
        assert_eq!((tally.redis_errors_total(), tally.failures_total()), (1, 1));
        let mut sum = Tally::default();
        sum.add(&tally);
        sum.add(&tally);
        assert_eq!(sum.redis_errors.get("WRONGTYPE"), Some(&2));
    }
}
