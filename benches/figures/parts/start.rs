//! How soon a sidecar is ready: a pod's start waits for it.

use std::path::Path;

use parallax::dev::servers::{PostgresOptions, PrivatePostgres, PrivateRedis, RedisOptions};
use parallax::traffic::stack::Stack;

use crate::SIDECAR;
use crate::measure::{ROUNDS, Series};
use crate::report::{Goal, Report};

pub(super) const ABOUT: &str =
    "From the start of `parallax serve` until /readyz says so: both stores up, the schema migrated.";

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let durable = PostgresOptions { durable: true, ..PostgresOptions::default() };
    let redis = PrivateRedis::start(RedisOptions::default()).await?;
    let postgres = PrivatePostgres::start(durable).await?;
    let mut series = Series::default();
    // The first start migrates.
    for round in 0..=ROUNDS {
        let stack = Stack::start_between(redis.clone(), postgres.clone(), Path::new(SIDECAR), &[]).await?;
        if round > 0 {
            series.0.push(stack.ready_after.as_secs_f64() * 1e3);
        }
        stack.stop().await?;
    }
    report.figure("ready after, ms", Goal::AtMost(300.0), &series);
    Ok(())
}
