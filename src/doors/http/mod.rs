//! The HTTP data door: records and Redis commands over HTTP.
//!
//! Two ways in, for two kinds of callers: [`records`] is resources with entity tags for whoever writes new code, [`commands`]
//! is any Redis command in the form that Upstash's REST clients send, for whoever has code already.

pub mod arguments;
pub mod reply;

pub(super) mod headers;

mod commands;
mod documents;
mod events;
mod json;
mod records;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use matchit::Router;
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

/// What stands at a path; the rest of the path belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Area {
    Commands,
    Records,
    Description,
}

/// What stands where. Everything below is described in openapi.json; a test holds both to each other.
const PATHS: [(&str, Area); 6] = [
    ("/redis", Area::Commands),
    ("/redis/", Area::Commands),
    ("/redis/{*rest}", Area::Commands),
    ("/v1/records/", Area::Records),
    ("/v1/records/{*rest}", Area::Records),
    ("/openapi.json", Area::Description),
];

fn routes() -> Router<Area> {
    let mut router = Router::new();
    for (path, area) in PATHS {
        router.insert(path, area).expect("the paths above do not overlap");
    }
    router
}

/// The data door.
pub struct DataDoor {
    engine: Arc<Engine>,
    catalog: Arc<Catalog>,
    guard: Guard,
    limits: CommandLimits,
    metrics: Metrics,
    routes: Router<Area>,
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
        Self { engine, catalog, guard, limits, metrics, routes: routes() }
    }

    async fn route(&self, request: Request) -> Result<Response, Problem> {
        let area = self.routes.at(request.path()).map(|found| *found.value);
        match area.map_err(|_| Problem::not_found())? {
            Area::Commands => commands::answer(self, request).await,
            Area::Records => records::answer(self, request).await,
            Area::Description => description(&request),
        }
    }
}

/// What this door understands and answers, as `OpenAPI` 3.1.
fn description(request: &Request) -> Result<Response, Problem> {
    if ![Method::GET, Method::HEAD].contains(&request.method) {
        return Err(Problem::method_not_allowed("GET, HEAD"));
    }
    let mut response = Response::new(Bytes::from_static(include_bytes!("openapi.json")).into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
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
        let admitted = self.guard.admit(head, Role::Operator).map(drop);
        admitted.map_err(|problem| {
            if !matches!(problem.kind(), ProblemKind::Unauthorized | ProblemKind::Forbidden) {
                return problem;
            }
            self.metrics.auth_failed(Door::Http);
            match head.extensions.get::<SocketAddr>() {
                Some(peer) => self.guard.refused(peer.ip(), problem),
                None => problem,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::problem::ProblemKind;

    #[test]
    fn every_area_is_described_and_everything_described_is_an_area() {
        let description: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let described: Vec<&String> = description["paths"].as_object().unwrap().keys().collect();
        let mut seen = Vec::new();
        for path in described {
            let found = routes();
            let found = found.at(path).unwrap_or_else(|_| panic!("nothing stands at {path}"));
            seen.push(*found.value);
        }
        assert!(PATHS.iter().all(|(path, area)| seen.contains(area) || panic!("{path} is not described")));
    }

    #[test]
    fn both_descriptions_name_every_problem() {
        let types: Vec<String> =
            ProblemKind::ALL.iter().map(|kind| format!("urn:parallax:problem:{}", kind.slug())).collect();
        for description in [include_str!("openapi.json"), include_str!("../admin/openapi.json")] {
            let description: serde_json::Value = serde_json::from_str(description).unwrap();
            let named = &description["components"]["schemas"]["Problem"]["properties"]["type"]["enum"];
            assert_eq!(*named, serde_json::json!(types));
        }
    }
}
