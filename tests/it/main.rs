//! Stories against real servers.

mod settings;
