//! A model of Parallax' protocol: rules W, C, A, R, G, L, P and S, in several small models rather than one, each explored to its end.
//!
//! A model says what each actor may do in one atomic step of a store; the explorer takes every order of these steps and looks for
//! a state that breaks a property. Rules hold when none is found, and a mutant of a rule is only believed to be one when it is
//! found. `docs/model.md` has the scopes, the table of mutants, and what is left out.

pub mod collection;
pub mod explorer;
pub mod log;
pub mod mutant;
pub mod pair;
pub mod product;
pub mod property;
pub mod record;
pub mod stages;
pub mod suite;
