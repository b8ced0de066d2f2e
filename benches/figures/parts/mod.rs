//! The parts of the bench. Each takes some minutes at most and writes one table.

mod apply;
mod breaker;
mod http;
mod jobs;
mod live;
mod memory;
mod mirrored;
mod relay;
mod resp;
mod start;
mod written;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use crate::report::Report;

/// One part.
pub(crate) struct Part {
    /// What `make bench ARGS=...` calls it.
    pub(crate) name: &'static str,
    /// One sentence on what is measured.
    pub(crate) about: &'static str,
    /// Measures it.
    pub(crate) run: for<'a> fn(&'a mut Report) -> LocalBoxFuture<'a, anyhow::Result<()>>,
}

/// All parts, in the order in which they run.
pub(crate) const ALL: &[Part] = &[
    Part { name: "http", about: http::ABOUT, run: |report| http::run(report).boxed_local() },
    Part { name: "mirrored", about: mirrored::ABOUT, run: |report| mirrored::run(report).boxed_local() },
    Part { name: "written", about: written::ABOUT, run: |report| written::run(report).boxed_local() },
    Part { name: "apply", about: apply::ABOUT, run: |report| apply::run(report).boxed_local() },
    Part { name: "relay", about: relay::ABOUT, run: |report| relay::run(report).boxed_local() },
    Part { name: "live", about: live::ABOUT, run: |report| live::run(report).boxed_local() },
    Part { name: "breaker", about: breaker::ABOUT, run: |report| breaker::run(report).boxed_local() },
    Part { name: "jobs", about: jobs::ABOUT, run: |report| jobs::run(report).boxed_local() },
    Part { name: "start", about: start::ABOUT, run: |report| start::run(report).boxed_local() },
    Part { name: "resp", about: resp::ABOUT, run: |report| resp::run(report).boxed_local() },
    Part { name: "memory", about: memory::ABOUT, run: |report| memory::run(report).boxed_local() },
];
