//! The program. What it does stands in [`parallax::cli`].

use std::process::ExitCode;

/// A request is some dozens of small allocations, which the system's own allocator takes a tenth of the time for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    parallax::cli::run()
}
