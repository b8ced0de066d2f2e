//! The HTTP data door: records and Redis commands over HTTP.
//!
//! Two ways in, for two kinds of callers: [`records`] is resources with entity tags for whoever writes new code, [`commands`]
//! is any Redis command in the form that Upstash's REST clients send, for whoever has code already.

pub mod arguments;
pub mod reply;

mod commands;
mod documents;
mod events;
mod headers;
mod json;
mod records;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use secrecy::ExposeSecret;

use crate::doors::guard::{Guard, OpenDoor, Role, Tokens};
use crate::doors::http::arguments::CommandLimits;
use crate::doors::problem::{Problem, ProblemKind};
use crate::doors::server::{Handler, Request, Response, ServerLimits};
use crate::dual::Engine;
use crate::model::catalog::Catalog;
use crate::settings::{DoorSettings, Limits};
use crate::telemetry::labels::Door;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::active::DoorSpan;

/// The longest that a subscription is silent: a proxy between here and the client may take a longer silence for an end.
const STREAM_PAUSE_MS: u64 = 15_000;

/// What the data door lets its clients have.
#[must_use]
pub fn limits(limits: &Limits) -> ServerLimits {
    ServerLimits {
        connections_max: limits.connections_max,
        header_timeout_ms: limits.header_timeout_ms,
        header_bytes_max: limits.header_bytes_max,
        body_timeout_ms: limits.body_timeout_ms,
        body_bytes_max: limits.body_bytes_max,
        idle_timeout_ms: limits.idle_timeout_ms,
        write_timeout_ms: limits.write_timeout_ms,
        stream_pause_ms: STREAM_PAUSE_MS,
        drain_timeout_ms: limits.drain_deadline_ms,
    }
}

/// The guard of a data door with these settings: each of its tokens opens all of it.
///
/// # Errors
/// Without a token a door listens on loopback only.
pub fn guard(settings: &DoorSettings) -> Result<Guard, OpenDoor> {
    let tokens =
        settings.tokens.iter().fold(Tokens::default(), |all, token| all.with(Role::Operator, token.expose_secret()));
    Guard::new(settings.listen, &settings.hosts, tokens, Role::Operator)
}

/// The data door.
pub struct DataDoor {
    engine: Arc<Engine>,
    catalog: Arc<Catalog>,
    guard: Guard,
    limits: CommandLimits,
    metrics: Metrics,
}

impl DataDoor {
    /// A door to `engine`, open to whoever `guard` gives at least the role [`Role::Operator`].
    pub fn new(
        engine: Arc<Engine>,
        catalog: Arc<Catalog>,
        guard: Guard,
        limits: CommandLimits,
        metrics: Metrics,
    ) -> Self {
        Self { engine, catalog, guard, limits, metrics }
    }

    async fn route(&self, request: Request) -> Result<Response, Problem> {
        let path = request.path();
        if let Some(rest) = path.strip_prefix("/redis")
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return commands::answer(self, request).await;
        }
        if path.starts_with("/v1/records/") {
            return records::answer(self, request).await;
        }
        Err(Problem::not_found())
    }
}

/// What a path of this door is an instance of: the name that its spans have, since a path may hold keys and values.
fn template(path: &str) -> Option<&'static str> {
    if let Some(rest) = path.strip_prefix("/redis") {
        return match rest {
            "" | "/" => Some("/redis"),
            "/pipeline" => Some("/redis/pipeline"),
            "/multi-exec" => Some("/redis/multi-exec"),
            rest => rest.starts_with('/').then_some("/redis/{command}"),
        };
    }
    match path.strip_prefix("/v1/records/")?.split_once('/') {
        None => Some("/v1/records/{kind}"),
        Some(_) => Some("/v1/records/{kind}/{id}"),
    }
}

impl Handler for DataDoor {
    fn admit(&self, head: &Parts) -> Result<(), Problem> {
        self.guard.admit(head, Role::Operator).map(drop).inspect_err(|problem| {
            if problem.kind() == ProblemKind::Unauthorized {
                self.metrics.auth_failed(Door::Http);
            }
        })
    }

    fn begin(&self, head: &Parts) -> DoorSpan {
        self.engine.traces().door(Door::Http, &head.method, template(head.uri.path()), &head.headers)
    }

    async fn call(self: Arc<Self>, request: Request) -> Response {
        self.route(request).await.unwrap_or_else(Problem::into_response)
    }

    fn refuse(&self, head: &Parts, problem: Problem) -> Response {
        commands::for_path(head.uri.path(), problem).into_response()
    }

    fn answered(&self, status: StatusCode, took: Duration) {
        self.metrics.http_request(Door::Http, status.as_u16(), took);
    }
}
