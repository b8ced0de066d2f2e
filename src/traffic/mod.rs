//! Relay-shaped traffic, made here or read from a recording, and a second opinion on what both stores hold after it.
//!
//! `parallax demo`, the benches and the tests all use it, so that figures and stories stand on the same input.

pub mod world;

mod admin;
mod entity;
mod keyspace;
mod request;
mod usage;

pub mod generator;
pub mod recording;

pub mod replay;

pub mod control;
pub mod figures;
pub mod stack;

pub mod compare;
pub mod demo;

/// One Redis command: its name and arguments as bytes.
pub type Command = Vec<Vec<u8>>;

/// Commands that the application sends without waiting between them.
pub type Burst = Vec<Command>;

/// The command with these parts. Text may carry NUL; only bytes that are not UTF-8 need a [`Command`] written out.
#[must_use]
pub fn command(parts: &[&str]) -> Command {
    parts.iter().map(|part| part.as_bytes().to_vec()).collect()
}
