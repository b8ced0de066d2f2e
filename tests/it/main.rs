//! Stories against real servers, and the rules that hold for the whole repository. One binary, so that it is linked once.

#![cfg(test)]

mod admin_door;
mod arrows;
mod bad_input;
mod catalog;
mod chart;
mod command_line;
mod dead_letters;
mod http_door;
mod http_server;
mod logs_of_events;
mod main_job;
mod metrics;
mod metrics_live;
mod records_api;
mod requirements;
mod same_answers;
mod schema;
mod settings;
mod start_checks;
mod support;
mod tidy;
mod tls;
mod traffic;
mod values;
