//! `parallax config check`: what holds, who said so, and what is wrong.

use std::process::ExitCode;

use crate::cli::{catalog, terminal};
use crate::failure::EXIT_SETTINGS;
use crate::settings::sources::Inputs;
use crate::settings::{self, report};

/// Prints the effective settings, or all that is wrong with them.
pub(super) fn check(inputs: &Inputs) -> ExitCode {
    let loaded = match settings::load(inputs) {
        Ok(loaded) => loaded,
        Err(errors) => {
            terminal::complain(&errors.to_string());
            return ExitCode::from(EXIT_SETTINGS);
        }
    };
    terminal::say(report::effective(&loaded).trim_end());
    for warning in &loaded.warnings {
        terminal::complain(&format!("warning: {warning}"));
    }
    match catalog::read(loaded.settings.catalog.as_deref()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(problems) => {
            terminal::complain(&problems);
            ExitCode::from(EXIT_SETTINGS)
        }
    }
}
