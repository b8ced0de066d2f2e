//! What Parallax talks about: keys, kinds, values, records, commands, replies, flags. No I/O, no async, no clock.

pub mod catalog;
pub mod command;
pub mod flag;
pub mod frame;
pub mod key;
pub mod plan;
pub mod reply;
pub mod text;
pub mod value;
