//! The HTTP door against webdis on the same Redis: what people use who want Redis over HTTP and nothing else.

use std::path::Path;

use parallax::traffic::stack::Stack;

use crate::load::{Load, wrk};
use crate::measure::{interleaved, series};
use crate::report::{Goal, Report, short};
use crate::{SIDECAR, peers};

pub(super) const ABOUT: &str = "The HTTP door against webdis: same Redis, 50 kept-alive connections, unmirrored keys.";

const CONNECTIONS: u32 = 50;
const FIELDS: usize = 30;

struct Case {
    what: &'static str,
    path: &'static str,
    throughput: f64,
}

const CASES: [Case; 3] = [
    Case { what: "GET", path: "/get/bench:text", throughput: 1.25 },
    Case { what: "SET", path: "/set/bench:text/a-value-of-forty-bytes-as-sessions-are-x", throughput: 1.25 },
    Case { what: "HGETALL of 30 fields", path: "/hgetall/bench:hash", throughput: 1.2 },
];

struct Subject {
    door: String,
    prefix: &'static str,
    process: u32,
}

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let stack = Stack::start(Path::new(SIDECAR), &[]).await?;
    prepare(&stack).await?;
    let Some(webdis) = peers::webdis(stack.redis.port()).await? else {
        report.skip("everything", "webdis is not on this machine");
        return Ok(());
    };
    let subjects = [
        Subject { door: stack.data_door.clone(), prefix: "/redis", process: stack.sidecar_id()? },
        Subject { door: webdis.address.clone(), prefix: "", process: webdis.id()? },
    ];
    for case in CASES {
        let path = |subject: &Subject| format!("{}{}", subject.prefix, case.path);
        let measured = interleaved(&subjects, async |subject: &Subject| {
            wrk(&subject.door, &path(subject), 1, CONNECTIONS, subject.process).await
        })
        .await?;
        let [door, peer] = &measured[..] else { continue };
        let of = |figure: fn(&Load) -> f64| (series(door, figure), series(peer, figure));
        let ((rate, peer_rate), (cpu, peer_cpu)) = (of(|load| load.per_second), of(|load| load.cpu_us));
        let what = case.what;
        report.figure(
            &format!("{what}: requests/s, times webdis"),
            Goal::AtLeast(case.throughput),
            &rate.over(&peer_rate),
        );
        report.figure(&format!("{what}: CPU a request, times webdis"), Goal::AtMost(0.65), &cpu.over(&peer_cpu));
        report.note(&format!(
            "door {}/s, {} us of CPU, p50 {} us; webdis {}/s, {} us of CPU, p50 {} us",
            short(rate.median()),
            short(cpu.median()),
            short(series(door, |load| load.p50_us).median()),
            short(peer_rate.median()),
            short(peer_cpu.median()),
            short(series(peer, |load| load.p50_us).median()),
        ));
    }
    stack.stop().await.map(drop)
}

async fn prepare(stack: &Stack) -> anyhow::Result<()> {
    let mut redis = stack.redis_connection().await?;
    let fields: Vec<(String, String)> =
        (0..FIELDS).map(|field| (format!("field{field}"), format!("the value of field {field}"))).collect();
    redis::pipe()
        .set("bench:text", "a-value-of-forty-bytes-as-sessions-are-x")
        .hset_multiple("bench:hash", &fields)
        .query_async::<()>(&mut redis)
        .await?;
    Ok(())
}
