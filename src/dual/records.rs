//! The records API's work: a record as a whole, with an `ETag`, a precondition and a time to live.

use std::sync::Arc;

use bytes::Bytes;
use sha1_smol::Sha1;

use crate::dual::plan::{MirroredTouch, Step};
use crate::dual::view::View;
use crate::dual::{Engine, EngineError, Mirror, Options, Source};
use crate::model::catalog::Kind;
use crate::model::command::effect::{Presence, Touch, Touched};
use crate::model::flag::Ack;
use crate::model::key::Key;
use crate::model::reply::Reply;
use crate::model::value::Value;
use crate::stores::postgres::read;
pub use crate::stores::postgres::read::ListedRecord;
use crate::stores::redis::{fence, script};
use crate::telemetry::labels::{RouteReason, Store};

/// A record as it is shown.
#[derive(Clone, Debug)]
pub struct RecordView {
    /// Its value.
    pub value: Value,
    /// Its expiry, in milliseconds since the epoch.
    pub expires_at_ms: Option<i64>,
    /// The digest of its value in canonical form.
    pub etag: String,
    /// Who answered.
    pub source: Source,
}

/// What is written.
#[derive(Clone, Debug)]
pub enum RecordBody {
    /// Fields and values of a hash.
    Hash(Vec<(Bytes, Bytes)>),
    /// A string, verbatim.
    Text(Bytes),
}

/// What must hold of a record before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// It has this `ETag`.
    Match(String),
    /// It is there.
    Any,
    /// It is not there.
    Absent,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The record is new.
    Created,
    /// It was there, and is replaced or changed.
    Replaced,
    /// It is deleted.
    Deleted,
    /// It was not there.
    Absent,
    /// The precondition does not hold; the `ETag` says what does.
    PreconditionFailed,
    /// It is of this other Redis type.
    WrongType(String),
}

/// The answer to a write.
#[derive(Clone, Debug)]
pub struct Written {
    /// What became of it.
    pub outcome: WriteOutcome,
    /// The `ETag` of what is there now.
    pub etag: Option<String>,
    /// How far it has come.
    pub mirror: Option<Mirror>,
}

impl Engine {
    /// Reads a record, from the store that its flag names.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn record_get(&self, kind: &Kind, key: &Key) -> Result<Option<RecordView>, EngineError> {
        let view = self.keeper.view();
        let keys = std::slice::from_ref(key);
        let command =
            crate::model::command::Command::new([Bytes::from_static(b"TYPE"), Bytes::copy_from_slice(key.as_bytes())]);
        self.sample(&view, &command, keys);
        if self.may_read_postgres(&view, &command, keys) {
            let deadline = std::time::Duration::from_millis(view.flag(kind).deadline_ms);
            let asked = tokio::time::timeout(deadline, self.records_behind_fence(&self.path, &view, keys, None)).await;
            let asked = asked.unwrap_or(Err(RouteReason::Deadline));
            self.note_health(keys, asked.as_ref().err().copied());
            match asked {
                Ok((_, mut records)) if self.keeper.has_lease() => {
                    self.metrics.read_routed(&kind.name, Store::Postgres, RouteReason::Live);
                    return Ok(records.pop().map(|record| RecordView {
                        etag: etag(&record.value),
                        value: record.value,
                        expires_at_ms: record.expires_at_ms,
                        source: Source::Postgres,
                    }));
                }
                Ok(_) => self.metrics.read_routed(&kind.name, Store::Redis, RouteReason::NoLease),
                Err(reason) => self.metrics.read_routed(&kind.name, Store::Redis, reason),
            }
        } else {
            self.note_redis_read(&view, &command, keys);
        }
        let (look, _) = self
            .traces
            .redis_script("look")
            .run(fence::look(&self.looks, &kind.name, key))
            .await
            .map_err(EngineError::of_a_read)?;
        Ok(look.value.map(|value| RecordView {
            value,
            expires_at_ms: look.expires_at_ms,
            etag: look.etag,
            source: Source::Redis,
        }))
    }

    /// Replaces a record, or makes it.
    ///
    /// # Errors
    /// When Redis cannot be reached or the outcome is unknown.
    pub async fn record_put(
        &self,
        kind: &Arc<Kind>,
        key: &Key,
        body: RecordBody,
        ttl_seconds: Option<u64>,
        precondition: Precondition,
        ack: Option<Ack>,
    ) -> Result<Written, EngineError> {
        let (type_name, values) = match body {
            RecordBody::Hash(fields) => {
                ("hash", fields.into_iter().flat_map(|(field, value)| [field, value]).collect())
            }
            RecordBody::Text(text) => ("string", vec![text]),
        };
        self.record_write(kind, key, ["put", type_name], ttl_seconds, &precondition, values, ack).await
    }

    /// Changes fields of a hash; `None` takes a field away. A record that is not there stays so.
    ///
    /// # Errors
    /// As [`Self::record_put`].
    pub async fn record_patch(
        &self,
        kind: &Arc<Kind>,
        key: &Key,
        fields: Vec<(Bytes, Option<Bytes>)>,
        ttl_seconds: Option<u64>,
        precondition: Precondition,
        ack: Option<Ack>,
    ) -> Result<Written, EngineError> {
        let triple = |(field, value): (Bytes, Option<Bytes>)| {
            let sign = Bytes::from_static(if value.is_some() { b"=" } else { b"-" });
            [sign, field, value.unwrap_or_default()]
        };
        let values = fields.into_iter().flat_map(triple).collect();
        self.record_write(kind, key, ["patch", "hash"], ttl_seconds, &precondition, values, ack).await
    }

    /// Deletes a record.
    ///
    /// # Errors
    /// As [`Self::record_put`].
    pub async fn record_delete(
        &self,
        kind: &Arc<Kind>,
        key: &Key,
        precondition: Precondition,
        ack: Option<Ack>,
    ) -> Result<Written, EngineError> {
        self.record_write(kind, key, ["delete", ""], None, &precondition, Vec::new(), ack).await
    }

    #[expect(clippy::too_many_arguments, reason = "each is a part of one request, and nobody else calls this")]
    async fn record_write(
        &self,
        kind: &Arc<Kind>,
        key: &Key,
        [what, type_name]: [&str; 2],
        ttl_seconds: Option<u64>,
        precondition: &Precondition,
        values: Vec<Bytes>,
        ack: Option<Ack>,
    ) -> Result<Written, EngineError> {
        let view = self.keeper.view();
        let condition = match precondition {
            Precondition::None => "",
            Precondition::Match(etag) => etag,
            Precondition::Any => "*",
            Precondition::Absent => "!",
        };
        let ttl = ttl_seconds.map(|seconds| seconds.saturating_mul(1000).to_string()).unwrap_or_default();
        let mut args: Vec<&[u8]> = vec![what.as_bytes(), type_name.as_bytes(), condition.as_bytes(), ttl.as_bytes()];
        args.extend(values.iter().map(AsRef::as_ref));
        let step = self.record_step(&view, kind, key, script::RECORD.eval(&[key.as_bytes()], &args));
        let touched = [step.touches.clone()];
        let frame = self.submit(&self.path.batcher, vec![step]).await?.pop();
        let (outcome, etag) = outcome(&frame.map_or(Reply::Nil, |frame| frame.decode()))?;
        let is_done = matches!(outcome, WriteOutcome::Created | WriteOutcome::Replaced | WriteOutcome::Deleted);
        // A write that changed nothing waits for nobody.
        let options = Options { ack: if is_done { ack } else { Some(Ack::Redis) }, atomic: false };
        let mirror = self.mirrored(&view, &touched, options, false).await?.pop().flatten();
        Ok(Written { outcome, etag, mirror: mirror.filter(|_| is_done) })
    }

    fn record_step(&self, view: &View, kind: &Arc<Kind>, key: &Key, command: crate::model::command::Command) -> Step {
        let touch = Touch { key: key.clone(), presence: Presence::Unsure, touched: Touched::Whole };
        let is_marked = self.is_marked(view, key);
        let touches = is_marked.then(|| MirroredTouch { touch, kind: Arc::clone(kind) }).into_iter().collect();
        Step { command, touches }
    }

    /// Live records of a kind by id, after `after`, as Postgres holds them; collections and logs without their elements.
    ///
    /// # Errors
    /// When Postgres cannot be reached.
    pub async fn record_list(
        &self,
        kind: &Kind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ListedRecord>, EngineError> {
        let postgres = self.postgres_or_error()?;
        let now_ms = chrono::Utc::now().timestamp_millis();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let span = self.traces.postgres("SELECT", Some(kind.table.name()), 1);
        span.run(read::list(postgres, kind, after.unwrap_or_default(), limit, now_ms))
            .await
            .map_err(|error| EngineError::PostgresUnavailable(error.to_string()))
    }
}

fn outcome(reply: &Reply) -> Result<(WriteOutcome, Option<String>), EngineError> {
    let text = |reply: Option<&Reply>| match reply {
        Some(Reply::Bulk(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    if let Some(error) = reply.error() {
        return Err(EngineError::RedisUnreachable(error.to_owned()));
    }
    let unexpected = || EngineError::UnknownOutcome("redis answered in an unexpected form".to_owned());
    let parts = reply.as_array().ok_or_else(unexpected)?;
    let (word, detail) = (text(parts.first()), text(parts.get(1)));
    let outcome = match word.as_str() {
        "created" => WriteOutcome::Created,
        "replaced" => WriteOutcome::Replaced,
        "deleted" => WriteOutcome::Deleted,
        "absent" => WriteOutcome::Absent,
        "wrongtype" => return Ok((WriteOutcome::WrongType(detail), None)),
        _ => WriteOutcome::PreconditionFailed,
    };
    Ok((outcome, Some(detail).filter(|etag| !etag.is_empty())))
}

/// The digest of a value in canonical form, the same as the scripts compute.
///
/// Parts are prefixed with their lengths; where order does not count their digests are sorted.
#[must_use]
pub fn etag(value: &Value) -> String {
    let part = |bytes: &[u8]| [bytes.len().to_string().as_bytes(), b":", bytes].concat();
    let pair = |one: &[u8], two: &[u8]| [part(one), part(two)].concat();
    let mut parts: Vec<Vec<u8>> = match value {
        Value::String(bytes) => vec![part(bytes)],
        Value::Hash(fields) => fields.iter().map(|(field, value)| pair(field, value)).collect(),
        Value::Zset(members) => members.iter().map(|(member, score)| pair(member, score.text())).collect(),
        Value::List(items) => items.iter().map(|item| part(item)).collect(),
        Value::Set(members) => members.iter().map(|member| part(member)).collect(),
        Value::Stream(entries) => {
            entries.iter().flat_map(|(id, parts)| std::iter::once(id).chain(parts)).map(|bytes| part(bytes)).collect()
        }
    };
    if matches!(value, Value::Hash(_) | Value::Zset(_) | Value::Set(_)) {
        parts.iter_mut().for_each(|part| *part = Sha1::from(&part).digest().to_string().into_bytes());
        parts.sort();
    }
    let mut digest = Sha1::from(value.type_name());
    digest.update(b"|");
    parts.iter().for_each(|part| digest.update(part));
    digest.digest().to_string()
}
