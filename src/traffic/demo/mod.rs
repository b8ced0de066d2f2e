//! The demo: a whole move from Redis to Redis + Postgres on real input, and the proof that nothing was lost.
//!
//! Everything in it is real: private servers, the sidecar as a process of its own, its doors over HTTP. It loads a
//! keyspace while off, then walks off, dualwrite, backfill, shadow, live 50 %, live 100 %, rollback under traffic. On the
//! way one row is corrupted and Postgres is stopped. At the end every record of both stores is compared.

mod feeder;
mod input;
mod plant;
mod report;
mod screen;
mod summary;
mod walk;

pub use self::input::Source;
pub use self::report::Report;

use anyhow::Context;

use crate::traffic::demo::screen::Screen;
use crate::traffic::demo::walk::Walk;
use crate::traffic::stack::Stack;

/// Runs the whole demo.
///
/// # Errors
/// When a step does not come to its end at all; what came to a wrong end stands in the report.
pub async fn run(source: &Source) -> anyhow::Result<Report> {
    let mut screen = Screen::new();
    screen.doing("reading or making the traffic");
    let input = input::load(source)?;
    screen.doing("starting Redis, Postgres and the sidecar");
    let program = std::env::current_exe().context("finding our own program")?;
    let stack = Stack::start(&program, &[("PARALLAX_INSTANCE", "demo")]).await?;
    screen.done("start", &format!("sidecar ready; {}", input.about));
    let outcome = Walk::new(&stack, &mut screen).all(input).await;
    match outcome {
        Ok(mut report) => {
            let left = stack.stop().await?;
            screen.done("stop", &format!("sidecar left in good order in {:.1} s", left.as_secs_f64()));
            report.line("whole demo", format!("{:.1} s", screen.seconds()));
            Ok(report)
        }
        Err(error) => Err(error.context(format!("the end of the sidecar's log:\n{}", stack.log_end()))),
    }
}
