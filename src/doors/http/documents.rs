//! What records look like on the wire: the bodies that callers send, and those that they get.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::de::IgnoredAny;

use crate::doors::http::json::{Field, Scanner};
use crate::doors::http::{headers, reply};
use crate::doors::problem::{Problem, ProblemKind};
use crate::dual::records::ListedRecord;
use crate::model::value::Value;

const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The fields of a whole hash. The relay stores what is missing as an empty string, and so does a null here.
pub(super) fn hash(headers: &HeaderMap, body: &Bytes) -> Result<Vec<(Bytes, Bytes)>, Problem> {
    headers::require_json(headers)?;
    let fields = object(body)?;
    if fields.is_empty() {
        return Err(Problem::new(
            ProblemKind::InvalidField,
            "a record has at least one field; use DELETE to remove it",
        ));
    }
    let stored = |field| match field {
        Field::Value(value) => value,
        Field::Null => Bytes::new(),
    };
    Ok(fields.into_iter().map(|(name, field)| (name, stored(field))).collect())
}

/// The changes of a merge patch (RFC 7396): a null removes its field.
pub(super) fn patch(headers: &HeaderMap, body: &Bytes) -> Result<Vec<(Bytes, Option<Bytes>)>, Problem> {
    if headers::media_type(headers).as_deref() != Some(MERGE_PATCH) {
        return Err(headers::unsupported(MERGE_PATCH).with_header(ACCEPT_PATCH, HeaderValue::from_static(MERGE_PATCH)));
    }
    let fields = object(body)?;
    if fields.is_empty() {
        return Err(Problem::new(ProblemKind::InvalidField, "an empty patch changes nothing"));
    }
    let change = |field| match field {
        Field::Value(value) => Some(value),
        Field::Null => None,
    };
    Ok(fields.into_iter().map(|(name, field)| (name, change(field))).collect())
}

/// The text of a record, exactly as sent; JSON that is none is refused before it is stored.
pub(super) fn text(headers: &HeaderMap, body: &Bytes) -> Result<Bytes, Problem> {
    if matches!(headers::media_type(headers).as_deref(), None | Some("application/json"))
        && let Err(error) = serde_json::from_slice::<IgnoredAny>(body)
    {
        let detail = format!("line {}, column {}: this is not JSON", error.line(), error.column());
        return Err(Problem::new(ProblemKind::MalformedJson, detail)
            .with("line", error.line())
            .with("column", error.column()));
    }
    Ok(body.clone())
}

fn object(body: &Bytes) -> Result<Vec<(Bytes, Field)>, Problem> {
    let mut scanner = Scanner::new(body)?;
    let fields = scanner.object()?;
    scanner.end()?;
    Ok(fields)
}

/// The body and media type that show a value: a string as it is, everything else as its document.
pub(super) fn shown(value: &Value) -> (Bytes, HeaderValue) {
    match value {
        Value::String(bytes) if serde_json::from_slice::<IgnoredAny>(bytes).is_ok() => (bytes.clone(), JSON),
        Value::String(bytes) if std::str::from_utf8(bytes).is_ok() => {
            (bytes.clone(), HeaderValue::from_static("text/plain; charset=utf-8"))
        }
        Value::String(bytes) => (bytes.clone(), HeaderValue::from_static("application/octet-stream")),
        Value::Hash(_) | Value::List(_) | Value::Set(_) | Value::Zset(_) | Value::Stream(_) => {
            (Bytes::from(value.to_doc()), JSON)
        }
    }
}

/// `{"records":[{"id","value","expires_at"}..],"next"}`; `next` is the id to ask on after, or null on the last page.
pub(super) fn page(records: &[ListedRecord], limit: usize) -> Bytes {
    let shown = records.get(..limit).unwrap_or(records);
    let mut body = b"{\"records\":[".to_vec();
    for (index, record) in shown.iter().enumerate() {
        body.extend_from_slice(if index == 0 { b"{\"id\":" } else { b",{\"id\":" });
        reply::write_json_string(&mut body, &record.id);
        body.extend_from_slice(b",\"value\":");
        let doc = record.value.as_ref().map(Value::to_doc);
        body.extend_from_slice(doc.as_deref().unwrap_or("null").as_bytes());
        body.extend_from_slice(b",\"expires_at\":");
        write_nullable(&mut body, record.expires_at_ms.and_then(timestamp).as_deref());
        body.push(b'}');
    }
    body.extend_from_slice(b"],\"next\":");
    let next = shown.last().filter(|_| records.len() > limit);
    write_nullable(&mut body, next.map(|record| record.id.as_str()));
    body.push(b'}');
    Bytes::from(body)
}

fn write_nullable(body: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => reply::write_json_string(body, text),
        None => body.extend_from_slice(b"null"),
    }
}

/// Milliseconds since 1970 as an RFC 3339 time in UTC.
pub(super) fn timestamp(unix_ms: i64) -> Option<String> {
    Some(DateTime::<Utc>::from_timestamp_millis(unix_ms)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::header;
    use serde_json::json;

    use crate::model::key::Key;

    use super::*;

    fn sent_as(media_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))])
    }

    fn listed(id: &str, value: Option<Value>, expires_at_ms: Option<i64>) -> ListedRecord {
        ListedRecord { id: id.to_owned(), key: Key::new(id.to_owned()), expires_at_ms, value }
    }

    #[test]
    fn a_null_is_stored_empty_by_a_put_and_removes_its_field_in_a_patch() {
        let body = Bytes::from_static(b"{\"name\": null, \"limit\": 12}");
        let (name, limit) = (Bytes::from("name"), Bytes::from("limit"));
        let stored = hash(&HeaderMap::new(), &body).expect("fields");
        assert_eq!(stored, [(name.clone(), Bytes::new()), (limit.clone(), Bytes::from("12"))]);
        let changes = patch(&sent_as(MERGE_PATCH), &body).expect("changes");
        assert_eq!(changes, [(name, None), (limit, Some(Bytes::from("12")))]);
    }

    #[test]
    fn a_hash_without_fields_cannot_be_written() {
        let body = Bytes::from_static(b"{}");
        let put = hash(&HeaderMap::new(), &body).expect_err("refused");
        let patched = patch(&sent_as(MERGE_PATCH), &body).expect_err("refused");
        assert_eq!((put.kind(), patched.kind()), (ProblemKind::InvalidField, ProblemKind::InvalidField));
    }

    #[test]
    fn a_patch_says_that_it_is_a_merge_patch() {
        for headers in [HeaderMap::new(), sent_as("application/json"), sent_as("application/json-patch+json")] {
            let problem = patch(&headers, &Bytes::from_static(b"{\"a\":1}")).expect_err("refused");
            assert_eq!(problem.kind(), ProblemKind::UnsupportedMediaType);
            assert_eq!(problem.into_response().headers()["accept-patch"], MERGE_PATCH);
        }
    }

    #[test]
    fn a_text_is_kept_to_the_byte_and_checked_only_where_it_says_it_is_json() {
        let spaced = Bytes::from_static(b" {\"b\" : 1,\n \"a\": 1.0 } ");
        assert_eq!(text(&sent_as("application/json"), &spaced).expect("JSON"), spaced);
        let broken = Bytes::from_static(b"{\n\"a\":}");
        assert_eq!(text(&sent_as("text/plain"), &broken).expect("any text"), broken);
        for headers in [sent_as("application/json"), HeaderMap::new()] {
            let problem = text(&headers, &broken).expect_err("refused");
            assert_eq!(problem.kind(), ProblemKind::MalformedJson);
            assert!(problem.detail().starts_with("line 2, column 5"), "{problem:?}");
        }
    }

    #[test]
    fn a_string_is_shown_as_it_is_and_says_what_it_is() {
        for (bytes, media_type) in [
            (&b" {\"a\": 1} "[..], "application/json"),
            (b"hello", "text/plain; charset=utf-8"),
            (b"\xff", "application/octet-stream"),
        ] {
            let (body, shown_as) = shown(&Value::String(Bytes::from_static(bytes)));
            assert_eq!((&body[..], shown_as.as_bytes()), (bytes, media_type.as_bytes()));
        }
        let fields = BTreeMap::from([(Bytes::from("a"), Bytes::from_static(b"\xff"))]);
        assert_eq!(shown(&Value::Hash(fields)), (Bytes::from(r#"{"a":"\\xff"}"#), JSON));
    }

    #[test]
    fn a_page_names_the_next_one_only_if_there_is_one() {
        let fields = Value::Hash(BTreeMap::from([(Bytes::from("n"), Bytes::from("1"))]));
        let records = [
            listed("k\"1", Some(fields), None),
            listed("k2", Some(Value::String(Bytes::from("{}"))), Some(1_700_000_000_123)),
            listed("k3", None, None),
        ];
        let read = |page: Bytes| serde_json::from_slice::<serde_json::Value>(&page).expect("JSON");
        let first = json!({"id": "k\"1", "value": {"n": "1"}, "expires_at": null});
        let second = json!({"id": "k2", "value": "{}", "expires_at": "2023-11-14T22:13:20.123Z"});
        assert_eq!(read(page(&records, 1)), json!({"records": [&first], "next": "k\"1"}));
        let third = json!({"id": "k3", "value": null, "expires_at": null});
        assert_eq!(read(page(&records, 3)), json!({"records": [&first, &second, &third], "next": null}));
        assert_eq!(read(page(&[], 2)), json!({"records": [], "next": null}));
    }
}
