//! The records API: `/v1/records/{kind}/{id}` and the list `/v1/records/{kind}`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;

use crate::doors::http::headers::{self, Query};
use crate::doors::http::{DataDoor, documents};
use crate::doors::problem::{Problem, ProblemKind};
use crate::doors::server::{Request, Response};
use crate::dual::Source;
use crate::dual::records::{RecordBody, WriteOutcome, Written};
use crate::model::catalog::{Body, Kind};
use crate::model::key::Key;
use crate::model::text;

/// Records of one page of a list.
const PAGE_MAX: u64 = 1000;
/// Records of a page whose length the caller does not say.
const PAGE_USUAL: u64 = 100;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers a request below `/v1/records/`.
///
/// # Errors
/// The problem to answer with.
pub(super) async fn answer(door: &DataDoor, request: Request) -> Result<Response, Problem> {
    let path = request.uri.path().strip_prefix("/v1/records/").unwrap_or_default();
    let (kind, id) = match path.split_once('/') {
        Some((kind, id)) => (kind, Some(id)),
        None => (path, None),
    };
    let Some(kind) = percent_decode_str(kind).decode_utf8().ok().and_then(|name| door.catalog.by_name(&name)) else {
        return Err(Problem::new(ProblemKind::UnknownKind, "the catalog has no kind of this name"));
    };
    match id {
        None => list(door, kind, &request).await,
        Some(id) if id.contains('/') => Err(Problem::not_found()),
        Some(id) => record(door, kind, &key(kind, id)?, &request).await,
    }
}

async fn record(door: &DataDoor, kind: &Arc<Kind>, key: &Key, request: &Request) -> Result<Response, Problem> {
    match request.method {
        Method::GET | Method::HEAD => get(door, kind, key, request).await,
        Method::PUT if kind.body != Body::Any => put(door, kind, key, request).await,
        Method::PATCH if kind.body == Body::Hash => patch(door, kind, key, request).await,
        Method::DELETE => delete(door, kind, key, request).await,
        _ => Err(Problem::method_not_allowed(match kind.body {
            Body::Hash => "GET, HEAD, PUT, PATCH, DELETE",
            Body::Text => "GET, HEAD, PUT, DELETE",
            Body::Any => "GET, HEAD, DELETE",
        })),
    }
}

async fn get(door: &DataDoor, kind: &Arc<Kind>, key: &Key, request: &Request) -> Result<Response, Problem> {
    Query::new(request.query()).end("none")?;
    let view = door.engine.record_get(kind, key).await?.ok_or_else(no_record)?;
    let is_known = headers::has_already(&request.headers, &view.etag);
    let (body, media_type) = if is_known { (Bytes::new(), JSON) } else { documents::shown(&view.value) };
    let mut response = Response::new(body.into());
    let fields = response.headers_mut();
    if let Some(expires_at) = view.expires_at_ms.and_then(documents::timestamp)
        && let Ok(value) = HeaderValue::try_from(expires_at)
    {
        fields.insert("parallax-expires-at", value);
    }
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        fields.insert(header::CONTENT_TYPE, media_type);
    }
    headers::set_etag(&mut response, &view.etag);
    headers::set_source(&mut response, Some(view.source));
    Ok(response)
}

async fn put(door: &DataDoor, kind: &Arc<Kind>, key: &Key, request: &Request) -> Result<Response, Problem> {
    let ttl_seconds = only_ttl(request)?;
    let body = match kind.body {
        Body::Text => RecordBody::Text(documents::text(&request.headers, &request.body)?),
        Body::Hash | Body::Any => RecordBody::Hash(documents::hash(&request.headers, &request.body)?),
    };
    let precondition = headers::precondition(&request.headers)?;
    let ack = headers::ack(&request.headers)?;
    written(door.engine.record_put(kind, key, body, ttl_seconds, precondition, ack).await?)
}

async fn patch(door: &DataDoor, kind: &Arc<Kind>, key: &Key, request: &Request) -> Result<Response, Problem> {
    let ttl_seconds = only_ttl(request)?;
    let changes = documents::patch(&request.headers, &request.body)?;
    let precondition = headers::precondition(&request.headers)?;
    let ack = headers::ack(&request.headers)?;
    written(door.engine.record_patch(kind, key, changes, ttl_seconds, precondition, ack).await?)
}

async fn delete(door: &DataDoor, kind: &Arc<Kind>, key: &Key, request: &Request) -> Result<Response, Problem> {
    Query::new(request.query()).end("none")?;
    let precondition = headers::precondition(&request.headers)?;
    let ack = headers::ack(&request.headers)?;
    written(door.engine.record_delete(kind, key, precondition, ack).await?)
}

async fn list(door: &DataDoor, kind: &Arc<Kind>, request: &Request) -> Result<Response, Problem> {
    if ![Method::GET, Method::HEAD].contains(&request.method) {
        return Err(Problem::method_not_allowed("GET, HEAD"));
    }
    if !kind.is_mirrored() {
        return Err(Problem::new(ProblemKind::Conflict, "this kind lives in Redis alone: there is no list of it"));
    }
    let mut query = Query::new(request.query());
    let limit = query.number("limit", PAGE_MAX)?.unwrap_or(PAGE_USUAL);
    let after = query.text("after")?;
    query.end("limit, after")?;
    if let Some(after) = after.as_deref()
        && text::encode(&text::decode(after)) != after
    {
        // No page has named such an id, and Postgres would refuse a NUL in it.
        let detail = "after must be the `next` of the page before";
        return Err(Problem::new(ProblemKind::InvalidField, detail).with("field", "after"));
    }
    let limit = usize::try_from(limit).expect("a page is small");
    // One more than asked for, to know whether there is a next page.
    let records = door.engine.record_list(kind, after.as_deref(), limit + 1).await?;
    let mut response = Response::new(documents::page(&records, limit).into());
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    headers::set_source(&mut response, Some(Source::Postgres));
    Ok(response)
}

/// The key of an id in a path.
fn key(kind: &Kind, id: &str) -> Result<Key, Problem> {
    let invalid = |reason| Problem::new(ProblemKind::InvalidId, reason);
    let id = percent_decode_str(id)
        .decode_utf8()
        .map_err(|_| invalid("the id is no UTF-8: write other bytes as `\\x` and hex".to_owned()))?;
    let key = kind.key_of(&id).map_err(invalid)?;
    if key.is_control() {
        return Err(Problem::new(ProblemKind::ControlKey, "no door names the keys of Parallax itself"));
    }
    Ok(key)
}

fn only_ttl(request: &Request) -> Result<Option<u64>, Problem> {
    let mut query = Query::new(request.query());
    let ttl_seconds = query.ttl_seconds()?;
    query.end("ttl_seconds")?;
    Ok(ttl_seconds)
}

fn written(written: Written) -> Result<Response, Problem> {
    let status = match written.outcome {
        WriteOutcome::Created => StatusCode::CREATED,
        WriteOutcome::Replaced | WriteOutcome::Deleted => StatusCode::NO_CONTENT,
        WriteOutcome::Absent => return Err(no_record()),
        WriteOutcome::PreconditionFailed => {
            let detail = "the record is not the one that the precondition names; nothing was changed";
            return Err(Problem::new(ProblemKind::PreconditionFailed, detail));
        }
        WriteOutcome::WrongType(type_name) => {
            let detail = format!("Redis holds a {type_name} under this key; nothing was changed");
            return Err(Problem::new(ProblemKind::WrongType, detail));
        }
    };
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = status;
    if let Some(etag) = &written.etag {
        headers::set_etag(&mut response, etag);
    }
    headers::set_mirror(&mut response, written.mirror);
    Ok(response)
}

fn no_record() -> Problem {
    Problem::new(ProblemKind::NoRecord, "there is no record of this id")
}
