//! The HTTP data door: records and Redis commands over HTTP.

pub mod arguments;
pub mod reply;

mod json;
