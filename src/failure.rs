//! Why the process ends, as far as whoever started it has to know: each cause has an exit code.
//!
//! A supervisor restarts what failed while it ran, and must not restart for ever what a person has to mend.

use crate::settings::SettingErrors;

/// What the process answers when the command line or the settings, the catalog among them, cannot be used.
pub const EXIT_SETTINGS: u8 = 2;
/// What it answers when what it stands on is missing, or not as it must be.
pub const EXIT_FOUNDATION: u8 = 3;
/// What it answers to everything else.
const EXIT_FAILURE: u8 = 1;

/// A failure whose cause lies outside of the process. Used as the context of an error, or as the error itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Somebody has to correct a setting.
    #[error("{0}")]
    Settings(String),
    /// Redis, Postgres, the schema or a port: somebody has to look there.
    #[error("{0}")]
    Foundation(String),
}

/// The exit code of `error`.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    match (error.downcast_ref::<Failure>(), error.is::<SettingErrors>()) {
        (Some(Failure::Settings(_)), _) | (None, true) => EXIT_SETTINGS,
        (Some(Failure::Foundation(_)), _) => EXIT_FOUNDATION,
        (None, false) => EXIT_FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_cause_decides_whatever_stands_around_it() {
        let foundation = || Failure::Foundation("redis is not there".into());
        let around: anyhow::Result<()> =
            Err(std::io::Error::other("refused")).context(foundation()).context("cannot start");
        assert_eq!(exit_code(&around.unwrap_err()), EXIT_FOUNDATION);
        assert_eq!(exit_code(&Failure::Settings("the catalog".into()).into()), EXIT_SETTINGS);
        assert_eq!(exit_code(&SettingErrors(Vec::new()).into()), EXIT_SETTINGS);
        assert_eq!(exit_code(&anyhow::anyhow!("anything else")), EXIT_FAILURE);
    }
}
