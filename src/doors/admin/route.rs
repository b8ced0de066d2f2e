//! What a path and a method ask for, and which right that needs.
//!
//! A little over 400 lines, since each path stands in every list.

use http::Method;
use matchit::Router;
use percent_encoding::percent_decode_str;

use crate::doors::admin::console::ConsoleFile;
use crate::doors::guard::Role;
use crate::doors::problem::Problem;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Live,
    Ready,
    Console(ConsoleFile),
    Health,
    Metrics,
    Description,
    Flags,
    Flag,
    FlagHistory,
    Plan,
    PromotePlan,
    PausePlan,
    ResumePlan,
    AbortPlan,
    Decisions,
    Plans,
    Fleet,
    Explanation,
    Rollback,
    Status,
    Mismatches,
    Ghosts,
    Gaps,
    MigrateRecord,
    Jobs,
    Job,
    PauseJob,
    ResumeJob,
    CancelJob,
    Evaluation,
    Evaluations,
}

/// What stands where. Each path and its methods are described in openapi.json; a test holds both to each other.
const PATHS: [(&str, Resource); 33] = [
    ("/livez", Resource::Live),
    ("/readyz", Resource::Ready),
    ("/console", Resource::Console(ConsoleFile::Page)),
    ("/console.js", Resource::Console(ConsoleFile::Script)),
    ("/console.css", Resource::Console(ConsoleFile::Style)),
    ("/healthz", Resource::Health),
    ("/metrics", Resource::Metrics),
    ("/openapi.json", Resource::Description),
    ("/v1/flags", Resource::Flags),
    ("/v1/flags/{name}", Resource::Flag),
    ("/v1/flags/{name}/history", Resource::FlagHistory),
    ("/v1/flags/{name}/plan", Resource::Plan),
    ("/v1/flags/{name}/plan/promote", Resource::PromotePlan),
    ("/v1/flags/{name}/plan/pause", Resource::PausePlan),
    ("/v1/flags/{name}/plan/resume", Resource::ResumePlan),
    ("/v1/flags/{name}/plan/abort", Resource::AbortPlan),
    ("/v1/flags/{name}/decisions", Resource::Decisions),
    ("/v1/plans", Resource::Plans),
    ("/v1/fleet", Resource::Fleet),
    ("/v1/routing/explain", Resource::Explanation),
    ("/v1/rollback", Resource::Rollback),
    ("/v1/status", Resource::Status),
    ("/v1/mismatches", Resource::Mismatches),
    ("/v1/ghosts", Resource::Ghosts),
    ("/v1/gaps", Resource::Gaps),
    ("/v1/records/{kind}/{name}/migrate", Resource::MigrateRecord),
    ("/v1/jobs", Resource::Jobs),
    ("/v1/jobs/{name}", Resource::Job),
    ("/v1/jobs/{name}/pause", Resource::PauseJob),
    ("/v1/jobs/{name}/resume", Resource::ResumeJob),
    ("/v1/jobs/{name}/cancel", Resource::CancelJob),
    ("/ofrep/v1/evaluate/flags/{name}", Resource::Evaluation),
    ("/ofrep/v1/evaluate/flags", Resource::Evaluations),
];

/// What a caller wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// To see something.
    Report(Report),
    /// To change something.
    Change(Change),
}

/// What can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    Live,
    Ready,
    Console(ConsoleFile),
    Health,
    Metrics,
    Description,
    Flags,
    Flag,
    FlagHistory,
    Plan,
    Plans,
    Decisions,
    Fleet,
    Explanation,
    Status,
    Mismatches,
    Ghosts,
    Gaps,
    Jobs,
    Job,
    Evaluation,
    Evaluations,
}

/// What can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    ReplaceFlag,
    PatchFlag,
    PostPlan,
    PromotePlan,
    PausePlan,
    ResumePlan,
    AbortPlan,
    Rollback,
    StartJob,
    MigrateRecord,
    PauseJob,
    ResumeJob,
    CancelJob,
}

/// A resource and the name in its path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) resource: Resource,
    /// The kind of a flag or the id of a job; empty elsewhere.
    pub(super) name: String,
    /// The path without the name in it.
    pub(super) template: &'static str,
    /// The kind of a record; empty elsewhere.
    pub(super) kind: String,
}

/// The paths of the door.
pub(super) struct Routes(Router<(&'static str, Resource)>);

impl Routes {
    pub(super) fn new() -> Self {
        let mut router = Router::new();
        for (path, resource) in PATHS {
            router.insert(path, (path, resource)).expect("the paths above do not overlap");
        }
        Self(router)
    }

    /// What stands at `path`, which is still percent-encoded.
    pub(super) fn find(&self, path: &str) -> Option<Found> {
        let matched = self.0.at(path).ok()?;
        let part = |name| {
            let encoded = matched.params.get(name).unwrap_or_default();
            let text = percent_decode_str(encoded).decode_utf8().ok()?.into_owned();
            // No kind, id or job has such a name, and Postgres takes no NUL in a text.
            (!text.contains('\0')).then_some(text)
        };
        let (template, resource) = *matched.value;
        Some(Found { resource, name: part("name")?, kind: part("kind")?, template })
    }
}

impl Resource {
    /// Whether it is answered without a token.
    pub(super) fn is_open(self) -> bool {
        match self {
            Self::Live | Self::Ready | Self::Console(_) => true,
            Self::Health
            | Self::Metrics
            | Self::Description
            | Self::Flags
            | Self::Flag
            | Self::FlagHistory
            | Self::Plan
            | Self::PromotePlan
            | Self::PausePlan
            | Self::ResumePlan
            | Self::AbortPlan
            | Self::Decisions
            | Self::Plans
            | Self::Fleet
            | Self::Explanation
            | Self::Rollback
            | Self::Status
            | Self::Mismatches
            | Self::Ghosts
            | Self::Gaps
            | Self::MigrateRecord
            | Self::Jobs
            | Self::Job
            | Self::PauseJob
            | Self::ResumeJob
            | Self::CancelJob
            | Self::Evaluation
            | Self::Evaluations => false,
        }
    }

    /// Whether pages of the configured origins may ask for it: what `OpenFeature`'s providers in browsers need, and no more.
    pub(super) fn is_for_pages(self) -> bool {
        match self {
            Self::Evaluation | Self::Evaluations => true,
            Self::Live
            | Self::Console(_)
            | Self::Ready
            | Self::Health
            | Self::Metrics
            | Self::Description
            | Self::Flags
            | Self::Flag
            | Self::FlagHistory
            | Self::Plan
            | Self::PromotePlan
            | Self::PausePlan
            | Self::ResumePlan
            | Self::AbortPlan
            | Self::Decisions
            | Self::Plans
            | Self::Fleet
            | Self::Explanation
            | Self::Rollback
            | Self::Status
            | Self::Mismatches
            | Self::Ghosts
            | Self::Gaps
            | Self::MigrateRecord
            | Self::Jobs
            | Self::Job
            | Self::PauseJob
            | Self::ResumeJob
            | Self::CancelJob => false,
        }
    }

    /// Whether machines ask for it all the time, so that a span of each time would bury all others.
    pub(super) fn is_polled(self) -> bool {
        self.is_open() || self == Self::Health || self == Self::Metrics
    }

    /// What `method` does here.
    ///
    /// # Errors
    /// 405 with the methods that are known.
    pub(super) fn action(self, method: &Method) -> Result<Action, Problem> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let reads = |report| match *method {
            Method::GET => Ok(Action::Report(report)),
            _ => Err(Problem::method_not_allowed("GET, HEAD")),
        };
        let posts = |change| match *method {
            Method::POST => Ok(Action::Change(change)),
            _ => Err(Problem::method_not_allowed("POST")),
        };
        let asks = |report| match *method {
            Method::POST => Ok(Action::Report(report)),
            _ => Err(Problem::method_not_allowed("POST")),
        };
        match self {
            Self::Live => reads(Report::Live),
            Self::Ready => reads(Report::Ready),
            Self::Console(file) => reads(Report::Console(file)),
            Self::Health => reads(Report::Health),
            Self::Metrics => reads(Report::Metrics),
            Self::Description => reads(Report::Description),
            Self::Flags => reads(Report::Flags),
            Self::FlagHistory => reads(Report::FlagHistory),
            Self::Plan => match *method {
                Method::GET => Ok(Action::Report(Report::Plan)),
                Method::POST => Ok(Action::Change(Change::PostPlan)),
                _ => Err(Problem::method_not_allowed("GET, HEAD, POST")),
            },
            Self::PromotePlan => posts(Change::PromotePlan),
            Self::PausePlan => posts(Change::PausePlan),
            Self::ResumePlan => posts(Change::ResumePlan),
            Self::AbortPlan => posts(Change::AbortPlan),
            Self::Decisions => reads(Report::Decisions),
            Self::Plans => reads(Report::Plans),
            Self::Fleet => reads(Report::Fleet),
            Self::Explanation => reads(Report::Explanation),
            Self::Status => reads(Report::Status),
            Self::Mismatches => reads(Report::Mismatches),
            Self::Ghosts => reads(Report::Ghosts),
            Self::Gaps => reads(Report::Gaps),
            Self::MigrateRecord => posts(Change::MigrateRecord),
            Self::Job => reads(Report::Job),
            // A question too long for a query: it changes nothing.
            Self::Evaluation => asks(Report::Evaluation),
            Self::Evaluations => asks(Report::Evaluations),
            Self::Flag => match *method {
                Method::GET => Ok(Action::Report(Report::Flag)),
                Method::PUT => Ok(Action::Change(Change::ReplaceFlag)),
                Method::PATCH => Ok(Action::Change(Change::PatchFlag)),
                _ => Err(Problem::method_not_allowed("GET, HEAD, PUT, PATCH")),
            },
            Self::Rollback => posts(Change::Rollback),
            Self::PauseJob => posts(Change::PauseJob),
            Self::ResumeJob => posts(Change::ResumeJob),
            Self::CancelJob => posts(Change::CancelJob),
            Self::Jobs => match *method {
                Method::GET => Ok(Action::Report(Report::Jobs)),
                Method::POST => Ok(Action::Change(Change::StartJob)),
                _ => Err(Problem::method_not_allowed("GET, HEAD, POST")),
            },
        }
    }
}

impl Action {
    /// The right it needs.
    pub(super) fn needs(self) -> Role {
        match self {
            Self::Report(_) => Role::Viewer,
            Self::Change(_) => Role::Operator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::problem::ProblemKind;

    fn action(method: &str, path: &str) -> Result<(Action, String), ProblemKind> {
        let found = Routes::new().find(path).ok_or(ProblemKind::NotFound)?;
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        found.resource.action(&method).map(|action| (action, found.name)).map_err(|problem| problem.kind())
    }

    #[test]
    fn a_path_and_a_method_say_what_is_asked() {
        for (method, path, expected, name) in [
            ("GET", "/livez", Action::Report(Report::Live), ""),
            ("HEAD", "/readyz", Action::Report(Report::Ready), ""),
            ("GET", "/console", Action::Report(Report::Console(ConsoleFile::Page)), ""),
            ("GET", "/v1/flags", Action::Report(Report::Flags), ""),
            ("GET", "/v1/flags/apikey", Action::Report(Report::Flag), "apikey"),
            ("GET", "/v1/fleet", Action::Report(Report::Fleet), ""),
            ("GET", "/v1/routing/explain", Action::Report(Report::Explanation), ""),
            ("PUT", "/v1/flags/apikey", Action::Change(Change::ReplaceFlag), "apikey"),
            ("PATCH", "/v1/flags/%2A", Action::Change(Change::PatchFlag), "*"),
            ("PATCH", "/v1/flags/*", Action::Change(Change::PatchFlag), "*"),
            ("GET", "/v1/flags/apikey/history", Action::Report(Report::FlagHistory), "apikey"),
            ("GET", "/v1/flags/auth/plan", Action::Report(Report::Plan), "auth"),
            ("POST", "/v1/flags/auth/plan", Action::Change(Change::PostPlan), "auth"),
            ("POST", "/v1/flags/auth/plan/promote", Action::Change(Change::PromotePlan), "auth"),
            ("POST", "/v1/flags/auth/plan/abort", Action::Change(Change::AbortPlan), "auth"),
            ("GET", "/v1/flags/auth/decisions", Action::Report(Report::Decisions), "auth"),
            ("POST", "/v1/rollback", Action::Change(Change::Rollback), ""),
            ("POST", "/v1/jobs", Action::Change(Change::StartJob), ""),
            ("POST", "/v1/records/apikey/a%2Fb/migrate", Action::Change(Change::MigrateRecord), "a/b"),
            ("GET", "/v1/ghosts", Action::Report(Report::Ghosts), ""),
            ("GET", "/v1/gaps", Action::Report(Report::Gaps), ""),
            ("POST", "/v1/jobs/7/pause", Action::Change(Change::PauseJob), "7"),
            ("POST", "/v1/jobs/7/resume", Action::Change(Change::ResumeJob), "7"),
            ("POST", "/v1/jobs/7/cancel", Action::Change(Change::CancelJob), "7"),
            ("GET", "/v1/jobs/7", Action::Report(Report::Job), "7"),
            ("POST", "/ofrep/v1/evaluate/flags", Action::Report(Report::Evaluations), ""),
            ("POST", "/ofrep/v1/evaluate/flags/*", Action::Report(Report::Evaluation), "*"),
        ] {
            assert_eq!(action(method, path), Ok((expected, name.to_owned())), "{method} {path}");
        }
    }

    #[test]
    fn the_description_has_every_path_and_method_and_no_other() {
        let description: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let described = description["paths"].as_object().unwrap();
        for (path, resource) in PATHS {
            let item = described.get(path).unwrap_or_else(|| panic!("{path} is not described"));
            for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
                let name = method.to_lowercase();
                let is_served = resource.action(&method.parse().unwrap()).is_ok();
                assert_eq!(is_served, item.get(&name).is_some(), "{method} {path}");
                let security = item.get(&name).and_then(|operation| operation.get("security"));
                assert_eq!(security.is_some(), is_served && resource.is_open(), "the token of {method} {path}");
            }
        }
        assert!(described.keys().all(|path| PATHS.iter().any(|(known, _)| known == path)), "{:?}", described.keys());
    }

    #[test]
    fn what_is_not_there_is_404_and_what_cannot_be_done_is_405() {
        for path in [
            "/",
            "/v1",
            "/v1/flags/",
            "/v1/flags/apikey/",
            "/v1/flags/%ff",
            "/v1/jobs/%00",
            "/v2/flags",
            "/v1/rollback/apikey",
        ] {
            assert_eq!(action("GET", path), Err(ProblemKind::NotFound), "{path}");
        }
        for (method, path) in [("POST", "/metrics"), ("DELETE", "/v1/flags/apikey"), ("GET", "/v1/rollback")] {
            assert_eq!(action(method, path), Err(ProblemKind::MethodNotAllowed), "{method} {path}");
        }
    }
}
