//! A real Prometheus scrapes a real sidecar, with the chart's rules, and is asked every query of every dashboard.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value as Json;
use tokio::process::{Child, Command};

use crate::arrows::project;
use crate::dashboards::{Description, is_metrics};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

/// The rate interval: long enough for some scrapes, short enough for a story.
const RATE: &str = "10s";

/// A Prometheus that ends with the test.
struct Prometheus {
    _child: Child,
    _folder: tempfile::TempDir,
    url: String,
}

impl Prometheus {
    /// One that scrapes the admin door at `admin`. `None` after saying so, where it is not installed.
    fn start(admin: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let rules = project().join("helm/parallax/files/alerts.yaml");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(folder.path().join("prometheus.yaml"), configuration(admin, &rules)).unwrap();
        let spawned = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(child) = spawned else {
            assert!(std::env::var_os("CI").is_none(), "CI must have Prometheus: scripts/setup installs it");
            println!("SKIPPED the dashboards' queries: prometheus is not installed (Debian: apt install prometheus)");
            return None;
        };
        Some(Self { _child: child, _folder: folder, url: format!("http://127.0.0.1:{port}/api/v1") })
    }

    /// What stands at `path`, or nothing yet. The sidecar's client is as good as any.
    async fn get(&self, client: &Sidecar, path: &str) -> Option<Json> {
        let request = http::Request::get(format!("{}{path}", self.url)).body(Full::new(Bytes::new())).unwrap();
        let answer = client.try_send(request).await.ok()?;
        (answer.status == 200).then(|| answer.json()["data"].clone())
    }

    /// Whether a query has a value that is a number.
    async fn answers(&self, client: &Sidecar, query: &str) -> bool {
        let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = self.get(client, &format!("/query?query={query}")).await;
        let is_number = |series: &Json| series["value"][1].as_str().is_some_and(|value| value != "NaN");
        answer.is_some_and(|data| data["result"].as_array().is_some_and(|result| result.iter().any(is_number)))
    }
}

fn configuration(admin: &str, rules: &Path) -> String {
    format!(
        "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}\n\
         rule_files: [\"{}\"]\n\
         scrape_configs:\n  - job_name: parallax\n    static_configs: [{{ targets: [\"{admin}\"] }}]\n",
        rules.display()
    )
}

/// What an application does, over and over, with all kinds of ends.
async fn traffic(sidecar: &Sidecar) {
    let client = redis::Client::open(format!("redis://{}", sidecar.resp)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for n in 0_u64.. {
        let key = format!("apikey:{}", n % 20);
        sidecar.command(&["HSET", &key, "name", &n.to_string()]).await;
        sidecar.command(&["HGET", "apikey:still", "name"]).await;
        sidecar.command(&["GET", "user:wrong"]).await;
        sidecar.command(&["HGET", "apikey:nobody", "name"]).await;
        sidecar.ask(&["FLUSHALL"], &[]).await;
        sidecar.command(&["GET", "session:x"]).await;
        let _: Option<String> = redis::cmd("GET").arg("session:x").query_async(&mut connection).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_has_an_answer_to_every_query_of_the_dashboards() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    let Some(prometheus) = Prometheus::start(&sidecar.admin) else { return };
    support::raw(&redis, "HSET apikey:still name right").await;
    support::raw(&redis, "SET user:wrong right").await;
    wait_until("prometheus has scraped", PATIENCE, || prometheus.answers(&sidecar, "up == 1")).await;
    sidecar.raise("live").await;
    sidecar.drained().await;
    sidecar.verified("*").await;
    let planted = "UPDATE users SET doc = '\"wrong\"' WHERE key = 'user:wrong'";
    assert_eq!(database.client().await.execute(planted, &[]).await.unwrap(), 1);

    let asked = async {
        let description = Description::read();
        for query in description.queries(is_metrics) {
            let expr = query.expr.replace("$fleet", "namespace=~\".*\",service=~\".*\"").replace("$rate", RATE);
            wait_until(&format!("there is an answer to {expr}"), PATIENCE, || prometheus.answers(&sidecar, &expr))
                .await;
        }
        let firing = "ALERTS{alertname=\"ParallaxMismatches\",alertstate=\"firing\"}";
        wait_until("the planted mismatch is told", PATIENCE, || prometheus.answers(&sidecar, firing)).await;
    };
    tokio::select! {
        () = asked => {}
        () = traffic(&sidecar) => {}
    }

    let rules = prometheus.get(&sidecar, "/rules").await.unwrap();
    let groups = rules["groups"].as_array().unwrap();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        assert_eq!((&rule["health"], rule["lastError"].as_str().unwrap_or_default()), (&"ok".into(), ""), "{rule}");
        let is_expected = rule["name"] == "ParallaxMismatches";
        assert!(rule["state"] != "firing" || is_expected, "an alert fires for no reason: {rule}");
    }
    sidecar.stop_expecting(&["a mismatch was confirmed"]).await;
}
