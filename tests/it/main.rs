//! Stories against real servers, and the rules that hold for the whole repository.

#![cfg(test)]

mod command_line;
mod catalog;
mod metrics;
mod schema;
mod settings;
mod support;
mod tls;
