//! The admin door: flags, rollback, status, mismatches, jobs, probes and metrics, for operators and their machines.
//!
//! It stands on a port of its own, so that it can be closed to the application and stays answerable while the data door
//! is busy. [`ofrep`] tells applications which store a key is read from, and [`pages`] lets web pages ask for that alone, and
//! the page of [`console`] for everything.
//! [`route`] says what a path and a method ask for and which right that needs, [`input`], [`planned`] and [`query`] read what was sent,
//! [`answer`] writes what is returned; the engine decides everything.
//!
//! `/livez` and `/readyz` need no token, since a kubelet has none and they tell nothing; nor does `/console`, whose page asks
//! for one. Everything else, `/healthz` and
//! `/metrics` included, needs `viewer` where tokens are configured; where none is, the door listens on loopback only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time;

use crate::doors::admin::input::FlagMode;
use crate::doors::admin::pages::Pages;
use crate::doors::admin::query::Earnest;
use crate::doors::admin::route::{Action, Change, Report, Resource, Routes};
use crate::doors::guard::{Guard, OpenDoor, Role, Tokens};
use crate::doors::problem::{Problem, ProblemKind};
use crate::doors::server::{Handler, Request, Response, ServerLimits};
use crate::dual::Engine;
use crate::dual::flags::Actor;
use crate::jobs::{Jobs, Wish};
use crate::model::plan::Wish as PlanWish;
use crate::settings::AdminSettings;
use crate::telemetry::Metrics;
use crate::telemetry::labels::Door;
use crate::telemetry::traces::active::DoorSpan;

mod answer;
mod console;
mod input;
mod ofrep;
mod pages;
mod planned;
mod query;
mod route;
mod scrape;

/// How long a caller without the right waits for its refusal, so that guessing a token is slow.
const REFUSAL_DELAY_MS: u64 = 250;

/// How many refusals are delayed at one time. More are refused at once: they must not use up the door's connections,
/// which an operator needs for a rollback.
const REFUSALS_DELAYED_MAX: usize = 32;

/// What the admin door lets its clients have: less than the data door, since nothing here is big.
#[must_use]
pub fn limits() -> ServerLimits {
    ServerLimits { connections_max: 128, body_bytes_max: 64 * 1024, ..ServerLimits::default() }
}

/// The guard of an admin door that listens on `listen` with these settings. Without a token everybody on loopback is an
/// operator; nobody sees secrets.
///
/// # Errors
/// Without a token a door listens on loopback only.
pub fn guard(listen: SocketAddr, settings: &AdminSettings) -> Result<Guard, OpenDoor> {
    let tokens = [
        (Role::Viewer, &settings.viewer_tokens),
        (Role::Operator, &settings.operator_tokens),
        (Role::Secrets, &settings.secrets_tokens),
    ];
    let tokens = tokens.into_iter().flat_map(|(role, tokens)| tokens.iter().map(move |token| (role, token)));
    let tokens = tokens.fold(Tokens::default(), |all, (role, token)| all.with(role, token.expose_secret()));
    Guard::new(listen, &settings.hosts, tokens, Role::Operator)
}

/// The admin door.
pub struct AdminDoor {
    engine: Arc<Engine>,
    jobs: Arc<Jobs>,
    guard: Guard,
    pages: Pages,
    metrics: Metrics,
    routes: Routes,
    refusals: Semaphore,
}

/// One request for an action, its caller's right known to suffice.
struct Asked<'a> {
    request: &'a Request,
    /// The kind or the id in the path; empty where the path has none.
    name: String,
    /// The kind of the record in the path; empty where the path has none.
    kind: String,
    role: Role,
}

impl Asked<'_> {
    fn actor(&self) -> Actor {
        Actor { who: self.role.name().to_owned(), origin: self.request.peer.to_string() }
    }
}

impl AdminDoor {
    /// A door to `engine`. Pages of `origins` may evaluate flags.
    #[must_use]
    pub fn new(engine: Arc<Engine>, jobs: Arc<Jobs>, guard: Guard, origins: &[String], metrics: Metrics) -> Self {
        let (routes, refusals) = (Routes::new(), Semaphore::new(REFUSALS_DELAYED_MAX));
        Self { engine, jobs, guard, pages: Pages::new(origins), metrics, routes, refusals }
    }

    async fn answer(&self, request: &Request) -> Result<Response, Problem> {
        let found = self.routes.find(request.path());
        let is_open = found.as_ref().is_some_and(|found| found.resource.is_open());
        let role = if is_open { Role::Viewer } else { self.role(request).await? };
        let found = found.ok_or_else(Problem::not_found)?;
        let action = found.resource.action(&request.method)?;
        if role < action.needs() {
            let detail = "this token may not do that";
            return Err(self.refused(request, Problem::new(ProblemKind::Forbidden, detail)).await);
        }
        let asked = Asked { request, name: found.name, kind: found.kind, role };
        match action {
            Action::Report(report) => self.report(report, &asked).await,
            Action::Change(change) => self.change(change, &asked).await,
        }
    }

    async fn role(&self, request: &Request) -> Result<Role, Problem> {
        match self.guard.role(&request.headers) {
            Ok(role) => Ok(role),
            Err(problem) => Err(self.refused(request, problem).await),
        }
    }

    /// Counts a refusal and holds it back for a moment.
    async fn refused(&self, request: &Request, problem: Problem) -> Problem {
        self.metrics.auth_failed(Door::Admin);
        if let Ok(_held) = self.refusals.try_acquire() {
            time::sleep(Duration::from_millis(REFUSAL_DELAY_MS)).await;
        }
        self.guard.refused(request.peer.ip(), problem)
    }

    async fn report(&self, report: Report, asked: &Asked<'_>) -> Result<Response, Problem> {
        match report {
            Report::Live => Ok(answer::text(StatusCode::OK, "live")),
            Report::Ready if self.engine.is_ready() => Ok(answer::text(StatusCode::OK, "ready")),
            Report::Ready => Ok(answer::text(StatusCode::SERVICE_UNAVAILABLE, "not ready")),
            Report::Console(file) => Ok(console::answer(file)),
            Report::Health => Ok(answer::health(&self.engine.health().await)),
            Report::Metrics => Ok(scrape::answer(&self.metrics, &asked.request.headers)),
            Report::Description => Ok(answer::description()),
            Report::Flags => answer::flags(&self.engine.flags()),
            Report::Flag => answer::flag(&self.engine.flags(), &asked.name),
            Report::FlagHistory => {
                answer::flag(&self.engine.flags(), &asked.name)?;
                let changes = self.engine.flag_history(&asked.name).await.map_err(answer::engine_problem)?;
                Ok(answer::json(StatusCode::OK, &json!({ "kind": asked.name, "changes": changes })))
            }
            Report::Fleet => {
                let fleet = self.engine.fleet().await.map_err(answer::engine_problem)?;
                Ok(answer::json(StatusCode::OK, &answer::value(&fleet)?))
            }
            Report::Plan => self.plan(&asked.name).await,
            Report::Plans => self.plans().await,
            Report::Decisions => self.decisions(&asked.name).await,
            Report::Explanation => self.explanation(asked.request.query()).await,
            Report::Status => Ok(answer::json(StatusCode::OK, &self.engine.status().await)),
            Report::Mismatches => {
                let page = query::mismatch_page(asked.request.query())?;
                let found = self.engine.mismatches(page.limit, page.kind.as_deref()).await;
                let found = found.map_err(answer::engine_problem)?;
                Ok(answer::json(StatusCode::OK, &json!({ "mismatches": answer::masked(found, asked.role) })))
            }
            Report::Ghosts => {
                let page = query::mismatch_page(asked.request.query())?;
                let found = self.engine.ghosts(page.limit, page.kind.as_deref()).await;
                let found = found.map_err(answer::engine_problem)?;
                Ok(answer::json(StatusCode::OK, &json!({ "ghosts": answer::masked(found, asked.role) })))
            }
            Report::Gaps => {
                let page = query::mismatch_page(asked.request.query())?;
                let gaps = self.engine.gaps(page.limit, page.kind.as_deref()).await.map_err(answer::engine_problem)?;
                let unproven = self.engine.unproven_kinds().await.map_err(answer::engine_problem)?;
                Ok(answer::json(StatusCode::OK, &json!({ "gaps": gaps, "unproven": unproven })))
            }
            Report::Jobs => {
                let jobs = self.jobs.all().await.map_err(answer::jobs_problem)?;
                let jobs = answer::value(&jobs)?;
                Ok(answer::json(StatusCode::OK, &json!({ "jobs": jobs })))
            }
            Report::Job => {
                let job = self.jobs.get(&asked.name).await.map_err(answer::jobs_problem)?;
                Ok(answer::json(StatusCode::OK, &answer::masked_job(answer::value(&job)?, asked.role)))
            }
            Report::Evaluation => {
                input::require_json(asked.request)?;
                Ok(ofrep::single(&self.engine, &asked.name, &asked.request.body))
            }
            Report::Evaluations => {
                input::require_json(asked.request)?;
                Ok(ofrep::bulk(&self.engine, &asked.request.headers, &asked.request.body))
            }
        }
    }

    async fn change(&self, change: Change, asked: &Asked<'_>) -> Result<Response, Problem> {
        match change {
            Change::ReplaceFlag => self.change_flag(asked, FlagMode::Replace).await,
            Change::PatchFlag => self.change_flag(asked, FlagMode::Patch).await,
            Change::PostPlan => {
                input::require_json(asked.request)?;
                let spec = planned::plan(&asked.request.body)?;
                let plan = self.engine.post_plan(&asked.name, spec, &asked.actor()).await;
                let plan = answer::value(&plan.map_err(answer::posting_problem)?)?;
                Ok(answer::json(StatusCode::CREATED, &plan))
            }
            Change::PromotePlan => self.wish_plan(asked, PlanWish::Promote).await,
            Change::PausePlan => self.wish_plan(asked, PlanWish::Pause).await,
            Change::ResumePlan => self.wish_plan(asked, PlanWish::Resume).await,
            Change::AbortPlan => self.wish_plan(asked, PlanWish::Abort).await,
            Change::Rollback => {
                let wish = input::rollback(&asked.request.body)?;
                let report = if wish.is_drill {
                    let report = self.engine.drill(&wish.scope, &wish.reason, &asked.actor()).await;
                    answer::value(&report.map_err(answer::scope_problem)?)?
                } else {
                    let report = self.engine.rollback(&wish.scope, wish.reason, asked.actor()).await;
                    answer::value(&report.map_err(answer::scope_problem)?)?
                };
                Ok(answer::json(StatusCode::OK, &report))
            }
            Change::StartJob => {
                input::require_json(asked.request)?;
                let spec = input::job(&asked.request.body)?;
                if spec.values && asked.role < Role::Secrets {
                    let detail =
                        "values are shown to the right `secrets` only; without `values` the same job tells ids";
                    return Err(Problem::new(ProblemKind::Forbidden, detail));
                }
                let started = self.jobs.begin(spec).await;
                Ok(answer::accepted(&started.map_err(answer::jobs_problem)?))
            }
            Change::MigrateRecord => {
                let migrated = async {
                    let (kind, key) = self.engine.record_named(&asked.kind, &asked.name)?;
                    self.engine.migrate(&kind, &key).await
                };
                let migrated = migrated.await.map_err(answer::task_problem)?;
                Ok(answer::json(StatusCode::OK, &answer::value(&migrated)?))
            }
            Change::PauseJob => self.wish(asked, Wish::Pause).await,
            Change::ResumeJob => self.wish(asked, Wish::Resume).await,
            Change::CancelJob => self.wish(asked, Wish::Cancel).await,
        }
    }

    async fn wish(&self, asked: &Asked<'_>, wish: Wish) -> Result<Response, Problem> {
        let job = self.jobs.wish(&asked.name, wish).await.map_err(answer::jobs_problem)?;
        Ok(answer::json(StatusCode::ACCEPTED, &answer::value(&job)?))
    }

    async fn plan(&self, name: &str) -> Result<Response, Problem> {
        let plan = self.engine.plan(name).await.map_err(answer::plan_problem)?;
        Ok(answer::json(StatusCode::OK, &answer::value(&plan)?))
    }

    async fn plans(&self) -> Result<Response, Problem> {
        let plans = self.engine.plan_reports().await.map_err(answer::plan_problem)?;
        Ok(answer::json(StatusCode::OK, &json!({ "plans": answer::value(&plans)? })))
    }

    async fn decisions(&self, name: &str) -> Result<Response, Problem> {
        let decisions = answer::value(&self.engine.decisions(name).await.map_err(answer::plan_problem)?)?;
        Ok(answer::json(StatusCode::OK, &json!({ "name": name, "decisions": decisions })))
    }

    async fn explanation(&self, query: &str) -> Result<Response, Problem> {
        let explained = self.engine.explain(&query::asked_key(query)?).await.map_err(answer::engine_problem)?;
        Ok(answer::json(StatusCode::OK, &answer::value(&explained)?))
    }

    async fn wish_plan(&self, asked: &Asked<'_>, wish: PlanWish) -> Result<Response, Problem> {
        input::require_json(asked.request)?;
        let reason = planned::plan_reason(&asked.request.body, wish)?;
        let plan = self.engine.wish_plan(&asked.name, wish, reason, &asked.actor()).await;
        Ok(answer::json(StatusCode::OK, &answer::value(&plan.map_err(answer::plan_problem)?)?))
    }

    async fn change_flag(&self, asked: &Asked<'_>, mode: FlagMode) -> Result<Response, Problem> {
        input::require_json(asked.request)?;
        let version = input::version(&asked.request.headers)?;
        let change = input::flag_change(&asked.request.body, mode)?;
        match query::earnest(asked.request.query())? {
            Earnest::Made => {}
            Earnest::Judged => {
                let preview = self.engine.preview_flag(&asked.name, &change, version).await;
                let preview = answer::value(&preview.map_err(answer::flag_problem)?)?;
                return Ok(answer::json(StatusCode::OK, &preview));
            }
        }
        let changed = self.engine.change_flag(&asked.name, change, version, asked.actor()).await;
        answer::flag(&changed.map_err(answer::flag_problem)?, &asked.name)
    }
}

impl Handler for AdminDoor {
    fn admit(&self, head: &Parts) -> Result<(), Problem> {
        // A kubelet asks by the pod's address and without a token, and a probe's answer is no secret.
        let resource = self.routes.find(head.uri.path()).map(|found| found.resource);
        if resource.is_some_and(Resource::is_open) {
            return Ok(());
        }
        self.pages.check_source(resource, &self.guard, head)
    }

    fn begin(&self, head: &Parts) -> DoorSpan {
        let traces = self.engine.traces();
        let found = if traces.is_on() { self.routes.find(head.uri.path()) } else { None };
        if found.as_ref().is_some_and(|found| found.resource.is_polled()) {
            return DoorSpan::default();
        }
        traces.door(Door::Admin, &head.method, found.map(|found| found.template), &head.headers)
    }

    async fn call(self: Arc<Self>, request: Request) -> Response {
        let resource = self.routes.find(request.path()).map(|found| found.resource);
        let mut response = match self.pages.preflight(resource, &request) {
            Some(response) => response,
            None => self.answer(&request).await.unwrap_or_else(Problem::into_response),
        };
        self.pages.open(resource, &request.headers, &mut response);
        response
    }

    fn answered(&self, status: StatusCode, took: Duration) {
        self.metrics.http_request(Door::Admin, status.as_u16(), took);
    }
}
