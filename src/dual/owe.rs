//! What a write owes once Redis has it: its records wait for the drain, and its caller for Postgres where it asked to (W4, G3).

use std::collections::BTreeSet;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::dual::plan::MirroredTouch;
use crate::dual::view::View;
use crate::dual::{Engine, EngineError, Mirror, Options};
use crate::model::command::effect;
use crate::model::flag::Ack;

/// How long a pipeline waits for a log to be captured before it pushes on (G3), at most.
const LOG_CAPTURE_WAIT: std::time::Duration = std::time::Duration::from_millis(250);

impl Engine {
    /// Hands marked records to the drain and, where asked, waits until they are committed (W4).
    pub(super) async fn mirrored(
        &self,
        view: &View,
        touched: &[Vec<MirroredTouch>],
        options: Options,
        goes_on: bool,
    ) -> Result<Vec<Option<Mirror>>, EngineError> {
        let mut waits = Vec::new();
        let mut mirrors = Vec::with_capacity(touched.len());
        let now = Instant::now();
        for touches in touched {
            let mut mirror = None;
            for MirroredTouch { touch, kind } in touches {
                let ack = options.ack.unwrap_or(view.flag(kind).ack);
                let waiter = (ack == Ack::Both).then(oneshot::channel);
                let (waiter, wait) = waiter.map_or((None, None), |(waiter, wait)| (Some(waiter), Some(wait)));
                mirror = Some(if wait.is_some() { Mirror::Applied } else { Mirror::Pending });
                waits.extend(wait);
                self.metrics.written(&kind.name, 1);
                if self.drain.is_some() && !self.queue.add(&touch.key, kind, now, waiter, pushed(touch)) {
                    self.metrics.outbox_queue_dropped(1);
                }
            }
            mirrors.push(mirror);
        }
        if !waits.is_empty() {
            let all = tokio::time::timeout(self.command_deadline, join_all(waits)).await;
            let is_committed = all.is_ok_and(|waits| waits.iter().all(Result::is_ok));
            if !is_committed {
                return Err(EngineError::UnknownOutcome(
                    "redis has the write, but whether postgres committed it is unknown, never that it did not"
                        .to_owned(),
                ));
            }
        }
        if goes_on {
            self.capture_logs(touched).await;
        }
        Ok(mirrors)
    }

    /// Before more is pushed to a log in the same pipeline, what was pushed is captured, or a little time passes (G3).
    async fn capture_logs(&self, touched: &[Vec<MirroredTouch>]) {
        let mut waits = Vec::new();
        let steps = touched.iter().flatten().filter(|touch| touch.kind.log.is_some());
        let mut seen = BTreeSet::new();
        for MirroredTouch { touch, kind } in steps {
            if self.drain.is_some() && seen.insert(touch.key.clone()) {
                let (waiter, wait) = oneshot::channel();
                self.queue.add(&touch.key, kind, Instant::now(), Some(waiter), 0);
                waits.push(wait);
            }
        }
        let _ = tokio::time::timeout(LOG_CAPTURE_WAIT, join_all(waits)).await;
    }
}

fn pushed(touch: &effect::Touch) -> usize {
    match touch.touched {
        effect::Touched::Pushed { count, .. } => count,
        effect::Touched::Whole
        | effect::Touched::Header
        | effect::Touched::Elements(_)
        | effect::Touched::Appended
        | effect::Touched::Rewritten => 0,
    }
}
