//! The HTTP data door: records and Redis commands over HTTP.
