//! What one lane has counted: its replies come in the order of its commands, so their number tells what is answered.

use std::collections::VecDeque;

use crate::stores::redis::tally::{Counts, Tally, Told};

/// Moments of a lane at which what was sent is remembered until it is answered; at more of them the next ones are left out.
const MOMENTS_MAX: usize = 16;

/// What one lane has counted. Its replies come in the order of its commands.
#[derive(Default)]
pub(in crate::stores::redis) struct OfLane {
    sent: Counts,
    answered: Counts,
    /// Commands that were sent, and of these answered.
    commands: u64,
    replies: u64,
    /// Commands whose replies come over a connection that stands apart.
    apart: u64,
    /// What had been sent when so many commands had.
    moments: VecDeque<(u64, Counts)>,
}

impl OfLane {
    /// Counts `count` commands that are about to leave.
    pub(in crate::stores::redis) fn send(&mut self, tally: &Tally, bytes: &[u8], count: usize) {
        tally.count(bytes, &mut self.sent);
        self.commands += count as u64;
    }

    /// So many replies came.
    pub(in crate::stores::redis) fn reply(&mut self, count: u64, apart: Apart) {
        self.replies += count;
        match apart {
            Apart::No => {}
            Apart::Yes => self.apart = self.apart.saturating_sub(count),
        }
    }

    /// So many replies come over a connection that stands apart from here on.
    pub(in crate::stores::redis) fn stand_apart(&mut self, count: u64) {
        self.apart += count;
    }

    pub(in crate::stores::redis) fn sent(&self) -> &Counts {
        &self.sent
    }

    pub(in crate::stores::redis) fn tell(&mut self, told: &mut Told) {
        let is_answered = |(commands, _): &(u64, Counts)| *commands <= self.replies;
        while self.apart == 0 && self.moments.front().is_some_and(is_answered) {
            self.answered = self.moments.pop_front().map(|(_, counts)| counts).unwrap_or_default();
        }
        if self.moments.len() < MOMENTS_MAX {
            self.moments.push_back((self.commands, self.sent.clone()));
        }
        told.sent.add_all(&self.sent);
        told.answered.add_all(&self.answered);
    }
}

/// Whether a connection stands apart from its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stores::redis) enum Apart {
    /// It is the lane's.
    No,
    /// The lane goes on over another one.
    Yes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::redis::tally::tests::{bytes, pairs};

    #[test]
    fn what_a_lane_sent_is_answered_when_as_many_replies_came_and_none_is_owed_apart() {
        let (tally, mut lane) = (Tally::default(), OfLane::default());
        let answered = |lane: &mut OfLane| {
            let mut told = Told::default();
            lane.tell(&mut told);
            told.answered.by_name()
        };
        lane.send(&tally, &bytes(&["SET a 1", "SET b 1"]), 2);
        assert_eq!(answered(&mut lane), pairs(&[]));
        lane.reply(1, Apart::No);
        assert_eq!(answered(&mut lane), pairs(&[]));
        lane.stand_apart(1);
        lane.send(&tally, &bytes(&["SET c 1"]), 1);
        lane.reply(1, Apart::No);
        assert_eq!(answered(&mut lane), pairs(&[]), "the second is owed apart");
        lane.reply(1, Apart::Yes);
        answered(&mut lane);
        assert_eq!(answered(&mut lane), pairs(&[("set", 3)]));
    }
}
