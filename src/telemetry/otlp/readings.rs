//! Sends what the instruments show to a collector, at an interval and once more at the end.
//!
//! What a collector does not take is counted and not sent again: the next reading has all of it, since every number is a sum from the start.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::settings::metrics::MetricSettings;
use crate::telemetry::labels::Export;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otlp::collector::{Collector, Points};
use crate::telemetry::otlp::resource;

/// How long the end of the process waits for the last export.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// The task that sends readings. The default sends none.
#[derive(Default)]
pub struct Readings {
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Readings {
    /// Starts sending; `tls` is how a collector behind https is spoken to. To be called inside a runtime.
    #[must_use]
    pub fn start(settings: &MetricSettings, instance: &str, tls: ClientConfig, metrics: Metrics) -> Self {
        let (stop, stopped) = watch::channel(false);
        let resource = ResourceAttributesWithSchema::from(&resource(&settings.target, instance));
        let sending = Sending {
            collector: Collector::new(&settings.target, tls),
            resource: Resource { attributes: resource.attributes.0, ..Resource::default() },
            metrics,
            interval: Duration::from_millis(settings.interval_ms),
            deadline: Duration::from_millis(settings.export_timeout_ms),
            stopped,
            is_failing: false,
        };
        Self { stop, task: Mutex::new(Some(tokio::spawn(sending.run()))) }
    }

    /// Sends the last reading, within a few seconds, and ends.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if timeout(FLUSH_DEADLINE, &mut task).await.is_err() {
            tracing::warn!("left without having exported the last metrics");
            task.abort();
        }
    }
}

struct Sending {
    collector: Collector<Points>,
    resource: Resource,
    metrics: Metrics,
    interval: Duration,
    deadline: Duration,
    stopped: watch::Receiver<bool>,
    /// Whether the last export failed: an outage is logged once.
    is_failing: bool,
}

impl Sending {
    async fn run(mut self) {
        let mut due = Instant::now() + self.interval;
        loop {
            let mut stopped = self.stopped.clone();
            let is_last = tokio::select! {
                () = sleep_until(due) => false,
                // Nobody who could ask us to stop any more asks us to stop.
                _ = stopped.wait_for(|stopped| *stopped) => true,
            };
            self.export().await;
            if is_last {
                return;
            }
            due = (due + self.interval).max(Instant::now());
        }
    }

    async fn export(&mut self) {
        let request = self.metrics.export(self.resource.clone());
        match self.collector.send(&request, self.deadline, &self.stopped).await {
            Ok(rejected) => {
                self.metrics.metrics_exported(if rejected == 0 { Export::Taken } else { Export::Rejected });
                if std::mem::replace(&mut self.is_failing, false) {
                    tracing::info!("metrics are exported again");
                }
            }
            Err(error) => {
                self.metrics.metrics_exported(Export::Failed);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, "metrics cannot be exported: the next export has them");
                }
            }
        }
    }
}
