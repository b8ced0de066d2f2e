//! Parallax: a sidecar that takes an application's data from Redis to Redis + PostgreSQL without a stop.

pub mod dev;
pub mod doors;
pub mod model;
pub mod stores;
pub mod telemetry;
pub mod traffic;
