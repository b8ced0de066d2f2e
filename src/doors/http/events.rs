//! Subscriptions over HTTP: messages as server-sent events, in the form that Upstash's clients read.
//!
//! `/redis/subscribe/{channel}..` and `/redis/psubscribe/{pattern}..` answer `data: subscribe,{channel},{count}` for each
//! name, then `data: message,{channel},{payload}` or `data: pmessage,{pattern},{channel},{payload}`, and a comment when
//! nothing came for a while. The answer ends with the connection to Redis, or with the sidecar: then messages may be missed.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{HeaderValue, Method, header};
use percent_encoding::percent_decode_str;
use serde::de::IgnoredAny;
use tokio::time;

use crate::doors::body::Body;
use crate::doors::http::{DataDoor, STREAM_PAUSE_MS, reply};
use crate::doors::problem::{Problem, ProblemKind};
use crate::doors::server::{Request, Response};
use crate::dual::subscribe::{Message, Names, Subscription};
use crate::model::text;
use crate::telemetry::labels::{Door, Outcome};

/// A comment: readers skip it, and whoever stands between learns that the connection lives.
const HEARTBEAT: &[u8] = b":\n\n";

/// What a path asks to subscribe to, if it does; the names are behind the slash.
pub(super) fn asked(path: &str) -> Option<(Names, &str)> {
    let (verb, names) = path.split_once('/').unwrap_or((path, ""));
    if verb.eq_ignore_ascii_case("subscribe") {
        return Some((Names::Channels, names));
    }
    verb.eq_ignore_ascii_case("psubscribe").then_some((Names::Patterns, names))
}

/// Answers with the messages of these names, which are divided by slashes. The body of the request is not looked at:
/// Upstash's clients send an empty array.
///
/// # Errors
/// 405 for another method than GET or POST; 413 for too many names; 400 or 403 for names that cannot be subscribed to; 503
/// when Redis cannot be reached or too many subscribe.
pub(super) async fn answer(door: &DataDoor, request: &Request, kind: Names, names: &str) -> Result<Response, Problem> {
    if ![Method::GET, Method::POST].contains(&request.method) {
        return Err(Problem::method_not_allowed("GET, POST"));
    }
    let names: Vec<Bytes> = names
        .split('/')
        .filter(|name| !name.is_empty())
        .map(|name| percent_decode_str(name).collect::<Vec<u8>>().into())
        .collect();
    if names.len() > door.limits.arguments_max {
        let detail = format!("more channels than the limit of {}", door.limits.arguments_max);
        return Err(Problem::new(ProblemKind::TooLarge, detail));
    }
    let subscription = door.engine.subscribe(kind, &names).await?.inspect_err(|_| {
        door.metrics.command(Door::Http, Outcome::Refused);
    })?;
    door.metrics.command(Door::Http, Outcome::Ok);
    let begun =
        stream::iter(names.into_iter().enumerate().map(move |(index, name)| subscribed(kind, &name, index + 1)));
    let mut response = Response::new(Body::stream(begun.chain(stream::unfold(subscription, next))));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // When the answer ends, its connection does: there is no other way to tell the end of a stream from a pause.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(response)
}

async fn next(mut subscription: Subscription) -> Option<(Bytes, Subscription)> {
    let piece = match time::timeout(Duration::from_millis(STREAM_PAUSE_MS), subscription.next()).await {
        Ok(message) => event(&message?),
        Err(_) => Bytes::from_static(HEARTBEAT),
    };
    Some((piece, subscription))
}

fn subscribed(kind: Names, name: &[u8], count: usize) -> Bytes {
    let word = match kind {
        Names::Channels => "subscribe",
        Names::Patterns => "psubscribe",
    };
    format!("data: {word},{},{count}\n\n", name_text(name)).into()
}

fn event(message: &Message) -> Bytes {
    let payload = payload_text(&message.payload);
    let channel = name_text(&message.channel);
    match &message.pattern {
        Some(pattern) => format!("data: pmessage,{},{channel},{payload}\n\n", name_text(pattern)),
        None => format!("data: message,{channel},{payload}\n\n"),
    }
    .into()
}

/// A name in one line. One with a line break would end the event, and could begin another.
fn name_text(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !has_breaks(text) => text.to_owned(),
        Ok(_) | Err(_) => format!("\\x{}", hex(name)),
    }
}

/// A payload in one line: Upstash's clients take every line for an event of its own. In JSON a line break is blank space,
/// and in another text the client's JSON reading gives it back from a JSON string.
fn payload_text(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) if !has_breaks(text) => text.to_owned(),
        Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => text.replace(['\n', '\r'], " "),
        Ok(text) => {
            let mut out = Vec::with_capacity(text.len() + 8);
            reply::write_json_string(&mut out, text);
            String::from_utf8(out).expect("JSON is UTF-8")
        }
        Err(_) => text::encode(payload).into_owned(),
    }
}

fn has_breaks(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(pattern: Option<&'static str>, channel: &'static str, payload: &'static [u8]) -> String {
        let bytes =
            event(&Message { pattern: pattern.map(Into::into), channel: channel.into(), payload: payload.into() });
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    #[test]
    fn a_message_is_one_event_with_its_parts_divided_by_commas() {
        assert_eq!(message(None, "news", b"{\"a\": [1, 2]}"), "data: message,news,{\"a\": [1, 2]}\n\n");
        assert_eq!(message(Some("n*"), "news", b"hello"), "data: pmessage,n*,news,hello\n\n");
        assert_eq!(&subscribed(Names::Channels, b"news", 2)[..], b"data: subscribe,news,2\n\n");
        assert_eq!(&subscribed(Names::Patterns, b"n*", 1)[..], b"data: psubscribe,n*,1\n\n");
    }

    #[test]
    fn no_line_break_of_a_payload_or_a_name_makes_an_event_of_its_own() {
        for (payload, shown) in [
            (&b"{\n\"a\":\r\n1}"[..], "{ \"a\":  1}"),
            (b"one\ndata: message,c,two", "\"one\\ndata: message,c,two\""),
            (b"\xff\n", "\\xff0a"),
            (b"", ""),
        ] {
            assert_eq!(message(None, "c", payload), format!("data: message,c,{shown}\n\n"));
        }
        assert_eq!(message(None, "a\ndata: message,b,c", b"x").matches('\n').count(), 2);
        assert_eq!(&subscribed(Names::Channels, b"a\nb", 1)[..], b"data: subscribe,\\x610a62,1\n\n");
    }

    #[test]
    fn a_path_that_subscribes_is_told_from_one_that_is_a_command() {
        assert_eq!(asked("subscribe/a/b"), Some((Names::Channels, "a/b")));
        assert_eq!(asked("PSUBSCRIBE/a"), Some((Names::Patterns, "a")));
        assert_eq!(asked("subscribe"), Some((Names::Channels, "")));
        assert_eq!(asked("get/subscribe"), None);
        assert_eq!(asked("ssubscribe/a"), None);
    }
}
