//! The command line: one module for each subcommand.

pub mod demo;
