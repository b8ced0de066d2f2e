//! Stories against real servers, and the rules that hold for the whole repository.

mod metrics;
mod settings;
mod tls;
mod traffic;
