//! The operators' commands: flags, plan, rollback, status, gaps. Each is one or two requests to the admin door, so that whatever is
//! allowed, checked and audited is the same for a person, a script and a dashboard.
//!
//! Where the door is and which token opens it is read from the sidecar's own settings. In the sidecar's container
//! `parallax rollback` needs no argument, and a mistake in any other setting does not stand in its way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::cli::terminal;
use crate::client::{Answer, Client};
use crate::settings;
use crate::settings::sources::Inputs;

pub(super) mod flags;
pub(super) mod gaps;
pub(super) mod plan;
pub(super) mod rollback;
pub(super) mod status;
mod table;

/// How the admin door is reached.
#[derive(Args)]
pub(super) struct DoorArguments {
    /// Where the admin door is, as HOST:PORT; without it where the settings say that it listens
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// A file with a token of the admin door; without it a token from the settings
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A TOML file with settings [env: `PARALLAX_CONFIG`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what the door answered, as JSON
    #[arg(long)]
    json: bool,
}

/// The admin door as a command sees it.
pub(super) struct Door {
    client: Client,
    token: Option<String>,
    is_json: bool,
}

impl DoorArguments {
    /// The door that these arguments and the settings name.
    ///
    /// # Errors
    /// When the settings of the admin door cannot be used, or the file with the token cannot be read.
    fn door(self) -> anyhow::Result<Door> {
        let inputs = Inputs::of_process(Vec::new(), self.config);
        let access = settings::admin(&inputs)?;
        let token = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.with_context(|| format!("the token in {} cannot be read", path.display()))?;
                Some(text.trim().to_owned())
            }
            // The least right that suffices for changes; whoever may see secrets may change as well.
            None => [&access.operator_tokens, &access.secrets_tokens, &access.viewer_tokens]
                .into_iter()
                .find_map(|tokens| tokens.first())
                .map(|token| token.expose_secret().to_owned()),
        };
        let place = match self.admin {
            Some(place) => place.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            None => reachable(access.listen).to_string(),
        };
        Ok(Door { client: Client::new(place), token, is_json: self.json })
    }
}

/// The address by which a door that listens there is called: a wildcard is no address to call.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback = match listen.ip() {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(if listen.ip().is_unspecified() { loopback } else { listen.ip() }, listen.port())
}

impl Door {
    /// Asks for `path`.
    ///
    /// # Errors
    /// When the door does not answer, or answers with a problem.
    async fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, &[], None).await
    }

    /// Sends `body` to `path`.
    ///
    /// # Errors
    /// As [`Self::get`]; the error says what the door said, each unmet condition included.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut all = headers.to_vec();
        all.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        all.extend(body.map(|_| ("content-type", "application/json")));
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer = self.client.send(method, path, &all, body).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        bail!("{}", refusal(&answer));
    }

    /// Prints the answer as it came, if that was asked for. Answers whether it did.
    fn print_json(&self, answer: &Answer) -> bool {
        if self.is_json {
            terminal::say(String::from_utf8_lossy(&answer.body).trim_end());
        }
        self.is_json
    }
}

/// What the door said, in words; a token that is missing gets the advice that the door does not give.
fn refusal(answer: &Answer) -> String {
    let problem = answer.json().unwrap_or(Value::Null);
    let told = problem.get("detail").or_else(|| problem.get("title")).and_then(Value::as_str);
    let told = told.map_or_else(|| format!("the door answered {}", answer.status), str::to_owned);
    let advice = match answer.status {
        StatusCode::UNAUTHORIZED => " (give a token with --token-file, or in the settings of the admin door)",
        StatusCode::FORBIDDEN => " (give an operator's token with --token-file)",
        _ => "",
    };
    told + advice
}

/// A member, or null.
fn at<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// The text of a member, or nothing.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number of a member, or 0.
fn number(value: &Value, name: &str) -> i64 {
    value.get(name).and_then(Value::as_i64).unwrap_or_default()
}

/// The members of a list, or none.
fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// 0 when all is well, 1 otherwise, so that a script need not read the text.
fn exit(is_well: impl FnOnce() -> bool) -> ExitCode {
    if is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn a_wildcard_listener_is_called_on_loopback() {
        for (listen, called) in [
            ("0.0.0.0:8381", "127.0.0.1:8381"),
            ("[::]:8381", "[::1]:8381"),
            ("10.1.2.3:9", "10.1.2.3:9"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), called);
        }
    }

    #[test]
    fn a_refusal_says_what_the_door_said() {
        let answer = |status, body: &str| Answer { status, headers: HeaderMap::new(), body: body.to_owned().into() };
        let told = refusal(&answer(StatusCode::CONFLICT, r#"{"title":"Conflict","detail":"not yet: apikey"}"#));
        assert_eq!(told, "not yet: apikey");
        assert!(refusal(&answer(StatusCode::UNAUTHORIZED, r#"{"detail":"send"}"#)).contains("--token-file"));
        assert_eq!(refusal(&answer(StatusCode::BAD_GATEWAY, "<html>")), "the door answered 502 Bad Gateway");
    }
}
