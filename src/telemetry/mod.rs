//! What an operator sees of Parallax from outside: metrics, the log, and traces.
//!
//! Every label value comes from a closed enum or from the catalog's kind names, never from a request, so that neither
//! cost nor memory depends on what clients send.

mod commands;
pub mod counted;
mod cutover;
mod exemplars;
mod instruments;
mod label_sets;
pub mod labels;
pub mod logs;
pub mod metrics;
mod openmetrics;
pub mod otlp;
pub mod reference;
mod series;
pub mod traces;

pub use metrics::Metrics;
pub use traces::Traces;
