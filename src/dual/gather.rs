//! The answers to commands, each in its place, and the steps that are sent together.

use crate::dual::plan::Step;
use crate::dual::{Answer, EngineError};

/// A command failed for a reason that is not its own, so nothing is sent behind it. The reason stands in its place.
pub(super) struct Failed;

/// The answers to commands, each in its place; `None` while nothing is known of it.
pub(super) struct Answers(pub(super) Vec<Option<Result<Answer, EngineError>>>);

impl Answers {
    pub(super) fn set(&mut self, place: usize, answer: Result<Answer, EngineError>) {
        if let Some(slot) = self.0.get_mut(place) {
            *slot = Some(answer);
        }
    }

    pub(super) fn set_or_fail(&mut self, place: usize, answer: Result<Answer, EngineError>) -> Result<(), Failed> {
        let failed = answer.as_ref().map_or(Err(Failed), |_| Ok(()));
        self.set(place, answer);
        failed
    }
}

/// Steps that are sent together, and the places of their answers.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) steps: Vec<Step>,
    pub(super) places: Vec<usize>,
}

impl Gathered {
    pub(super) fn add(&mut self, place: usize, step: Step) {
        self.steps.push(step);
        self.places.push(place);
    }
}
