//! Parallax: a sidecar that takes an application's data from Redis to Redis + PostgreSQL.

pub mod doors;
pub mod model;
pub mod telemetry;
