//! Stories against real servers, and the rules that hold for the whole repository. One binary, so that it is linked once.

#![cfg(test)]

mod admin_door;
mod arrows;
mod catalog;
mod chart;
mod command_line;
mod http_door;
mod http_server;
mod invariants;
mod main_job;
mod metrics;
mod requirements;
mod rules_apply;
mod rules_read;
mod rules_stages;
mod rules_write;
mod schema;
mod settings;
mod support;
mod tidy;
mod tls;
mod traffic;
