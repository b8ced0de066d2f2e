//! The way of a finished span to the collector: a bounded queue, batches, a few tries, and a count of what was lost.
//!
//! The batch processor of OpenTelemetry's SDK works on a thread of its own, without the runtime that our client needs, and
//! keeps to itself how many spans it dropped; here a full queue and a failed export are both counted in a metric.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::settings::traces::TraceSettings;
use crate::telemetry::labels::SpanDrop;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otlp::collector::{Collector, Spans};

/// Takes finished spans without ever waiting.
#[derive(Clone)]
pub(super) struct Queue {
    sender: mpsc::Sender<SpanData>,
    metrics: Metrics,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue(..)")
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.sender.try_send(span).is_err() {
            self.metrics.spans_dropped(SpanDrop::QueueFull, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The task that empties the queue.
pub(super) struct Exporting {
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Exporting {
    /// Starts the task. Answers the queue that it empties, too.
    pub(super) fn start(
        settings: &TraceSettings,
        collector: Collector<Spans>,
        resource: &Resource,
        metrics: Metrics,
    ) -> (Self, Queue) {
        let (sender, receiver) = mpsc::channel(settings.queue_max);
        let (stop, stopped) = watch::channel(false);
        let exporter = Exporter {
            collector,
            resource: resource.into(),
            metrics: metrics.clone(),
            batch_max: settings.batch_max,
            delay: Duration::from_millis(settings.delay_ms),
            deadline: Duration::from_millis(settings.export_timeout_ms),
            stopped,
            is_failing: false,
        };
        let task = Mutex::new(Some(tokio::spawn(exporter.run(receiver))));
        (Self { stop, task }, Queue { sender, metrics })
    }

    /// Exports what waits, for at most `deadline`, and ends the task. Answers whether all of it was tried.
    pub(super) async fn stop(&self, deadline: Duration) -> bool {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return true };
        let is_done = timeout(deadline, &mut task).await.is_ok();
        task.abort();
        is_done
    }
}

struct Exporter {
    collector: Collector<Spans>,
    resource: ResourceAttributesWithSchema,
    metrics: Metrics,
    batch_max: usize,
    delay: Duration,
    deadline: Duration,
    stopped: watch::Receiver<bool>,
    /// Whether the last export failed: an outage is logged once.
    is_failing: bool,
}

impl Exporter {
    async fn run(mut self, mut receiver: mpsc::Receiver<SpanData>) {
        loop {
            let batch = self.gather(&mut receiver).await;
            if batch.is_empty() {
                return;
            }
            self.export(batch).await;
        }
    }

    /// Waits for a span, and then for others until the batch is full or the first has waited its time. Empty at the end.
    async fn gather(&mut self, receiver: &mut mpsc::Receiver<SpanData>) -> Vec<SpanData> {
        let mut batch = Vec::new();
        let mut due = None;
        while batch.len() < self.batch_max {
            let room = self.batch_max - batch.len();
            // Nobody who could ask us to stop any more asks us to stop.
            let is_stopped = *self.stopped.borrow() || self.stopped.has_changed().is_err();
            if is_stopped {
                // What is there is still taken, and nothing else.
                receiver.close();
            }
            let until = due.unwrap_or_else(|| Instant::now() + self.delay);
            tokio::select! {
                biased;
                count = receiver.recv_many(&mut batch, room) => if count == 0 { break },
                () = sleep_until(until), if due.is_some() => break,
                _ = self.stopped.changed(), if !is_stopped => {}
            }
            due = due.or_else(|| (!batch.is_empty()).then(|| Instant::now() + self.delay));
        }
        batch
    }

    async fn export(&mut self, batch: Vec<SpanData>) {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let request = ExportTraceServiceRequest { resource_spans };
        match self.collector.send(&request, self.deadline, &self.stopped).await {
            Ok(rejected) => {
                let rejected = rejected.min(count);
                self.metrics.spans_exported(count - rejected);
                if rejected > 0 {
                    self.metrics.spans_dropped(SpanDrop::Rejected, rejected);
                }
                if std::mem::replace(&mut self.is_failing, false) {
                    tracing::info!("traces are exported again");
                }
            }
            Err(error) => {
                self.metrics.spans_dropped(SpanDrop::ExportFailed, count);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, "traces cannot be exported: their spans are dropped and counted");
                }
            }
        }
    }
}
