//! Parallax: a sidecar that takes an application's data from Redis to Redis + PostgreSQL without a stop.

pub mod app;
pub mod cli;
pub mod dev;
pub mod doors;
pub mod model;
pub mod settings;
pub mod shutdown;
pub mod dual;
pub mod stores;
pub mod telemetry;
pub mod traffic;
