//! The data door as its clients see it: the real program, the real servers, and nothing but HTTP.

mod commands;
mod records;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parallax::dev::servers::PrivateRedis;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{self, Database, wait_until};

/// Longer than anything here may take; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar with servers of its own.
struct Door {
    redis: PrivateRedis,
    _database: Database,
    process: Child,
    data: SocketAddr,
    admin: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header of text"))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The last part of the problem's type.
    fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let kind = self.json()["type"].as_str().expect("a type").to_owned();
        kind.strip_prefix("urn:parallax:problem:").expect("a type of ours").to_owned()
    }
}

impl Door {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(settings: &[(&str, &str)]) -> Self {
        let (redis, database) = (support::redis().await, support::postgres().await);
        let (data, admin) = (free_address(), free_address());
        let process = Command::new(env!("CARGO_BIN_EXE_parallax"))
            .arg("serve")
            .env("REDIS_URL", redis.url())
            .env("DATABASE_URL", database.url())
            .env("PARALLAX_HTTP_LISTEN", data.to_string())
            .env("PARALLAX_ADMIN_LISTEN", admin.to_string())
            .env("PARALLAX_RESP_LISTEN", "off")
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let door = Self { redis, _database: database, process, data, admin, client };
        wait_until("the sidecar is ready", PATIENCE, || async {
            let ready = door.request(door.admin, Method::GET, "/readyz", &[], "").await;
            ready.is_some_and(|answer| answer.status == StatusCode::OK)
        })
        .await;
        door
    }

    /// The answer; `None` when nobody listens.
    async fn request(
        &self,
        to: SocketAddr,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(format!("http://{to}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = self.client.request(request).await.ok()?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Some(Answer { status: parts.status, headers: parts.headers, body })
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.request(self.data, method, path, headers, body).await.expect("the data door answers")
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    async fn put(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Method::PUT, path, &[], body).await
    }

    async fn put_if(&self, path: &str, condition: (&str, &str), body: &'static str) -> Answer {
        self.send(Method::PUT, path, &[condition], body).await
    }

    async fn ping(&self, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, "/redis/ping", headers, "").await
    }

    /// A request to the command API.
    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// What a command answers, straight from Redis: what the door says is not asked of the door.
    async fn in_redis<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(self.redis.url()).expect("an address");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis listens");
        let (name, arguments) = command.split_first().expect("a command");
        redis::cmd(name).arg(arguments).query_async(&mut connection).await.expect("an answer")
    }

    /// Takes every kind to dualwrite.
    async fn mirror_everything(&self) {
        let flags =
            self.request(self.admin, Method::GET, "/v1/flags/*", &[], "").await.expect("the admin door answers");
        let headers = [("if-match", flags.header("etag")), ("content-type", "application/json")];
        let body = json!({"stage": "dualwrite", "reason": "a test"}).to_string();
        let changed = self.request(self.admin, Method::PATCH, "/v1/flags/*", &headers, body).await.expect("answers");
        assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_foreign_hosts_and_wrong_tokens_stay_outside() {
    let door = Door::start_with(&[("PARALLAX_HTTP_TOKEN", "open-sesame")]).await;
    let token = ("authorization", "Bearer open-sesame");
    assert_eq!(door.ping(&[token]).await.json(), json!({"result": "PONG"}));
    assert_eq!(door.ping(&[]).await.problem(), "unauthorized");
    assert_eq!(door.ping(&[]).await.json()["error"], "PARALLAX send `Authorization: Bearer <token>`");
    let elsewhere = door.get("/v1/records/apikey/a").await;
    assert_eq!((elsewhere.problem(), &elsewhere.json()["error"]), ("unauthorized".to_owned(), &Value::Null));
    assert_eq!(door.ping(&[("authorization", "Bearer open")]).await.problem(), "unauthorized");
    assert_eq!(door.ping(&[token, ("origin", "http://localhost")]).await.problem(), "foreign-origin");
    assert_eq!(door.ping(&[token, ("host", "evil.example")]).await.problem(), "foreign-host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_gone_is_answered_503_with_retry_after() {
    let door = Door::start().await;
    door.redis.kill().expect("killed");
    for answer in [
        door.post("/redis", json!(["SET", "a", 1])).await,
        door.post("/redis/pipeline", json!([["GET", "a"]])).await,
        door.get("/v1/records/apikey/a").await,
        door.put("/v1/records/apikey/a", "{\"a\":1}").await,
    ] {
        assert!([503, 504].contains(&answer.status.as_u16()), "{answer:?}");
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!((answer.problem(), answer.header("retry-after")), ("redis-unreachable".into(), "1"));
        }
    }
    let read = door.get("/v1/records/apikey/a").await;
    assert_eq!(read.status, StatusCode::SERVICE_UNAVAILABLE, "a read has no unknown outcome");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_client_went_away_is_done_whole() {
    let door = Door::start().await;
    let commands: Vec<Value> = (0..2000).map(|number| json!(["HSET", "apikey:k", format!("f{number}"), "v"])).collect();
    let body = Value::Array(commands).to_string();
    let mut client = TcpStream::connect(door.data).await.expect("the door listens");
    let head =
        format!("POST /redis/pipeline HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n", door.data, body.len());
    client.write_all(head.as_bytes()).await.expect("sent");
    client.write_all(body.as_bytes()).await.expect("sent");
    wait_until("the first command arrived", PATIENCE, || async {
        door.in_redis::<i64>(&["EXISTS", "apikey:k"]).await == 1
    })
    .await;
    drop(client);
    wait_until("every command arrived", PATIENCE, || async {
        door.in_redis::<i64>(&["HLEN", "apikey:k"]).await == 2000
    })
    .await;
}
