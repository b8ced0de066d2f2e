//! Where traces go and which of them, by OpenTelemetry's own names.
//!
//! They are read here and not by the libraries that know these names too, so that a flag, a file and a variable mean the
//! same, a mistake is an error at the start, and `parallax config check` shows what holds.

use crate::settings::build::WAIT_MS_MAX;
use crate::settings::otlp::{self, OtlpTarget, Signal};
use crate::settings::reader::Reader;

const SPANS_MAX: usize = 1_000_000;

/// Where traces go and which of them.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// The collector.
    pub target: OtlpTarget,
    /// Which traces are kept.
    pub sampler: Sampler,
    /// Spans that wait for their export.
    pub queue_max: usize,
    /// Spans in one export.
    pub batch_max: usize,
    /// How long a span waits for others.
    pub delay_ms: u64,
    /// For one export, all its tries together.
    pub export_timeout_ms: u64,
}

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether the caller's decision holds where there is one.
    pub asks_parent: AsksParent,
    /// The share of the others, 0 to 1.
    pub ratio: f64,
}

/// Whether a sampler follows the decision that came with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsksParent {
    /// As the caller decided; our own rule for whoever sends none.
    Yes,
    /// Our own rule for all.
    No,
}

/// What was said about traces. Checked also while they are off: a mistake that shows itself on the day they are needed
/// shows itself too late.
pub(super) fn build(reader: &mut Reader<'_>) -> Option<TraceSettings> {
    let target = otlp::target(reader, Signal::Traces);
    let queue_max = reader.number("traces.queue_max", 1..=SPANS_MAX);
    let batch_max = reader.number("traces.batch_max", 1..=SPANS_MAX);
    if batch_max > queue_max {
        reader.refuse("traces.batch_max", "is above OTEL_BSP_MAX_QUEUE_SIZE: give at most as many as may wait");
    }
    let sampler = sampler(reader);
    let delay_ms = reader.number("traces.delay_ms", 1..=WAIT_MS_MAX);
    let export_timeout_ms = reader.number("traces.export_timeout_ms", 1..=WAIT_MS_MAX);
    Some(TraceSettings { target: target?, sampler, queue_max, batch_max, delay_ms, export_timeout_ms })
}

fn sampler(reader: &mut Reader<'_>) -> Sampler {
    let ratio = ratio(reader);
    let samplers = [
        ("parentbased_always_on", Sampler { asks_parent: AsksParent::Yes, ratio: 1.0 }),
        ("parentbased_always_off", Sampler { asks_parent: AsksParent::Yes, ratio: 0.0 }),
        ("parentbased_traceidratio", Sampler { asks_parent: AsksParent::Yes, ratio }),
        ("always_on", Sampler { asks_parent: AsksParent::No, ratio: 1.0 }),
        ("always_off", Sampler { asks_parent: AsksParent::No, ratio: 0.0 }),
        ("traceidratio", Sampler { asks_parent: AsksParent::No, ratio }),
    ];
    let [(_, usual), ..] = samplers;
    reader.choice("traces.sampler", &samplers, usual)
}

fn ratio(reader: &mut Reader<'_>) -> f64 {
    let key = "traces.sampler_arg";
    reader.takes(key, "0 to 1");
    let Some(text) = reader.optional(key) else { return 1.0 };
    match text.trim().parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
        Ok(_) | Err(_) => {
            reader.refuse(key, format!("`{text}` will not do: give a number from 0 to 1"));
            1.0
        }
    }
}
