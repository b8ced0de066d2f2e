//! Servers for people who have none at hand: a private Redis and a private Postgres, used by `parallax dev`, by the demo
//! and by the tests, so that what a newcomer sees is what the tests have seen.

pub mod servers;
