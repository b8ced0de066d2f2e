//! The command API: `/redis`, `/redis/pipeline`, `/redis/multi-exec`, `/redis/{command}/{argument}..`; subscriptions are
//! answered by [`events`].

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::doors::http::reply::{self, Strings};
use crate::doors::http::{DataDoor, arguments, events, headers};
use crate::doors::problem::{Problem, ProblemKind};
use crate::doors::server::{Request, Response};
use crate::dual::{Answer, EngineError, Mirror, Options, Refusal, Source};
use crate::model::command::Command;
use crate::telemetry::labels::{Door, Outcome};

const UPSTASH_ENCODING: HeaderName = HeaderName::from_static("upstash-encoding");

/// A guess at the bytes of one answer, so that the body of a pipeline seldom has to grow.
const ANSWER_BYTES: usize = 32;

/// Answers a request below `/redis`.
///
/// # Errors
/// The problem to answer with. It has a member `error` too, since that is what Upstash's clients show.
pub(super) async fn answer(door: &DataDoor, request: Request) -> Result<Response, Problem> {
    let rest = request.uri.path().strip_prefix("/redis").unwrap_or_default();
    let answered = match rest.strip_prefix('/').unwrap_or_default() {
        "" => single(door, &request).await,
        "pipeline" => many(door, &request, Together::Pipeline).await,
        "multi-exec" => many(door, &request, Together::Transaction).await,
        path => match events::asked(path) {
            Some((kind, names)) => events::answer(door, &request, kind, names).await,
            None => path_form(door, &request, path).await,
        },
    };
    answered.map_err(with_error)
}

/// A problem as the path of its request wants it: below `/redis` in the form that its clients read.
pub(super) fn for_path(path: &str, problem: Problem) -> Problem {
    if path.strip_prefix("/redis").is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return with_error(problem);
    }
    problem
}

/// Upstash's clients show the member `error` of an answer that is no success, and nothing else of it.
fn with_error(problem: Problem) -> Problem {
    let error = format!("PARALLAX {}", problem.detail());
    problem.with("error", error)
}

async fn single(door: &DataDoor, request: &Request) -> Result<Response, Problem> {
    require_post(request)?;
    headers::require_json(&request.headers)?;
    one(door, arguments::command(&request.body, door.limits)?, &request.headers).await
}

async fn path_form(door: &DataDoor, request: &Request, path: &str) -> Result<Response, Problem> {
    if ![Method::GET, Method::HEAD, Method::POST, Method::PUT].contains(&request.method) {
        return Err(Problem::method_not_allowed("GET, HEAD, POST, PUT"));
    }
    let command = arguments::path(path, request.query(), request.body.clone(), door.limits)?;
    one(door, command, &request.headers).await
}

async fn one(door: &DataDoor, command: Command, headers: &HeaderMap) -> Result<Response, Problem> {
    let options = Options { ack: headers::ack(headers)?, atomic: false };
    let answers = executed(door, vec![command], options).await?;
    let Some(answer) = answers.into_iter().next() else {
        return Err(Problem::new(ProblemKind::Internal, "the command has no answer"));
    };
    count(door, &answer);
    let frame = answer.result?;
    let status = if frame.is_error() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let mut body = Vec::with_capacity(ANSWER_BYTES + frame.bytes().len());
    reply::write_frame(&mut body, &frame, strings(headers));
    let mut response = json(status, body);
    headers::set_mirror(&mut response, answer.mirror);
    headers::set_source(&mut response, answer.source);
    Ok(response)
}

/// How several commands belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Together {
    Pipeline,
    Transaction,
}

async fn many(door: &DataDoor, request: &Request, together: Together) -> Result<Response, Problem> {
    require_post(request)?;
    headers::require_json(&request.headers)?;
    let commands = arguments::pipeline(&request.body, door.limits)?;
    let asked = commands.len();
    let options = Options { ack: headers::ack(&request.headers)?, atomic: together == Together::Transaction };
    let answers = if commands.is_empty() { Vec::new() } else { executed(door, commands, options).await? };
    for answer in &answers {
        count(door, answer);
    }
    if together == Together::Transaction
        && let Some(refused) = aborted(&answers, asked)
    {
        return refused;
    }
    let mut response = json(StatusCode::OK, write_all(&answers, strings(&request.headers)));
    headers::set_mirror(&mut response, mirror_of(&answers));
    headers::set_source(&mut response, source_of(&answers));
    Ok(response)
}

/// What is answered instead of replies to a transaction of which nothing was executed. It has one answer, whatever was
/// `asked`: the refusal of one of its commands, or why Redis aborted it.
fn aborted(answers: &[Answer], asked: usize) -> Option<Result<Response, Problem>> {
    let [only] = answers else { return None };
    match &only.result {
        Err(refusal) => Some(Err(refusal.clone().into())),
        Ok(frame) => {
            let error = frame.error().filter(|error| asked > 1 || error.starts_with("EXECABORT"))?;
            let mut body = Vec::new();
            reply::write_error(&mut body, &error);
            Some(Ok(json(StatusCode::BAD_REQUEST, body)))
        }
    }
}

fn write_all(answers: &[Answer], strings: Strings) -> Vec<u8> {
    let mut body = Vec::with_capacity(2 + answers.len() * ANSWER_BYTES);
    body.push(b'[');
    for (index, answer) in answers.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        match &answer.result {
            Ok(frame) => reply::write_frame(&mut body, frame, strings),
            Err(Refusal { message, .. }) => reply::write_error(&mut body, &format!("PARALLAX {message}")),
        }
    }
    body.push(b']');
    body
}

/// Pending as long as one of the writes is.
fn mirror_of(answers: &[Answer]) -> Option<Mirror> {
    let is_pending = answers.iter().any(|answer| answer.mirror == Some(Mirror::Pending));
    if is_pending { Some(Mirror::Pending) } else { answers.iter().find_map(|answer| answer.mirror) }
}

/// The store that has answered, if it is the same one for every read.
fn source_of(answers: &[Answer]) -> Option<Source> {
    let first = answers.iter().find_map(|answer| answer.source)?;
    answers.iter().filter_map(|answer| answer.source).all(|source| source == first).then_some(first)
}

/// The answers of the engine; where it has none, every command has failed.
async fn executed(door: &DataDoor, commands: Vec<Command>, options: Options) -> Result<Vec<Answer>, EngineError> {
    let count = commands.len();
    let answers = door.engine.execute(commands, options).await;
    if answers.is_err() {
        (0..count).for_each(|_| door.metrics.command(Door::Http, Outcome::Failed));
    }
    answers
}

fn count(door: &DataDoor, answer: &Answer) {
    let outcome = match &answer.result {
        Ok(frame) if frame.is_error() => Outcome::Error,
        Ok(_) => Outcome::Ok,
        Err(_) => Outcome::Refused,
    };
    door.metrics.command(Door::Http, outcome);
}

fn strings(headers: &HeaderMap) -> Strings {
    let asks_base64 = headers.get(UPSTASH_ENCODING).is_some_and(|value| value == "base64");
    if asks_base64 { Strings::Base64 } else { Strings::Text }
}

fn require_post(request: &Request) -> Result<(), Problem> {
    if request.method == Method::POST { Ok(()) } else { Err(Problem::method_not_allowed("POST")) }
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use crate::dual::RefusalCause;
    use crate::model::frame::{Frame, Protocol};
    use crate::model::reply::Reply;

    use super::*;

    fn answer(result: Result<Reply, Refusal>) -> Answer {
        let result = result.map(|reply| Frame::of(&reply, Protocol::Resp2));
        Answer { result, source: None, mirror: None }
    }

    fn refused() -> Refusal {
        Refusal { cause: RefusalCause::Administrative, message: "FLUSHALL would empty both stores".into() }
    }

    #[test]
    fn in_a_pipeline_a_refused_command_fails_alone() {
        let answers = [answer(Ok(Reply::Integer(1))), answer(Err(refused())), answer(Ok(Reply::Error("ERR x".into())))];
        let body = String::from_utf8(write_all(&answers, Strings::Text)).expect("UTF-8");
        let expected =
            "[{\"result\":1},{\"error\":\"PARALLAX FLUSHALL would empty both stores\"},{\"error\":\"ERR x\"}]";
        assert_eq!(body, expected);
        assert_eq!(write_all(&[], Strings::Text), b"[]");
    }

    #[test]
    fn a_transaction_that_was_not_executed_is_answered_as_a_whole() {
        let error = || answer(Ok(Reply::Error("ERR wrong number of arguments".into())));
        assert!(aborted(&[answer(Ok(Reply::Integer(1))), error()], 2).is_none(), "it ran, and one command failed");
        assert!(aborted(&[error()], 1).is_none(), "it ran, and its one command failed");
        let problem = aborted(&[answer(Err(refused()))], 3).expect("aborted").expect_err("refused");
        assert_eq!(problem.kind(), ProblemKind::CommandRefused);
        let response = aborted(&[error()], 2).expect("aborted").expect("an answer");
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn one_pending_write_makes_a_pipeline_pending_and_two_stores_make_it_of_none() {
        let of = |source, mirror| Answer { result: Ok(Frame::of(&Reply::Nil, Protocol::Resp2)), source, mirror };
        let applied = of(None, Some(Mirror::Applied));
        let pending = of(None, Some(Mirror::Pending));
        let redis = of(Some(Source::Redis), None);
        let postgres = of(Some(Source::Postgres), None);
        assert_eq!(mirror_of(&[applied.clone(), pending, redis.clone()]), Some(Mirror::Pending));
        assert_eq!(mirror_of(&[redis.clone(), applied]), Some(Mirror::Applied));
        assert_eq!(mirror_of(std::slice::from_ref(&redis)), None);
        assert_eq!(source_of(&[redis.clone(), redis.clone()]), Some(Source::Redis));
        assert_eq!(source_of(&[redis, postgres]), None);
    }
}
