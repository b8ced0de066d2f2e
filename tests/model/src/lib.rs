//! A model of Parallax' protocol: rules W, C, A, R, G, L, P and S, in several small models rather than one, each explored to its end.
pub mod collection;
pub mod explorer;
pub mod log;
pub mod mutant;
pub mod pair;
pub mod product;
pub mod property;
pub mod record;
pub mod stages;
