//! The Redis door: whoever speaks Redis' protocol is served as by Redis itself, and what is mirrored reaches Postgres.

pub(crate) mod client;
mod connections;
mod replay;
mod transactions;
mod unknown;
mod waits;
