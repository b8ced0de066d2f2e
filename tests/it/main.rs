//! Stories against real servers, and checks of the project itself. One binary, so that it is linked once.

#![cfg(test)]

mod arrows;
mod chart;
mod tidy;
//! Stories against real servers, and the rules that hold for the whole repository.

mod metrics;
