//! What a command prints. A reader that has gone away (`| head`) is no reason to fail.

use std::io::{Write, stderr, stdout};

/// A result, on standard output.
pub(super) fn say(text: &str) {
    drop(writeln!(stdout().lock(), "{text}"));
}

/// Something that went wrong or deserves a look, on standard error.
pub(super) fn complain(text: &str) {
    drop(writeln!(stderr().lock(), "{text}"));
}
