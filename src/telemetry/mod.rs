//! What an operator sees of Parallax from outside: metrics and the log.
//!
//! Every label value comes from a closed enum or from the catalog's kind names, never from a request, so that neither
//! cost nor memory depends on what clients send.

mod commands;
mod instruments;
pub mod labels;
pub mod logs;
pub mod metrics;
mod series;

pub use metrics::Metrics;
