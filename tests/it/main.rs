//! Stories against real servers, and the rules that hold for the whole repository. One binary, so that it is linked once.

#![cfg(test)]

mod admin_door;
mod arrows;
mod bad_input;
mod breaker;
mod catalog;
mod chaos;
mod chart;
mod command_line;
mod contention;
mod dead_letters;
mod equality;
mod http_door;
mod http_server;
mod invariants;
mod jobs;
mod lift;
mod logs_of_events;
mod main_job;
mod metrics;
mod metrics_live;
mod operating;
mod properties;
mod records_api;
mod redis_lost;
mod requirements;
mod resp_differential;
mod resp_fuzz;
mod resp_robustness;
mod restored;
mod rules_apply;
mod rules_read;
mod rules_stages;
mod rules_write;
mod same_answers;
mod schema;
mod settings;
mod soak;
mod start_checks;
mod support;
mod tidy;
mod tls;
mod traces;
mod traffic;
mod values;
