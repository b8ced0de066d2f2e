//! The doors: where callers come in. They decode, call the engine once, and encode; they decide nothing.
//!
//! [`server`] speaks HTTP/1.1 with limits, [`body`] is what it answers, [`guard`] says who may come in, [`problem`] says what went wrong in one form
//! for every door. [`http`] is the data door, [`admin`] the operators' one,
//! [`trigger`] the way back when that one is gone.

pub mod admin;
pub mod body;
pub mod guard;
pub mod http;
pub mod problem;
pub mod refusals;
pub mod resp;
pub mod server;
pub mod trigger;

mod activity;
mod finishing;
