//! `parallax reference`: the pages of settings and metrics that are written from the code, for the version at hand.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::cli::terminal;
use crate::{settings, telemetry};

/// The arguments of `parallax reference`.
#[derive(Args)]
pub(super) struct ReferenceArguments {
    /// Of what
    subject: Subject,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Every setting: names, default, limits, unit
    Settings,
    /// Every metric: type, unit, labels and their values
    Metrics,
}

/// Prints the page.
pub(super) fn run(arguments: &ReferenceArguments) -> ExitCode {
    let page = match arguments.subject {
        Subject::Settings => settings::reference::markdown(),
        Subject::Metrics => telemetry::reference::markdown(),
    };
    terminal::say(page.trim_end());
    ExitCode::SUCCESS
}
