//! What a mark costs: mirrored writes against the same writes unmirrored, through the same door.

use std::path::Path;

use parallax::traffic::control::Control;
use parallax::traffic::stack::Stack;
use serde_json::json;

use crate::SIDECAR;
use crate::load::{Load, wrk};
use crate::measure::{interleaved, series};
use crate::report::{Goal, Report, short};

pub(super) const ABOUT: &str =
    "Mirrored writes (stage dualwrite, Postgres following) against the same writes unmirrored through the same door.";

const KEYS: u32 = 1_000;
const CONNECTIONS: u32 = 50;

struct Case {
    what: &'static str,
    mirrored: &'static str,
    unmirrored: &'static str,
}

const CASES: [Case; 2] = [
    Case {
        what: "SET over 1,000 keys",
        mirrored: "/redis/set/original_session_binding:%d/a-value-of-forty-bytes-as-sessions-are-x",
        unmirrored: "/redis/set/unmirrored_session_binding:%d/a-value-of-forty-bytes-as-sessions-are-x",
    },
    Case {
        what: "HINCRBY over 1,000 usage counters",
        mirrored: "/redis/hincrby/usage:%d/totalTokens/7",
        unmirrored: "/redis/hincrby/unmirrored:%d/totalTokens/7",
    },
];

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let stack = Stack::start(Path::new(SIDECAR), &[]).await?;
    Control::new(&stack.admin_door).change(&json!({"stage": "dualwrite", "reason": "bench"})).await?;
    let process = stack.sidecar_id()?;
    for case in CASES {
        let measured = interleaved(&[case.mirrored, case.unmirrored], async |path: &&str| {
            wrk(&stack.data_door, path, KEYS, CONNECTIONS, process).await
        })
        .await?;
        let [mirrored, unmirrored] = &measured[..] else { continue };
        let of = |figure: fn(&Load) -> f64| (series(mirrored, figure), series(unmirrored, figure));
        let ((rate, plain_rate), (p50, plain_p50)) = (of(|load| load.per_second), of(|load| load.p50_us));
        let what = case.what;
        report.figure(&format!("{what}: throughput, times unmirrored"), Goal::AtLeast(0.6), &rate.over(&plain_rate));
        report.figure(&format!("{what}: p50, times unmirrored"), Goal::AtMost(1.5), &p50.over(&plain_p50));
        let (cpu, plain_cpu) = of(|load| load.cpu_us);
        report.note(&format!(
            "mirrored {}/s, p50 {} us, {} us of CPU; unmirrored {}/s, p50 {} us, {} us of CPU",
            short(rate.median()),
            short(p50.median()),
            short(cpu.median()),
            short(plain_rate.median()),
            short(plain_p50.median()),
            short(plain_cpu.median()),
        ));
    }
    stack.stop().await.map(drop)
}
