//! Reads from Postgres behind the fence (R1), and comparisons that begin with the same look (R2).

use super::state::{Fate, NONE, Postgres, Reader, State};
use super::{Next, Record};
use crate::explorer::Label;
use crate::mutant::Mutant;
use crate::product::{Held, HeldRow, Said};
use crate::property::Property;

impl Record {
    pub(super) fn read_steps(&self, state: &State, next: &mut Next) {
        let mut after = *state;
        if state.reader == Reader::default() {
            if self.is(Mutant::ReadBeforeFence) || self.is(Mutant::NoFence) {
                let Postgres { row, floor, epoch, beat, .. } = state.postgres;
                let seen = 1 << state.redis.value;
                after.reader = Reader {
                    is_reading: true,
                    row,
                    floor,
                    row_epoch: epoch,
                    row_beat: beat,
                    seen,
                    ..Reader::default()
                };
                next.push((Label("a read begins: Postgres is asked", 0), after));
                return;
            }
            after.reader = self.fence(state);
            if after.reader != Reader::default() {
                next.push((Label("a read begins: the fence", 0), after));
            }
            return;
        }
        after.reader = Reader::default();
        if self.is(Mutant::ReadBeforeFence) || self.is(Mutant::NoFence) {
            let reader = &state.reader;
            let fence = Reader { seen: reader.seen, ..self.fence(state) };
            let held = Postgres {
                row: reader.row,
                floor: reader.floor,
                epoch: reader.row_epoch,
                beat: reader.row_beat,
                ..Postgres::default()
            };
            let passes = fence.is_reading || self.is(Mutant::NoFence);
            let fence = if self.is(Mutant::NoFence) { Reader { clock: u8::MAX, ..fence } } else { fence };
            if passes {
                self.answer(&mut after, &fence, &held);
            }
            next.push((Label("the read is answered", 0), after));
            return;
        }
        if state.reader.is_reading {
            self.answer(&mut after, &state.reader, &state.postgres);
        }
        if state.reader.is_comparing && state.knows_postgres() {
            self.compare(&mut after, &state.reader, &state.postgres);
        }
        next.push((Label("Postgres is read: the read is answered and compared", 0), after));
    }

    /// One script: mark or not, present or not, the clock, the epoch, the time. What Redis answers at once needs no reader.
    fn fence(&self, state: &State) -> Reader {
        let redis = &state.redis;
        let is_outside = redis.anchor_run != redis.run;
        let is_compared = redis.token == NONE && !is_outside;
        let is_backfilled = !self.scope.is_gated || state.is_backfilled();
        let ignores_epoch = self.is(Mutant::FenceWithoutEpoch);
        let is_reading = redis.token == NONE
            && (!is_outside || ignores_epoch)
            && (redis.value != NONE || !self.scope.asks_presence)
            && is_backfilled;
        if !is_reading && !is_compared {
            return Reader::default();
        }
        Reader {
            is_reading,
            is_comparing: is_compared,
            clock: redis.clock,
            epoch: redis.anchor_epoch,
            is_outside,
            time: state.now,
            beat: redis.beat,
            value: redis.value,
            expires: redis.expires,
            was_evicted: redis.was_evicted,
            backfilled: redis.backfilled,
            seen: 1 << redis.value,
            ..Reader::default()
        }
    }

    fn said(&self, reader: &Reader) -> Said {
        let epoch = (!reader.is_outside).then_some(reader.epoch);
        let beat = if self.is(Mutant::NoHeartbeat) { 0 } else { reader.beat };
        Said { clock: reader.clock, epoch, time: reader.time, beat }
    }

    fn held(&self, postgres: &Postgres) -> Held {
        let Postgres { row, floor, epoch, beat, .. } = *postgres;
        let fate = match row.fate {
            Fate::None => None,
            Fate::Present => Some(parallax::stores::postgres::rows::Fate::Present),
            Fate::Gone => Some(parallax::stores::postgres::rows::Fate::Gone),
            Fate::Deleted => Some(parallax::stores::postgres::rows::Fate::Deleted),
        };
        let row = fate.map(|fate| HeldRow {
            version: row.version,
            value: row.value,
            expires: row.expires,
            fate,
            is_complete: true,
        });
        Held { epoch, floor, beat, row }
    }

    /// The product decides whether the row may answer; a mutant changes what it is asked.
    fn answer(&self, state: &mut State, reader: &Reader, postgres: &Postgres) {
        if !state.knows_postgres() && !self.is(Mutant::NoHeartbeat) && !self.is(Mutant::FenceBeatAlone) {
            return;
        }
        let (mut said, mut held) = (self.said(reader), self.held(postgres));
        if self.is(Mutant::FenceWithoutEpoch) {
            said.epoch = Some(held.epoch);
        }
        if self.is(Mutant::NoFence) {
            said = Said { clock: u8::MAX, epoch: Some(held.epoch), time: 0, beat: 0 };
        }
        if self.is(Mutant::NewerRowBelieved) {
            said.clock = u8::MAX;
        }
        if self.is(Mutant::ExpiryIgnored) {
            held.row = held.row.map(|row| HeldRow { expires: 0, ..row });
        }
        if self.is(Mutant::GoneServed) {
            let fate = parallax::stores::postgres::rows::Fate::Present;
            let served = |row: HeldRow| if postgres.row.fate == Fate::Gone { HeldRow { fate, ..row } } else { row };
            held.row = held.row.map(served);
        }
        if self.is(Mutant::MissIsEmpty) && held.row.is_none() && said.epoch == Some(held.epoch) {
            self.is_answered(state, reader, NONE);
            return;
        }
        if let Some(row) = held.row.filter(|_| self.product.believes(&said, &held)) {
            self.is_answered(state, reader, row.value);
        }
    }

    fn is_answered(&self, state: &mut State, reader: &Reader, value: u8) {
        if reader.seen & (1 << value) == 0 {
            state.breaks(Property::Linearizable);
        }
    }

    fn compare(&self, state: &mut State, reader: &Reader, postgres: &Postgres) {
        let mut said = self.said(reader);
        if self.is(Mutant::VerdictWithoutClock) {
            said.clock = u8::MAX;
        }
        // As it was known before the look: a backfill that is complete by now may have passed the record before it was deleted.
        let backfilled = if self.is(Mutant::LaterBackfill) { state.redis.backfilled } else { reader.backfilled };
        // Of another epoch it is owed, and what differs is no news (P1).
        if backfilled > 0 && backfilled != reader.epoch {
            return;
        }
        let looked = (reader.value, reader.expires);
        let class = self.product.mismatch(backfilled > 0, &said, looked, &self.held(postgres));
        let is_evicted = class == Some("missing_in_redis") && reader.was_evicted;
        if class.is_some() && !is_evicted && !state.owes_backfill() {
            state.breaks(Property::TrueVerdict);
        }
    }
}
