//! The log: structured lines on standard error, so that standard output stays free for what a command prints.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, LogSettings};

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log filter `{filter}`: {reason}")]
    Filter {
        /// The filter as it was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something in this process has set up a log already.
    #[error("the log of this process was set up before")]
    SetUpBefore,
}

/// Sets up the log of this process. It has no colours, since what a sidecar logs is collected.
///
/// # Errors
/// A filter that does not parse, or a second call.
pub fn start(settings: &LogSettings) -> Result<(), LogError> {
    let filter = filter(&settings.filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    let started = match settings.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    started.map_err(|_| LogError::SetUpBefore)
}

fn filter(text: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(text).map_err(|error| LogError::Filter { filter: text.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_named_with_its_fault() {
        let error = filter("parallax=loud").expect_err("refused").to_string();
        assert!(error.contains("parallax=loud"), "{error}");
        assert!(filter("warn,parallax::dual=debug").is_ok());
    }
}
