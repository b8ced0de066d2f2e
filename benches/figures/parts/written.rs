//! What people write themselves, both stores awaited in turn in the application, against the same script through the door.

use std::path::Path;

use anyhow::Context;
use parallax::traffic::control::Control;
use parallax::traffic::stack::Stack;
use serde_json::{Value, json};

use crate::measure::{interleaved, series};
use crate::report::{Goal, Report, short};
use crate::{SIDECAR, load};

pub(super) const ABOUT: &str = "A dual write in Node.js (pg, then ioredis, both awaited) against the same script through the door (an undici pool).";

const CONCURRENT: u32 = 64;

/// What one run of the script says.
struct Run {
    per_second: f64,
    p50_us: f64,
    cpu_us: f64,
}

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    if load::program("node").is_none() || load::program("npm").is_none() {
        report.skip("everything", "Node.js and npm are not on this machine");
        return Ok(());
    }
    load::install_node_packages().await?;
    let stack = Stack::start(Path::new(SIDECAR), &[]).await?;
    Control::new(&stack.admin_door).change(&json!({"stage": "dualwrite", "reason": "bench"})).await?;
    let once = async |mode: &str, concurrent: u32| {
        let arguments = json!({
            "mode": mode, "concurrent": concurrent, "seconds": load::SECONDS, "redisPort": stack.redis.port(),
            "postgres": stack.postgres.url(), "door": format!("http://{}", stack.data_door),
        });
        let told = load::node("write.mjs", &arguments).await?;
        let figure =
            |name: &str| told.get(name).and_then(Value::as_f64).with_context(|| format!("no {name} in {told}"));
        Ok(Run { per_second: figure("perSecond")?, p50_us: figure("p50us")?, cpu_us: figure("cpuUs")? })
    };

    let modes = ["own", "door-redis", "door-both", "redis"];
    let many = interleaved(&modes, async |mode: &&str| once(mode, CONCURRENT).await).await?;
    let [own, redis, both, alone] = &many[..] else { return Ok(()) };
    let rate = |runs: &[Run]| series(runs, |run| run.per_second);
    let cpu = |runs: &[Run]| series(runs, |run| run.cpu_us);
    report.figure(
        "64 at once, ack = redis: writes/s, times self-written",
        Goal::AtLeast(2.0),
        &rate(redis).over(&rate(own)),
    );
    report.figure(
        "64 at once, ack = both: writes/s, times self-written",
        Goal::AtLeast(1.3),
        &rate(both).over(&rate(own)),
    );
    report.figure(
        "64 at once, ack = redis: CPU of Node.js, times self-written",
        Goal::AtMost(0.6),
        &cpu(redis).over(&cpu(own)),
    );
    for (name, runs) in [("self-written", own), ("ack = redis", redis), ("ack = both", both), ("Redis only", alone)] {
        let p50 = series(runs, |run| run.p50_us).median();
        report.note(&format!(
            "{name}: {}/s, p50 {} us, {} us of Node.js' CPU a write",
            short(rate(runs).median()),
            short(p50),
            short(cpu(runs).median())
        ));
    }

    let one = interleaved(&["own", "door-redis"], async |mode: &&str| once(mode, 1).await).await?;
    let [own, redis] = &one[..] else { return Ok(()) };
    let p50 = |runs: &[Run]| series(runs, |run| run.p50_us);
    report.figure(
        "one at a time, ack = redis: p50, times self-written",
        Goal::AtMost(0.7),
        &p50(redis).over(&p50(own)),
    );
    report.note(&format!("self-written {} us, door {} us", short(p50(own).median()), short(p50(redis).median())));
    stack.stop().await.map(drop)
}
