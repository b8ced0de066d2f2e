//! The program. What it does stands in [`parallax::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    parallax::cli::run()
}
