//! Stories against real servers, and the rules that hold for the whole repository.

mod catalog;
mod metrics;
mod schema;
mod settings;
mod tls;
