//! Parallax: a sidecar that takes an application's data from Redis to Redis + PostgreSQL without a stop.
//!
//! Arrows point one way: `doors` and `jobs` -> `dual` -> `stores` -> `model`. A test holds them so. Read `dual` first.

pub mod app;
pub mod cli;
pub mod client;
pub mod dev;
pub mod doors;
pub mod dual;
pub mod failure;
pub mod jobs;
pub mod model;
pub mod reload;
pub mod settings;
pub mod shutdown;
pub mod stores;
pub mod telemetry;
pub mod traffic;
