//! Who may come in through an HTTP door: bearer tokens, and nobody whom a web page has sent.
//!
//! A browser reaches loopback too. A page on any site could make it send requests here, so whatever bears the marks of
//! a browser, or asks for a host that is not ours (DNS rebinding), is refused before anything else is looked at.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::time::Instant;

use crate::doors::problem::{Problem, ProblemKind};
use crate::doors::refusals::Refusals;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a caller may do; each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads; credential fields are masked.
    Viewer,
    /// Changes flags, starts jobs; on the data door: everything.
    Operator,
    /// Sees credential fields too.
    Secrets,
}

impl Role {
    /// The name in audit rows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Secrets => "secrets",
        }
    }
}

/// The tokens of one door. Only their hashes are kept, so that no dump and no `Debug` shows one.
#[derive(Clone, Default)]
pub struct Tokens {
    hashes: Vec<(Role, [u8; 32])>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.hashes.len())
    }
}

impl Tokens {
    /// The same tokens and one more.
    #[must_use]
    pub fn with(mut self, role: Role, token: &str) -> Self {
        self.hashes.push((role, Sha256::digest(token.as_bytes()).into()));
        self
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The highest role of `token`. Every hash is compared to its end, so that time tells nothing.
    #[must_use]
    pub fn role_of(&self, token: &str) -> Option<Role> {
        let presented: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found: Option<Role> = None;
        for (role, hash) in &self.hashes {
            let is_same: Choice = hash.ct_eq(&presented);
            if bool::from(is_same) {
                found = found.max(Some(*role));
            }
        }
        found
    }
}

/// A door may not be opened like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{listen} is not a loopback address, and no token is configured: set one, or listen on 127.0.0.1")]
pub struct OpenDoor {
    /// The address that was asked for.
    pub listen: SocketAddr,
}

/// The guard of one door.
#[derive(Clone, Debug)]
pub struct Guard {
    listen: IpAddr,
    names: Vec<String>,
    tokens: Tokens,
    without_token: Role,
    refusals: Arc<Refusals>,
}

impl Guard {
    /// The guard of a door that listens on `listen`. `names` are the host names, beside `localhost`, by which clients
    /// may call it; `without_token` is the role of everybody where no token is configured.
    ///
    /// # Errors
    /// Without a token a door listens on loopback only.
    pub fn new(listen: SocketAddr, names: &[String], tokens: Tokens, without_token: Role) -> Result<Self, OpenDoor> {
        if tokens.is_empty() && !listen.ip().is_loopback() {
            return Err(OpenDoor { listen });
        }
        let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Self { listen: listen.ip(), names, tokens, without_token, refusals: Arc::default() })
    }

    /// Whether the request may come from where it comes from; says nothing about tokens.
    ///
    /// # Errors
    /// 403 for a request that a web page has sent, or that asks for a foreign host; 400 for one without a host.
    pub fn check_source(&self, head: &Parts) -> Result<(), Problem> {
        let is_cross_site =
            head.headers.get(SEC_FETCH_SITE).is_some_and(|site| !matches!(site.as_bytes(), b"none" | b"same-origin"));
        if head.headers.contains_key(header::ORIGIN) || is_cross_site {
            return Err(Problem::new(ProblemKind::ForeignOrigin, "requests from web pages are refused"));
        }
        self.check_host(head)
    }

    /// Whether the request asks for a host that is ours; says nothing about who has sent it.
    ///
    /// # Errors
    /// 403 for a foreign host; 400 for a request without one.
    pub fn check_host(&self, head: &Parts) -> Result<(), Problem> {
        // The target's authority, where there is one, outranks the header (RFC 9112, 3.2.2); neither may be foreign.
        let mut hosts = head.headers.get_all(header::HOST).iter();
        let named = match (hosts.next(), hosts.next(), head.uri.authority()) {
            (Some(host), None, _) => host.to_str().ok(),
            (None, _, Some(_)) => None,
            (None, _, None) | (Some(_), Some(_), _) => {
                return Err(Problem::new(ProblemKind::BadRequest, "a request needs exactly one Host header"));
            }
        };
        let is_ours = match (named, head.uri.authority()) {
            (Some(host), None) => self.is_ours(host),
            (Some(host), Some(authority)) => self.is_ours(host) && self.is_ours(authority.as_str()),
            (None, Some(authority)) => !head.headers.contains_key(header::HOST) && self.is_ours(authority.as_str()),
            (None, None) => false,
        };
        if is_ours {
            return Ok(());
        }
        let detail = "the Host is neither the address this door listens on nor a name it was given";
        Err(Problem::new(ProblemKind::ForeignHost, detail))
    }

    /// The role of the caller.
    ///
    /// # Errors
    /// 401, without saying what was wrong with the token.
    pub fn role(&self, headers: &HeaderMap) -> Result<Role, Problem> {
        if self.tokens.is_empty() {
            return Ok(self.without_token);
        }
        bearer(headers)
            .and_then(|token| self.tokens.role_of(token))
            .ok_or_else(|| Problem::new(ProblemKind::Unauthorized, "send `Authorization: Bearer <token>`"))
    }

    /// The role of a caller who comes from where it may and has at least the role `needed`.
    ///
    /// # Errors
    /// As [`Guard::check_source`] and [`Guard::role`], and 403 for a role below `needed`.
    pub fn admit(&self, head: &Parts, needed: Role) -> Result<Role, Problem> {
        self.check_source(head)?;
        let role = self.role(&head.headers)?;
        if role < needed {
            return Err(Problem::new(ProblemKind::Forbidden, "this token may not do that"));
        }
        Ok(role)
    }

    /// The answer to a caller from `peer` who is refused for his token: the problem, or 429 where that happened too often lately.
    #[must_use]
    pub fn refused(&self, peer: IpAddr, problem: Problem) -> Problem {
        match self.refusals.note(peer, Instant::now()) {
            None => problem,
            Some(wait) => {
                let seconds = HeaderValue::from(wait.as_secs().saturating_add(1));
                Problem::new(ProblemKind::TooManyRefusals, "too many requests were refused; try again later")
                    .with_header(header::RETRY_AFTER, seconds)
            }
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = host_name(host);
        if let Ok(address) = name.parse::<IpAddr>() {
            // Rebinding needs a name. An address in the Host is the address that was dialled, so behind a wildcard
            // listener each of the machine's own is fine.
            return address.is_loopback() || self.listen.is_unspecified() || address == self.listen;
        }
        name.eq_ignore_ascii_case("localhost") || self.names.iter().any(|ours| name.eq_ignore_ascii_case(ours))
    }
}

/// The host without its port: `[::1]:80` is `::1`.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(address, _)| address);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn guard(listen: &str, tokens: Tokens) -> Guard {
        let names = ["parallax.internal".to_owned()];
        Guard::new(listen.parse().expect("an address"), &names, tokens, Role::Operator).expect("may open")
    }

    fn token() -> Tokens {
        Tokens::default().with(Role::Viewer, "look").with(Role::Secrets, "all")
    }

    fn refusal(guard: &Guard, uri: &str, headers: &[(&str, &str)]) -> Option<ProblemKind> {
        guard.check_source(&head(uri, headers)).err().map(|problem| problem.kind())
    }

    #[test]
    fn without_a_token_only_loopback_is_opened() {
        for (listen, is_open) in
            [("127.0.0.1:1", true), ("[::1]:1", true), ("0.0.0.0:1", false), ("10.0.0.1:1", false), ("[::]:1", false)]
        {
            let listen = listen.parse().expect("an address");
            assert_eq!(Guard::new(listen, &[], Tokens::default(), Role::Operator).is_ok(), is_open, "{listen}");
            assert!(Guard::new(listen, &[], token(), Role::Operator).is_ok(), "{listen}");
        }
    }

    #[test]
    fn a_request_of_a_web_page_is_refused_even_with_a_fine_host() {
        let guard = guard("127.0.0.1:8380", Tokens::default());
        let host = ("host", "127.0.0.1:8380");
        assert_eq!(refusal(&guard, "/", &[host]), None);
        assert_eq!(refusal(&guard, "/", &[host, ("sec-fetch-site", "none")]), None);
        for mark in [
            ("origin", "http://127.0.0.1:8380"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(refusal(&guard, "/", &[host, mark]), Some(ProblemKind::ForeignOrigin), "{mark:?}");
        }
    }

    #[test]
    fn only_our_own_names_may_be_asked_for() {
        let guard = guard("10.1.2.3:80", token());
        for host in
            ["10.1.2.3", "10.1.2.3:80", "localhost:80", "LOCALHOST", "127.0.0.1", "[::1]:80", "Parallax.Internal:1"]
        {
            assert_eq!(refusal(&guard, "/", &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "10.1.2.4", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "[::2]"] {
            assert_eq!(refusal(&guard, "/", &[("host", host)]), Some(ProblemKind::ForeignHost), "{host}");
        }
    }

    #[test]
    fn behind_a_wildcard_any_address_is_ours_but_no_foreign_name() {
        let guard = guard("0.0.0.0:80", token());
        assert_eq!(refusal(&guard, "/", &[("host", "10.9.9.9:80")]), None);
        assert_eq!(refusal(&guard, "/", &[("host", "evil.example")]), Some(ProblemKind::ForeignHost));
    }

    #[test]
    fn the_target_of_a_request_cannot_hide_a_foreign_host() {
        let guard = guard("127.0.0.1:80", Tokens::default());
        let foreign = Some(ProblemKind::ForeignHost);
        assert_eq!(refusal(&guard, "http://evil.example/", &[("host", "localhost")]), foreign);
        assert_eq!(refusal(&guard, "http://localhost/", &[("host", "evil.example")]), foreign);
        assert_eq!(refusal(&guard, "http://localhost/", &[("host", "localhost")]), None);
        assert_eq!(refusal(&guard, "http://localhost/", &[]), None);
        assert_eq!(refusal(&guard, "/", &[]), Some(ProblemKind::BadRequest));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(refusal(&guard, "/", &twice), Some(ProblemKind::BadRequest));
    }

    #[test]
    fn a_token_gives_its_role_and_nothing_else_gives_any() {
        let guard = guard("127.0.0.1:80", token());
        let admit = |value: &str, needed| {
            let head = head("/", &[("host", "localhost"), ("authorization", value)]);
            guard.admit(&head, needed).map_err(|problem| problem.kind())
        };
        assert_eq!(admit("Bearer look", Role::Viewer), Ok(Role::Viewer));
        assert_eq!(admit("bearer all", Role::Operator), Ok(Role::Secrets));
        assert_eq!(admit("Bearer look", Role::Operator), Err(ProblemKind::Forbidden));
        for wrong in ["Bearer ", "Bearer loo", "Bearer look2", "Basic look", "look"] {
            assert_eq!(admit(wrong, Role::Viewer), Err(ProblemKind::Unauthorized), "{wrong}");
        }
        let without = guard.admit(&head("/", &[("host", "localhost")]), Role::Viewer).expect_err("refused");
        assert_eq!(without.into_response().headers()[header::WWW_AUTHENTICATE], "Bearer");
    }

    #[test]
    fn no_dump_shows_a_token() {
        let shown = format!("{:?}", guard("127.0.0.1:80", token()));
        assert!(shown.contains("Tokens(2)"), "{shown}");
    }
}
