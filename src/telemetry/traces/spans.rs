//! Every span that there is: its name, kind and attributes, by OpenTelemetry's conventions for HTTP and databases where
//! they have a word, else below `parallax.`.
//!
//! What stands in an attribute comes from our own code, the settings, the catalog or the server's table of commands. No
//! method here takes a value, and of a key only its hash is shown.

use http::{HeaderMap, Method};
use opentelemetry::trace::{Link, SpanBuilder, SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue};

use crate::model::key::Key;
use crate::model::text;
use crate::settings::{PostgresSettings, RedisSettings};
use crate::telemetry::labels::{Compared, Door, Label, MismatchClass, RouteReason, Store};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::active::{ActiveSpan, DoorSpan};
use crate::telemetry::traces::{Inner, Origin, Traces, context};

/// How commands of a caller are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// As they are, one or several in a pipeline.
    Plain,
    /// In one EXEC, because a mark goes with them or the caller asked for it.
    Exec,
}

/// A change of flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagWork {
    /// One flag.
    Change,
    /// Reads taken back to Redis.
    Rollback,
}

pub(super) fn redis_server(settings: &RedisSettings) -> Vec<KeyValue> {
    server("redis", settings.database.to_string(), &settings.host, settings.port)
}

pub(super) fn postgres_server(settings: &PostgresSettings) -> Vec<KeyValue> {
    server("postgresql", settings.database.clone(), &settings.host, settings.port)
}

fn server(system: &'static str, namespace: String, host: &str, port: u16) -> Vec<KeyValue> {
    vec![
        KeyValue::new("db.system.name", system),
        KeyValue::new("db.namespace", namespace),
        KeyValue::new("server.address", host.to_owned()),
        KeyValue::new("server.port", i64::from(port)),
    ]
}

impl Traces {
    /// A request at a door. `route` is the template that its path matches, never the path.
    pub fn door(&self, door: Door, method: &Method, route: Option<&'static str>, headers: &HeaderMap) -> DoorSpan {
        let Some(inner) = &self.0 else { return DoorSpan::default() };
        // A method that is none could be any text.
        let known =
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
        let known = known.into_iter().find(|known| known == method);
        let (shown, named) = known.as_ref().map_or(("_OTHER", "HTTP"), |known| (known.as_str(), known.as_str()));
        let mut attributes = vec![
            KeyValue::new("http.request.method", shown.to_owned()),
            KeyValue::new("url.scheme", "http"),
            KeyValue::new("parallax.door", door.name()),
        ];
        attributes.extend(route.map(|route| KeyValue::new("http.route", route)));
        let name = route.map_or_else(|| named.to_owned(), |route| format!("{named} {route}"));
        let builder = span(name, SpanKind::Server, attributes);
        DoorSpan::new(ActiveSpan::begin(inner, builder, context::of_request(headers)))
    }

    /// Commands of a client at the Redis door, whose protocol has no place for a context: the first span of a trace. `names`
    /// are theirs, of commands that the server knows.
    pub fn commands(&self, names: &[&str]) -> ActiveSpan {
        let Some(inner) = &self.0 else { return ActiveSpan::default() };
        let common = names.first().filter(|first| names.iter().all(|name| name == *first)).copied();
        let prefix = if names.len() > 1 { Some("PIPELINE") } else { None };
        let name = [prefix, common].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let mut attributes = vec![
            KeyValue::new("parallax.door", Door::Resp.name()),
            KeyValue::new("db.system.name", "redis"),
            KeyValue::new("db.operation.name", name.clone()),
        ];
        attributes.extend(batch(names.len()));
        ActiveSpan::begin(inner, span(name, SpanKind::Server, attributes), Context::new())
    }

    /// Commands of a caller on their way to Redis. `names` are theirs, of commands that the server knows.
    pub fn redis(&self, sent: Sent, names: &[String], kind: Option<&str>) -> ActiveSpan {
        self.inside(|inner| {
            let prefix = match (sent, names) {
                (Sent::Exec, _) => Some("MULTI"),
                (Sent::Plain, [_]) => None,
                (Sent::Plain, _) => Some("PIPELINE"),
            };
            let common = names.first().filter(|first| names.iter().all(|name| name == *first)).map(String::as_str);
            let operation = [prefix, common].into_iter().flatten().collect::<Vec<_>>().join(" ");
            let mut attributes = inner.redis.clone();
            attributes.push(KeyValue::new("db.operation.name", operation.clone()));
            attributes.extend(batch(names.len()));
            attributes.extend(kind.map(of_kind));
            span(operation, SpanKind::Client, attributes)
        })
    }

    /// One of our own scripts in Redis.
    pub fn redis_script(&self, name: &'static str) -> ActiveSpan {
        self.inside(|inner| {
            let mut attributes = inner.redis.clone();
            attributes.push(KeyValue::new("db.operation.name", "EVALSHA"));
            attributes.push(KeyValue::new("db.stored_procedure.name", name));
            span(format!("EVALSHA {name}"), SpanKind::Client, attributes)
        })
    }

    /// A statement in Postgres, on one of our tables where it is about one, with `rows` rows.
    pub fn postgres(&self, operation: &'static str, table: Option<&'static str>, rows: usize) -> ActiveSpan {
        self.inside(|inner| {
            let summary = [Some(operation), table].into_iter().flatten().collect::<Vec<_>>().join(" ");
            let mut attributes = inner.postgres.clone();
            attributes.push(KeyValue::new("db.operation.name", operation));
            attributes.push(KeyValue::new("db.query.summary", summary.clone()));
            attributes.extend(table.map(|table| KeyValue::new("db.collection.name", table)));
            attributes.extend(batch(rows));
            span(summary, SpanKind::Client, attributes)
        })
    }

    /// A read that Postgres may answer: the fence, the rows, and Redis where they may not be believed.
    pub fn read(&self, kind: Option<&str>) -> ActiveSpan {
        self.inside(|_| span("read", SpanKind::Internal, kind.map(of_kind).into_iter().collect()))
    }

    /// A comparison of one record, for the read that began in `origin`.
    pub fn compare(&self, kind: &str, origin: &Origin) -> ActiveSpan {
        let (Some(inner), Some(origin)) = (&self.0, &origin.0) else { return ActiveSpan::default() };
        let parent = Context::new().with_remote_span_context(origin.clone());
        ActiveSpan::begin(inner, span("compare", SpanKind::Internal, vec![of_kind(kind)]), parent)
    }

    /// A proven mismatch: always kept, in a trace of its own that links to the read and to its comparison, and that the metric
    /// of mismatches points to.
    pub fn mismatch(&self, metrics: &Metrics, kind: &str, class: MismatchClass, key: &Key, origin: &Origin) {
        let Some(inner) = &self.0 else { return };
        let attributes = vec![
            of_kind(kind),
            KeyValue::new("parallax.mismatch.class", class.name()),
            KeyValue::new("parallax.key.hash", text::hex(&key.hash())),
        ];
        let comparison = self.origin();
        let linked = [origin, &comparison].into_iter().filter_map(|origin| origin.0.clone());
        let mut links: Vec<Link> = linked.map(Link::with_context).collect();
        links.dedup_by(|one, other| one.span_context == other.span_context);
        let builder = span("mismatch", SpanKind::Internal, attributes).with_links(links);
        let mut span = ActiveSpan::keep(inner, builder);
        if let Some(kept) = span.origin().0 {
            metrics.mismatch_traced(kind, class, &kept);
        }
        span.end();
    }

    /// A round of the drain: kept if one of the writes that it settles is, or if it fails.
    pub fn apply<'a>(&self, records: usize, mut origins: impl Iterator<Item = &'a Origin>) -> ActiveSpan {
        let Some(inner) = &self.0 else { return ActiveSpan::default() };
        let attributes = vec![KeyValue::new("parallax.records", i64::try_from(records).unwrap_or(i64::MAX))];
        let builder = span("apply", SpanKind::Internal, attributes);
        if origins.any(Origin::is_sampled) {
            ActiveSpan::keep(inner, builder)
        } else {
            ActiveSpan::keep_if_it_fails(inner, builder, Context::new())
        }
    }

    /// A collection that an apply brings to Postgres as a whole, chunk by chunk.
    pub fn whole(&self, kind: &str) -> ActiveSpan {
        self.inside(|_| span("apply whole", SpanKind::Internal, vec![of_kind(kind)]))
    }

    /// The apply that the caller works in has settled the writes that began in `origins`, and links to them.
    pub fn settled(&self, origins: &[Origin]) {
        if self.is_on() && origins.iter().any(Origin::is_sampled) {
            Context::map_current(|context| {
                for origin in origins.iter().filter(|origin| origin.is_sampled()).filter_map(|origin| origin.0.clone())
                {
                    context.span().add_link(origin, Vec::new());
                }
            });
        }
    }

    /// A change of flags. `scope` is a kind of the catalog or `*`.
    pub fn flags(&self, work: FlagWork, scope: &str) -> ActiveSpan {
        let Some(inner) = &self.0 else { return ActiveSpan::default() };
        let name = match work {
            FlagWork::Change => "flag change",
            FlagWork::Rollback => "rollback",
        };
        let attributes = vec![KeyValue::new("parallax.flag.scope", scope.to_owned())];
        ActiveSpan::begin(inner, span(name, SpanKind::Internal, attributes), Context::current())
    }

    /// A chunk of a job.
    pub fn job_chunk(&self, job: &'static str) -> ActiveSpan {
        let Some(inner) = &self.0 else { return ActiveSpan::default() };
        let attributes = vec![KeyValue::new("parallax.job", job)];
        ActiveSpan::begin(inner, span("job chunk", SpanKind::Internal, attributes), Context::current())
    }

    /// A span inside another one. Where there is none, nothing: work in the background is no trace for itself.
    fn inside(&self, builder: impl FnOnce(&Inner) -> SpanBuilder) -> ActiveSpan {
        let Some(inner) = &self.0 else { return ActiveSpan::default() };
        let parent = Context::current();
        if !parent.has_active_span() {
            return ActiveSpan::default();
        }
        ActiveSpan::begin(inner, builder(inner), parent)
    }
}

impl ActiveSpan {
    /// Which store answered the read, and why that one.
    pub fn routed(&mut self, store: Store, reason: RouteReason) {
        let store = KeyValue::new("parallax.read.store", store.name());
        self.set([store, KeyValue::new("parallax.read.reason", reason.name())]);
    }

    /// What the comparison came to.
    pub fn compared(&mut self, verdict: Compared) {
        self.set([KeyValue::new("parallax.verdict", verdict.name())]);
    }

    /// The version that the flags have now.
    pub fn flags_version(&mut self, version: u64) {
        self.set([KeyValue::new("parallax.flags.version", i64::try_from(version).unwrap_or(i64::MAX))]);
    }

    /// The error that Redis answered a command with.
    pub fn answered_with(&mut self, error: &str) {
        let prefix = redis_error(error);
        self.set([KeyValue::new("db.response.status_code", prefix)]);
        self.fail(prefix);
    }
}

fn span(name: impl Into<std::borrow::Cow<'static, str>>, kind: SpanKind, attributes: Vec<KeyValue>) -> SpanBuilder {
    SpanBuilder::from_name(name).with_kind(kind).with_attributes(attributes)
}

fn of_kind(kind: &str) -> KeyValue {
    KeyValue::new("parallax.kind", kind.to_owned())
}

/// The size of a batch; one operation is none.
fn batch(size: usize) -> Option<KeyValue> {
    (size > 1).then(|| KeyValue::new("db.operation.batch.size", i64::try_from(size).unwrap_or(i64::MAX)))
}

/// The prefix of a Redis error. A script of the caller may answer with any text, so only Redis' own prefixes are shown.
fn redis_error(error: &str) -> &'static str {
    const PREFIXES: [&str; 17] = [
        "ERR",
        "WRONGTYPE",
        "OOM",
        "NOSCRIPT",
        "BUSY",
        "BUSYKEY",
        "BUSYGROUP",
        "NOGROUP",
        "READONLY",
        "EXECABORT",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "UNKILLABLE",
    ];
    let prefix = error.split(' ').next().unwrap_or_default();
    PREFIXES.into_iter().find(|known| *known == prefix).unwrap_or("_OTHER")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_error_that_a_caller_may_have_written_nothing_is_shown() {
        assert_eq!(redis_error("WRONGTYPE Operation against a key"), "WRONGTYPE");
        assert_eq!(redis_error("S3CRET"), "_OTHER");
        assert_eq!(redis_error(""), "_OTHER");
    }

    #[tokio::test]
    async fn where_traces_are_off_there_is_no_span_and_no_origin() {
        let traces = Traces::default();
        let span = traces.door(Door::Http, &Method::GET, Some("/redis"), &HeaderMap::new());
        let inside = async { (Context::current().has_active_span(), traces.origin().0) };
        assert_eq!(span.within(inside).await, (false, None));
        let mut headers = HeaderMap::new();
        span.answered(500, &mut headers);
        assert!(headers.is_empty());
    }
}
