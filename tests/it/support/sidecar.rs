//! The real sidecar as a process, its log under test: a story ends by naming the warnings that it expects, and any other
//! WARN or ERROR fails it.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parallax::dev::servers::PrivateRedis;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{Database, wait_until};

/// How long anything may take before a story gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A sidecar under way.
pub(crate) struct Sidecar {
    child: Child,
    pub(crate) data: String,
    pub(crate) admin: String,
    pub(crate) resp: String,
    client: Client<HttpConnector, Full<Bytes>>,
    log: Arc<Mutex<Vec<Json>>>,
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Sidecar {
    /// A sidecar between these two servers.
    pub(crate) async fn start(redis: &PrivateRedis, database: &Database) -> Self {
        Self::start_with(redis, Some(database), &[]).await
    }

    /// A sidecar with further settings, as variables.
    pub(crate) async fn start_with(redis: &PrivateRedis, database: Option<&Database>, more: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_parallax"));
        command.arg("serve").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("REDIS_URL", redis.url()).env("PARALLAX_LOG_FORMAT", "json");
        command.env("PARALLAX_HTTP_LISTEN", "127.0.0.1:0").env("PARALLAX_ADMIN_LISTEN", "127.0.0.1:0");
        command.env("PARALLAX_RESP_LISTEN", "127.0.0.1:0");
        // Stories plant what they need past the sidecar; those about that ask for it.
        command.env("PARALLAX_REDIS_BYPASS", "ignore");
        match database {
            Some(database) => command.env("DATABASE_URL", database.url()),
            None => command.env("ENABLE_POSTGRES", "false"),
        };
        command.envs(more.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "level": "ERROR", "raw": line }));
                written.lock().unwrap().push(line);
            }
        });
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut sidecar = Self { child, data: String::new(), admin: String::new(), resp: String::new(), client, log };
        let doors = || async { sidecar.log.lock().unwrap().iter().find_map(doors_of) };
        wait_until("the doors are open", PATIENCE, || async { doors().await.is_some() }).await;
        (sidecar.data, sidecar.admin, sidecar.resp) = doors().await.unwrap();
        wait_until("the sidecar is ready", PATIENCE, || async { sidecar.get("/readyz").await.status == 200 }).await;
        sidecar
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// One request; panics when the connection fails.
    pub(crate) async fn send(&self, request: http::Request<Full<Bytes>>) -> Answer {
        self.try_send(request).await.unwrap_or_else(|error| panic!("{error}: {:?}", self.log.lock().unwrap()))
    }

    /// One request; for stories in which the sidecar may die.
    pub(crate) async fn try_send(&self, request: http::Request<Full<Bytes>>) -> Result<Answer, String> {
        let answered = tokio::time::timeout(PATIENCE, self.client.request(request)).await;
        let response = answered.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    fn request(method: &str, url: String, body: Option<Bytes>, headers: &[(&str, &str)]) -> http::Request<Full<Bytes>> {
        let mut request = http::Request::builder().method(method).uri(url);
        if body.is_some() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::new(body.unwrap_or_default())).unwrap()
    }

    /// A request to the admin door.
    pub(crate) async fn admin(&self, method: &str, path: &str, body: Option<Json>, headers: &[(&str, &str)]) -> Answer {
        let body = body.map(|body| Bytes::from(body.to_string()));
        self.send(Self::request(method, format!("http://{}{path}", self.admin), body, headers)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.admin("GET", path, None, &[]).await
    }

    /// A request to the data door.
    pub(crate) async fn data(&self, method: &str, path: &str, body: Option<Bytes>, headers: &[(&str, &str)]) -> Answer {
        self.send(Self::request(method, format!("http://{}{path}", self.data), body, headers)).await
    }

    /// One Redis command through the data door, whatever comes of it.
    pub(crate) async fn ask(&self, command: &[&str], headers: &[(&str, &str)]) -> Answer {
        self.data("POST", "/redis", Some(json!(command).to_string().into()), headers).await
    }

    /// The result of one Redis command, which must succeed.
    pub(crate) async fn command(&self, command: &[&str]) -> Json {
        let answer = self.ask(command, &[]).await;
        assert_eq!(answer.status, 200, "{command:?}: {:?}", answer.body);
        answer.json()["result"].clone()
    }

    /// One Redis command; an error when the sidecar is not there or the outcome is not known.
    pub(crate) async fn try_command(&self, command: &[&str], headers: &[(&str, &str)]) -> Result<Json, String> {
        let body = Bytes::from(json!(command).to_string());
        let request = Self::request("POST", format!("http://{}/redis", self.data), Some(body), headers);
        let answer = self.try_send(request).await?;
        if answer.status == 200 { Ok(answer.json()["result"].clone()) } else { Err(answer.status.to_string()) }
    }

    /// What the data door answers to a body, if it succeeds; for stories in which anything may fail.
    pub(crate) async fn try_data(&self, path: &str, body: String, headers: &[(&str, &str)]) -> Result<Json, String> {
        let request = Self::request("POST", format!("http://{}{path}", self.data), Some(body.into()), headers);
        let answer = self.try_send(request).await?;
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.status.to_string()) }
    }

    /// What the admin door answers to a body, whatever it is; nothing when it does not answer.
    pub(crate) async fn try_admin(&self, path: &str, body: Json) -> Option<u16> {
        let request = Self::request("POST", format!("http://{}{path}", self.admin), Some(body.to_string().into()), &[]);
        self.try_send(request).await.ok().map(|answer| answer.status)
    }

    /// Tries to change a flag, where the door may not answer.
    pub(crate) async fn try_change(&self, kind: &str, change: Json) -> Option<u16> {
        let flags = Self::request("GET", format!("http://{}/v1/flags", self.admin), None, &[]);
        let version = self.try_send(flags).await.ok()?.header("etag")?.to_owned();
        let url = format!("http://{}/v1/flags/{kind}", self.admin);
        let request = Self::request("PATCH", url, Some(change.to_string().into()), &[("if-match", &version)]);
        self.try_send(request).await.ok().map(|answer| answer.status)
    }

    /// Commands in one pipeline: `{"result": ..}` or `{"error": ..}` each.
    pub(crate) async fn pipeline(&self, commands: &[Vec<String>]) -> Vec<Json> {
        let answer = self.data("POST", "/redis/pipeline", Some(json!(commands).to_string().into()), &[]).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.json().as_array().unwrap().clone()
    }

    /// Changes a flag (`*`: the default), past the gates that ask for proofs and samples, which most stories are not about;
    /// panics when it is refused.
    pub(crate) async fn flag(&self, kind: &str, mut change: Json) {
        change["override"] = json!(true);
        if change["reason"].is_null() {
            change["reason"] = json!("a story that is not about gates");
        }
        let answer = self.try_flag(kind, change).await;
        assert_eq!(answer.status, 200, "{:?}: {:?}", answer.body, self.log.lock().unwrap());
    }

    /// Tries to change a flag.
    pub(crate) async fn try_flag(&self, kind: &str, change: Json) -> Answer {
        let version = self.get("/v1/flags").await.json()["version"].to_string();
        let version = format!("\"{version}\"");
        self.admin("PATCH", &format!("/v1/flags/{kind}"), Some(change), &[("if-match", &version)]).await
    }

    /// Walks all kinds up to `stage`, with a backfill before live, all reads sampled and all keys read from Postgres.
    pub(crate) async fn raise(&self, stage: &str) {
        self.climb(&["dualwrite", "shadow", "live"], stage, 1.0).await;
    }

    /// From dualwrite to live with no read compared, for stories that make the stores differ.
    pub(crate) async fn raise_from_dualwrite(&self) {
        self.drained().await;
        self.climb(&["shadow", "live"], "live", 0.0).await;
    }

    /// From shadow to live, with all reads compared.
    pub(crate) async fn raise_from_shadow(&self) {
        self.climb(&["live"], "live", 1.0).await;
    }

    async fn climb(&self, stages: &[&str], stage: &str, sample_rate: f64) {
        for next in stages.iter().copied() {
            if next == "live" {
                self.backfill().await;
            }
            self.flag("*", json!({ "stage": next, "sample_rate": sample_rate, "percent": 100.0, "deadline_ms": 5000 }))
                .await;
            if next == stage {
                return;
            }
        }
    }

    /// Reads of a kind are answered by Postgres again, also where the guard had taken them back.
    pub(crate) async fn read_again(&self, kind: &str) {
        if self.get(&format!("/v1/flags/{kind}")).await.json()["flag"]["latched"] == true {
            self.flag(kind, json!({ "stage": "live", "percent": 100.0, "resume": true })).await;
        }
    }

    /// Backfills everything and waits for its end.
    pub(crate) async fn backfill(&self) {
        // A machine that is busy with other stories is no reason to go slowly here.
        let pace = json!({ "redis_p99_ms": 60_000, "postgres_ms": 60_000, "outbox_age_ms": 60_000 });
        self.job(json!({ "job": "backfill", "kinds": ["*"], "pace": pace })).await;
    }

    /// Compares a kind in full and waits for the end, for the gates that ask for it.
    pub(crate) async fn verified(&self, kind: &str) {
        let pace = json!({ "redis_p99_ms": 60_000, "postgres_ms": 60_000, "outbox_age_ms": 60_000 });
        self.job(json!({ "job": "verify", "kinds": [kind], "pace": pace })).await;
    }

    async fn job(&self, wish: Json) {
        let started = self.admin("POST", "/v1/jobs", Some(wish), &[]).await;
        assert_eq!(started.status, 202, "{:?}", started.body);
        let path = format!("/v1/jobs/{}", started.json()["id"].as_str().unwrap());
        // A Postgres that is busy with a story may not answer a question of the state, which says nothing of the job.
        let state = || async { self.get(&path).await.json()["state"].as_str().map(str::to_owned) };
        wait_until("the job has ended", PATIENCE, || async { state().await.is_some_and(|state| state != "running") })
            .await;
        wait_until("the job is done", PATIENCE, || async { state().await.as_deref() == Some("done") }).await;
    }

    /// Waits until no record is marked any more.
    pub(crate) async fn drained(&self) {
        wait_until("the outbox is empty", PATIENCE, || async {
            self.get("/v1/status").await.json()["outbox"]["depth"] == 0
        })
        .await;
    }

    /// The sum of a metric over all series with these labels; 0 where there is none.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.get("/metrics").await;
        let text = String::from_utf8_lossy(&text.body).into_owned();
        let wanted = |line: &&str| {
            let is_named = line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '));
            is_named && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        };
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        text.lines().filter(wanted).map(value).sum()
    }

    /// Its log so far, as one text.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().iter().map(Json::to_string).collect()
    }

    /// Whether a line of its log holds `text`.
    pub(crate) fn has_logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.to_string().contains(text))
    }

    /// Waits for the end that was asked for; the code it leaves with.
    pub(crate) async fn exit_code(mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap().code()
    }

    /// Ends it without a word, as the kernel would.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks it to end in order, and does not wait for the end.
    pub(crate) async fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().await.unwrap();
        assert!(status.success());
    }

    /// Ends it in order. Every warning and error of its log must contain one of `expected`, and each of these must be there.
    pub(crate) async fn stop_expecting(self, expected: &[&str]) {
        self.stop_with(expected, &[]).await;
    }

    /// As [`Self::stop_expecting`], where what is `possible` may be in the log too: of a fleet only one may say it.
    pub(crate) async fn stop_with(self, expected: &[&str], possible: &[&str]) {
        self.terminate().await;
        self.ended_with(expected, possible).await;
    }

    /// Waits for the end that was asked for, and looks at the log as [`Self::stop_with`] does.
    pub(crate) async fn ended_with(mut self, expected: &[&str], possible: &[&str]) {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap();
        assert!(ended.success(), "{ended}: {:?}", self.log.lock().unwrap());
        let log = self.log.lock().unwrap();
        let is_loud = |line: &&Json| line["level"] == "WARN" || line["level"] == "ERROR";
        let loud: Vec<String> = log.iter().filter(is_loud).map(Json::to_string).collect();
        for line in &loud {
            let is_known = expected.iter().chain(possible).any(|text| line.contains(text));
            assert!(is_known, "an unexpected line in the log: {line}, among {log:?}");
        }
        for text in expected {
            assert!(loud.iter().any(|line| line.contains(text)), "nothing in the log says `{text}`: {loud:?}");
        }
    }
}

fn doors_of(line: &Json) -> Option<(String, String, String)> {
    let field = |name: &str| line["fields"][name].as_str().or(line[name].as_str()).map(str::to_owned);
    Some((field("data")?, field("admin")?, field("resp").unwrap_or_default()))
}
