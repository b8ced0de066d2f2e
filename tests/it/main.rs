//! Stories against real servers, and the rules that hold for the whole repository. One binary, so that it is linked once.

#![cfg(test)]

mod command_line;
mod catalog;
mod http_door;
mod http_server;
mod metrics;
mod schema;
mod settings;
mod support;
mod arrows;
mod chart;
mod metrics;
mod requirements;
mod settings;
mod tidy;
mod tls;
mod traffic;
