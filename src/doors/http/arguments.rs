//! Turns requests of the command API into commands: a JSON array, an array of arrays, or a path.
//!
//! The forms are those that Upstash's REST clients send, so that an existing client library works as it is.

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::doors::http::json::Scanner;
use crate::doors::problem::{Problem, ProblemKind};
use crate::model::command::Command;

/// What one request of the command API may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLimits {
    /// Commands of a pipeline or transaction (413 above it).
    pub commands_max: usize,
    /// Arguments of one command, its name included (413 above it). Redis itself takes 1,048,576.
    pub arguments_max: usize,
}

impl Default for CommandLimits {
    fn default() -> Self {
        Self { commands_max: 10_000, arguments_max: 1024 * 1024 }
    }
}

/// The command of a JSON array: `["SET", "key", "value"]`.
///
/// # Errors
/// 400 with line and column; 413 above a limit.
pub fn command(body: &Bytes, limits: CommandLimits) -> Result<Command, Problem> {
    let mut scanner = Scanner::new(body)?;
    let command = one(&mut scanner, limits)?;
    scanner.end()?;
    Ok(command)
}

/// The commands of an array of such arrays.
///
/// # Errors
/// As [`command`].
pub fn pipeline(body: &Bytes, limits: CommandLimits) -> Result<Vec<Command>, Problem> {
    let mut scanner = Scanner::new(body)?;
    let mut commands = Vec::new();
    scanner.array(|scanner| {
        if commands.len() == limits.commands_max {
            return Err(too_many("commands", limits.commands_max));
        }
        if !scanner.is_at_array() {
            return Err(scanner.malformed("expected a command, which is an array"));
        }
        commands.push(one(scanner, limits)?);
        Ok(())
    })?;
    scanner.end()?;
    Ok(commands)
}

/// The command of a path: `set/foo/bar`, then the body if there is one, then the query (`EX=100`, `NX`).
///
/// # Errors
/// 413 above a limit; 400 for a token in the query, which would reach logs.
pub fn path(path: &str, query: &str, body: Bytes, limits: CommandLimits) -> Result<Command, Problem> {
    let mut parts: Vec<Bytes> = path.split('/').map(percent_decoded).collect();
    if !body.is_empty() {
        parts.push(body);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == "_token" {
            return Err(Problem::new(ProblemKind::BadRequest, "a token belongs into the Authorization header"));
        }
        parts.push(percent_decoded(name));
        if !value.is_empty() {
            parts.push(percent_decoded(value));
        }
    }
    if parts.len() > limits.arguments_max {
        return Err(too_many("arguments", limits.arguments_max));
    }
    Ok(Command(parts))
}

fn one(scanner: &mut Scanner<'_>, limits: CommandLimits) -> Result<Command, Problem> {
    let mut parts = Vec::with_capacity(4);
    let began = scanner.place();
    scanner.array(|scanner| {
        if parts.len() == limits.arguments_max {
            return Err(too_many("arguments", limits.arguments_max));
        }
        parts.push(scanner.scalar()?);
        Ok(())
    })?;
    if parts.is_empty() {
        scanner.go_back(began);
        return Err(scanner.malformed("a command has at least a name"));
    }
    Ok(Command(parts))
}

fn too_many(what: &str, limit: usize) -> Problem {
    Problem::new(ProblemKind::TooLarge, format!("more {what} than the limit of {limit}"))
}

fn percent_decoded(text: &str) -> Bytes {
    Bytes::from(percent_decode_str(text).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CommandLimits = CommandLimits { commands_max: 2, arguments_max: 3 };

    fn body(json: &str) -> Bytes {
        Bytes::copy_from_slice(json.as_bytes())
    }

    #[test]
    fn a_command_is_an_array_of_scalars() {
        let command = command(&body("[\"SET\",\"k\",1]"), LIMITS).expect("a command");
        assert_eq!(command.0, ["SET", "k", "1"]);
    }

    #[test]
    fn a_pipeline_is_an_array_of_commands() {
        let commands = pipeline(&body("[[\"GET\",\"a\"],\n [\"GET\",\"b\"]]"), LIMITS).expect("commands");
        assert_eq!(commands.len(), 2);
        assert_eq!(commands[1].0, ["GET", "b"]);
        assert!(pipeline(&body("[]"), LIMITS).expect("commands").is_empty());
    }

    #[test]
    fn a_pipeline_of_something_else_is_malformed() {
        for (json, place) in [("[\"GET\",\"a\"]", "line 1, column 2"), ("[[\"GET\"],\n[]]", "line 2, column 1")] {
            let problem = pipeline(&body(json), LIMITS).expect_err("refused");
            assert_eq!(problem.kind(), ProblemKind::MalformedJson);
            assert!(problem.detail().starts_with(place), "{json}: {problem:?}");
        }
    }

    #[test]
    fn too_many_commands_or_arguments_are_refused_with_the_limit() {
        let commands = pipeline(&body("[[\"A\"],[\"B\"],[\"C\"]]"), LIMITS).expect_err("refused");
        let arguments = command(&body("[\"DEL\",\"a\",\"b\",\"c\"]"), LIMITS).expect_err("refused");
        let path = path("del/a/b/c", "", Bytes::new(), LIMITS).expect_err("refused");
        for (problem, limit) in [(commands, "limit of 2"), (arguments, "limit of 3"), (path, "limit of 3")] {
            assert_eq!(problem.kind(), ProblemKind::TooLarge);
            assert!(problem.detail().ends_with(limit), "{problem:?}");
        }
    }

    #[test]
    fn a_path_is_a_command_with_the_body_before_the_query() {
        let command = path("set/a%2Fb/", "EX=100&NX", body("v"), CommandLimits::default()).expect("a command");
        assert_eq!(command.0, ["set", "a/b", "", "v", "EX", "100", "NX"]);
        let bytes = path("set/k/%00%FF", "", Bytes::new(), CommandLimits::default()).expect("a command");
        assert_eq!(bytes.0[2], &b"\0\xff"[..]);
    }

    #[test]
    fn a_token_in_the_query_is_refused() {
        let problem = path("get/a", "_token=secret", Bytes::new(), LIMITS).expect_err("refused");
        assert_eq!(problem.kind(), ProblemKind::BadRequest);
        assert!(!problem.detail().contains("secret"));
    }
}
