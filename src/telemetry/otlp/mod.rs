//! The way to an OTLP collector, for every signal: [`collector`] sends one export, [`points`] writes metrics as OTLP has them,
//! [`readings`] sends them at an interval.

pub(super) mod collector;
pub(super) mod points;
pub mod readings;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;

use crate::settings::otlp::OtlpTarget;

/// What everything that is sent bears of where it comes from.
pub(super) fn resource(target: &OtlpTarget, instance: &str) -> Resource {
    let given = target.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
        ])
        .with_attributes(given)
        .build()
}
