//! What web pages may do here: nothing, but for evaluating flags from the origins that were configured (CORS); and the console,
//! which this door serves itself, what its token may.
//!
//! A page's request bears an `Origin`, and the guard refuses those. `OpenFeature`'s provider for browsers cannot work without
//! one, so an operator can name origins; then the paths of the evaluation, and no others, answer them and their preflights.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use crate::doors::admin::route::Resource;
use crate::doors::guard::Guard;
use crate::doors::problem::Problem;
use crate::doors::server::{Request, Response};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How long a browser may keep what a preflight has said.
const PREFLIGHT_SECONDS: &str = "600";

/// What the answers to pages say beside what everybody is told.
const PREFLIGHT: [(HeaderName, &str); 3] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, if-none-match"),
    (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS),
];

/// The origins whose pages may evaluate flags.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    origins: Vec<String>,
}

impl Pages {
    pub(super) fn new(origins: &[String]) -> Self {
        Self { origins: origins.to_vec() }
    }

    /// Whether a request may come from where it comes from.
    ///
    /// # Errors
    /// As [`Guard::check_source`].
    pub(super) fn check_source(&self, resource: Option<Resource>, guard: &Guard, head: &Parts) -> Result<(), Problem> {
        match self.allowed(resource, &head.headers) {
            Some(_) => guard.check_host(head),
            None if is_of_our_own_page(&head.headers) => guard.check_host(head),
            None => guard.check_source(head),
        }
    }

    /// The answer to a browser that asks what a page may do; it has no token to show. Nothing for any other request.
    pub(super) fn preflight(&self, resource: Option<Resource>, request: &Request) -> Option<Response> {
        self.allowed(resource, &request.headers)?;
        if request.method != Method::OPTIONS || !request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = Response::new(Bytes::new().into());
        *response.status_mut() = StatusCode::NO_CONTENT;
        for (name, value) in PREFLIGHT {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        Some(response)
    }

    /// Lets the page that asked read the answer, whatever it is.
    pub(super) fn open(&self, resource: Option<Resource>, asked: &HeaderMap, response: &mut Response) {
        if !resource.is_some_and(Resource::is_for_pages) || self.origins.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.allowed(resource, asked) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("etag"));
        }
    }

    fn allowed<'a>(&self, resource: Option<Resource>, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        resource.filter(|resource| resource.is_for_pages())?;
        let mut asked = headers.get_all(header::ORIGIN).iter();
        let (Some(origin), None) = (asked.next(), asked.next()) else { return None };
        self.origins.iter().any(|known| origin == known.as_str()).then_some(origin)
    }
}

/// Whether a page that this very door has served sends it: its origin is the host that it asks for, and the browser says so.
/// The console is the only page there is, and whether the host is ours is looked at as for everybody.
fn is_of_our_own_page(headers: &HeaderMap) -> bool {
    let only = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            (Some(_), Some(_)) | (None, _) => None,
        }
    };
    let (Some(origin), Some(host)) = (only(&header::ORIGIN), only(&header::HOST)) else { return false };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority == Some(host) && only(&SEC_FETCH_SITE) == Some("same-origin")
}

#[cfg(test)]
mod tests {
    use http::Request as HttpRequest;

    use super::*;
    use crate::doors::guard::{Role, Tokens};
    use crate::doors::problem::ProblemKind;

    const ORIGIN: &str = "https://app.example";

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = HttpRequest::builder().uri("/").header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn refusal(pages: &Pages, resource: Resource, headers: &[(&str, &str)]) -> Option<ProblemKind> {
        let guard = Guard::new("127.0.0.1:1".parse().unwrap(), &[], Tokens::default(), Role::Operator).unwrap();
        pages.check_source(Some(resource), &guard, &head(headers)).err().map(|problem| problem.kind())
    }

    #[test]
    fn a_page_of_a_named_origin_evaluates_flags_and_does_nothing_else() {
        let pages = Pages::new(&[ORIGIN.to_owned()]);
        let page = [("origin", ORIGIN), ("sec-fetch-site", "cross-site")];
        assert_eq!(refusal(&pages, Resource::Evaluation, &page), None);
        assert_eq!(refusal(&pages, Resource::Evaluations, &page), None);
        for resource in [Resource::Flags, Resource::Flag, Resource::Rollback, Resource::Jobs, Resource::Metrics] {
            assert_eq!(refusal(&pages, resource, &page), Some(ProblemKind::ForeignOrigin), "{resource:?}");
        }
    }

    #[test]
    fn the_console_that_this_door_has_served_may_ask_for_everything_and_no_page_that_looks_like_it() {
        let site = |value| ("sec-fetch-site", value);
        let own = [("origin", "http://localhost"), site("same-origin")];
        assert_eq!(refusal(&Pages::default(), Resource::Rollback, &own), None);
        let behind_tls = [("origin", "https://localhost"), site("same-origin")];
        assert_eq!(refusal(&Pages::default(), Resource::Flag, &behind_tls), None);
        for page in [
            [("origin", "http://localhost"), site("same-site")],
            [("origin", "http://localhost"), site("cross-site")],
            [("origin", "http://localhost:8080"), site("same-origin")],
            [("origin", "http://evil.example"), site("same-origin")],
            [("origin", "null"), site("same-origin")],
            [("origin", "http://localhost"), ("origin", "http://localhost")],
        ] {
            assert_eq!(
                refusal(&Pages::default(), Resource::Rollback, &page),
                Some(ProblemKind::ForeignOrigin),
                "{page:?}"
            );
        }
    }

    #[test]
    fn every_other_page_is_refused() {
        let foreign = Some(ProblemKind::ForeignOrigin);
        let pages = Pages::new(&[ORIGIN.to_owned()]);
        for origin in ["https://app.example.evil", "http://app.example", "https://app.example:8443", "null", ""] {
            assert_eq!(refusal(&pages, Resource::Evaluations, &[("origin", origin)]), foreign, "{origin}");
        }
        let twice = [("origin", ORIGIN), ("origin", "https://evil.example")];
        assert_eq!(refusal(&pages, Resource::Evaluations, &twice), foreign);
        assert_eq!(refusal(&Pages::default(), Resource::Evaluations, &[("origin", ORIGIN)]), foreign);
    }

    #[test]
    fn a_named_origin_does_not_make_a_foreign_host_ours() {
        let pages = Pages::new(&[ORIGIN.to_owned()]);
        let guard = Guard::new("127.0.0.1:1".parse().unwrap(), &[], Tokens::default(), Role::Operator).unwrap();
        let mut head = head(&[("origin", ORIGIN)]);
        head.headers.insert(header::HOST, HeaderValue::from_static("rebound.example"));
        let refused = pages.check_source(Some(Resource::Evaluations), &guard, &head).unwrap_err();
        assert_eq!(refused.kind(), ProblemKind::ForeignHost);
    }

    #[test]
    fn a_page_of_a_host_that_is_not_ours_is_none_of_ours() {
        let guard = Guard::new("127.0.0.1:1".parse().unwrap(), &[], Tokens::default(), Role::Operator).unwrap();
        let mut head = head(&[("origin", "http://rebound.example"), ("sec-fetch-site", "same-origin")]);
        head.headers.insert(header::HOST, HeaderValue::from_static("rebound.example"));
        let refused = Pages::default().check_source(Some(Resource::Rollback), &guard, &head).unwrap_err();
        assert_eq!(refused.kind(), ProblemKind::ForeignHost);
    }
}
