//! The two stores: what each can do in one step, and nothing of what it means.

pub mod migrations;
pub mod postgres;
pub mod redis;
pub mod tls;
