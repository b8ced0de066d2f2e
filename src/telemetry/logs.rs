//! The log: structured lines on standard error, so that standard output stays free for what a command prints.

use std::io;

use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

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

/// Checks a filter such as `info` or `info,parallax::dual=debug`.
///
/// # Errors
/// What is wrong with it.
pub fn filter(text: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(text).map_err(|error| LogError::Filter {
        filter: text.to_owned(),
        reason: error.to_string(),
    })
}

/// Sets up the log of this process; `filter` as in [`filter`]. Colour is left out, since a sidecar's log is collected.
///
/// # Errors
/// A filter that does not parse, or a second call.
pub fn start(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(self::filter(filter)?)
        .with_writer(io::stderr)
        .with_ansi(false);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
    };
    started.map_err(|_| LogError::SetUpBefore)
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
