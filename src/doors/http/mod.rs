//! The HTTP data door: records and Redis commands over HTTP.
//!
//! Two ways in, for two kinds of callers: [`records`] is resources with entity tags for whoever writes new code, [`commands`]
//! is any Redis command in the form that Upstash's REST clients send, for whoever has code already.

pub mod arguments;
pub mod reply;

mod commands;
mod documents;
mod headers;
mod json;
mod records;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;

use crate::doors::guard::{Guard, Role};
use crate::doors::http::arguments::CommandLimits;
use crate::doors::problem::{Problem, ProblemKind};
use crate::doors::server::{Handler, Request, Response};
use crate::dual::Engine;
use crate::model::catalog::Catalog;
use crate::telemetry::labels::Door;
use crate::telemetry::metrics::Metrics;

/// The data door.
pub struct DataDoor {
    engine: Arc<Engine>,
    catalog: Arc<Catalog>,
    guard: Guard,
    limits: CommandLimits,
    metrics: Metrics,
}

impl DataDoor {
    /// A door to `engine`. Every token that `guard` knows opens all of it, if its role is [`Role::Operator`] or above.
    pub fn new(
        engine: Arc<Engine>,
        catalog: Arc<Catalog>,
        guard: Guard,
        limits: CommandLimits,
        metrics: Metrics,
    ) -> Self {
        Self {
            engine,
            catalog,
            guard,
            limits,
            metrics,
        }
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

impl Handler for DataDoor {
    fn admit(&self, head: &Parts) -> Result<(), Problem> {
        self.guard.admit(head, Role::Operator).map(drop).inspect_err(|problem| {
            if problem.kind() == ProblemKind::Unauthorized {
                self.metrics.auth_failed(Door::Http);
            }
        })
    }

    async fn call(self: Arc<Self>, request: Request) -> Response {
        self.route(request).await.unwrap_or_else(Problem::into_response)
    }

    fn answered(&self, status: StatusCode, took: Duration) {
        self.metrics.http_request(Door::Http, status.as_u16(), took);
    }
}
