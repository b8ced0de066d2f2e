//! The walk through the stages, with the traffic going on behind it.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::model::catalog::Catalog;
use crate::traffic::compare;
use crate::traffic::control::Control;
use crate::traffic::demo::feeder::{Feeder, Progress};
use crate::traffic::demo::input::Input;
use crate::traffic::demo::plant::{self, Found};
use crate::traffic::demo::report::{Report, grouped};
use crate::traffic::demo::screen::Screen;
use crate::traffic::demo::summary;
use crate::traffic::figures::Figures;
use crate::traffic::replay::{Replay, Tally};
use crate::traffic::stack::Stack;

/// Up to which percent of the traffic each stage lasts.
mod until {
    pub(super) const OFF: usize = 10;
    pub(super) const DUALWRITE: usize = 22;
    pub(super) const BACKFILL: usize = 34;
    pub(super) const SHADOW: usize = 54;
    pub(super) const LIVE_HALF: usize = 70;
    pub(super) const LIVE_BEFORE_OUTAGE: usize = 76;
    pub(super) const OUTAGE: usize = 82;
    pub(super) const LIVE_ALL: usize = 90;
}

/// Commands that build the keyspace, sent at once.
const LOAD_BURST: usize = 64;

/// How long the outbox may take to empty once Postgres is there.
const OUTBOX_DEADLINE: Duration = Duration::from_secs(60);

/// Share of the reads that the demo compares.
const SAMPLE_RATE: f64 = 0.25;

/// How long a read may wait for Postgres: a demo machine is small and busy.
const DEADLINE_MS: u64 = 50;

/// What the walk has seen; see [`summary`].
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) loaded: u64,
    pub(super) stage_changes: BTreeMap<&'static str, Duration>,
    pub(super) backfill: Duration,
    pub(super) marked_from: Progress,
    pub(super) after_backfill: (Progress, Figures),
    pub(super) found: Option<Found>,
    pub(super) before_outage: Figures,
    pub(super) outage: Duration,
    pub(super) outage_depth: u64,
    pub(super) outage_recovery: Duration,
    pub(super) rollback_wall: Duration,
    pub(super) rollback_report: Value,
    pub(super) after_rollback: Figures,
    pub(super) last: Figures,
    pub(super) last_outbox: u64,
    pub(super) tally: Tally,
}

/// The walk in progress.
pub(super) struct Walk<'a> {
    stack: &'a Stack,
    screen: &'a mut Screen,
    control: Control,
    seen: Seen,
}

impl<'a> Walk<'a> {
    pub(super) fn new(stack: &'a Stack, screen: &'a mut Screen) -> Self {
        let control = Control::new(&stack.admin_door);
        Self { stack, screen, control, seen: Seen::default() }
    }

    /// From off to the final comparison.
    pub(super) async fn all(mut self, input: Input) -> anyhow::Result<Report> {
        self.load(&input).await?;
        let mut feeder = Feeder::start(&self.stack.data_door, input.bursts);
        self.screen.follow(feeder.total(), feeder.watch());
        self.up_to_shadow(&mut feeder).await.context("on the way up to shadow")?;
        self.live(&mut feeder).await.context("in stage live")?;
        self.outage(&mut feeder).await.context("while Postgres was stopped")?;
        self.rollback(&mut feeder).await.context("in the rollback")?;
        self.finish(feeder).await
    }

    async fn load(&mut self, input: &Input) -> anyhow::Result<()> {
        self.screen.doing("loading the keyspace while off");
        let mut replay = Replay::new(&self.stack.data_door);
        for burst in input.keyspace.chunks(LOAD_BURST) {
            replay.send(&burst.to_vec()).await?;
        }
        self.seen.loaded = replay.tally.commands;
        self.seen.tally = replay.tally;
        let depth = self.stack.outbox_depth().await?;
        let loaded = grouped(self.seen.loaded);
        self.screen.done("off", &format!("keyspace loaded by {loaded} commands; {depth} marks in the outbox"));
        Ok(())
    }

    async fn step(&mut self, name: &'static str, change: &Value) -> anyhow::Result<()> {
        self.screen.doing(name);
        let took = self.control.change(change).await?;
        self.seen.stage_changes.insert(name, took);
        self.screen.done(name, &format!("confirmed after {:.2} s", took.as_secs_f64()));
        Ok(())
    }

    async fn up_to_shadow(&mut self, feeder: &mut Feeder) -> anyhow::Result<()> {
        self.screen.doing("off");
        feeder.open(until::OFF);
        feeder.reach(until::OFF).await;
        feeder.open(until::DUALWRITE);
        self.step("dualwrite", &json!({"stage": "dualwrite", "reason": "demo"})).await?;
        self.seen.marked_from = feeder.progress();
        feeder.reach(until::DUALWRITE).await;

        feeder.open(until::BACKFILL);
        self.screen.doing("backfill");
        self.seen.backfill = self.control.backfill().await?;
        self.screen.done("backfill", &format!("finished after {:.2} s", self.seen.backfill.as_secs_f64()));
        feeder.reach(until::BACKFILL).await;
        self.seen.after_backfill = (feeder.progress(), self.control.figures().await?);

        feeder.open(until::SHADOW);
        let shadow = json!({"stage": "shadow", "sample_rate": SAMPLE_RATE, "reason": "demo"});
        self.step("shadow", &shadow).await?;
        self.screen.doing("shadow: looking for a planted corruption");
        let (door, postgres) = (self.stack.data_door.clone(), self.stack.postgres.url());
        let found = plant::corrupt_find_repair(&door, &postgres, &mut self.control).await?;
        let after = found.after.as_secs_f64();
        self.screen.done(
            "corruption",
            &format!("planted, found as `{}` by {} reads in {after:.2} s, repaired", found.class, found.reads),
        );
        self.seen.found = Some(found);
        feeder.reach(until::SHADOW).await;
        self.screen.doing("verification");
        let took = self.control.verification().await?;
        self.screen.done("verify", &format!("every record compared within {:.2} s", took.as_secs_f64()));
        Ok(())
    }

    /// A step that sends more reads to Postgres. What its gates ask for in vain is said, and stands in the audit: a demo of a
    /// large keyspace is too short for the sample that they want.
    async fn raise(&mut self, name: &'static str, mut change: Value) -> anyhow::Result<()> {
        let (unmet, is_overridable) = self.control.in_the_way(&change).await?;
        if !unmet.is_empty() && is_overridable {
            self.screen.done("gates", &format!("overridden: {}", unmet.join("; ")));
            if let Some(members) = change.as_object_mut() {
                members.insert("override".to_owned(), json!(true));
            }
        }
        self.step(name, &change).await
    }

    async fn live(&mut self, feeder: &mut Feeder) -> anyhow::Result<()> {
        feeder.open(until::LIVE_HALF);
        let half = json!({"stage": "live", "percent": 50, "deadline_ms": DEADLINE_MS, "reason": "demo"});
        self.raise("live 50 %", half).await?;
        feeder.reach(until::LIVE_HALF).await;
        feeder.open(until::LIVE_BEFORE_OUTAGE);
        self.raise("live 100 %", json!({"percent": 100, "reason": "demo"})).await?;
        feeder.reach(until::LIVE_BEFORE_OUTAGE).await;
        self.seen.before_outage = self.control.figures().await?;
        Ok(())
    }

    /// Postgres is stopped while reads come from it and writes go on, and started again.
    async fn outage(&mut self, feeder: &mut Feeder) -> anyhow::Result<()> {
        self.screen.doing("Postgres is stopped");
        let began = Instant::now();
        self.stack.postgres.stop().await?;
        // Recorded traffic has stretches that only read: the outage lasts until a write has waited.
        for percent in until::LIVE_BEFORE_OUTAGE..until::LIVE_ALL {
            feeder.open(percent);
            feeder.reach(percent).await;
            self.seen.outage_depth = self.stack.outbox_depth().await?;
            if percent >= until::OUTAGE && self.seen.outage_depth > 0 {
                break;
            }
        }
        self.stack.postgres.restart().await?;
        self.seen.outage = began.elapsed();
        feeder.open(until::LIVE_ALL);
        feeder.reach(until::LIVE_ALL).await;
        self.seen.outage_recovery = self.stack.wait_for_empty_outbox(OUTBOX_DEADLINE).await?;
        self.screen.done(
            "outage",
            &format!(
                "Postgres was away for {:.1} s, {} marks waited, outbox back at 0",
                self.seen.outage.as_secs_f64(),
                grouped(self.seen.outage_depth)
            ),
        );
        Ok(())
    }

    async fn rollback(&mut self, feeder: &mut Feeder) -> anyhow::Result<()> {
        feeder.open(95);
        self.screen.doing("rollback");
        let began = Instant::now();
        self.seen.rollback_report = self.control.rollback("the demo takes its reads back").await?;
        self.seen.rollback_wall = began.elapsed();
        self.seen.after_rollback = self.control.figures().await?;
        let seconds = self.seen.rollback_wall.as_secs_f64();
        self.screen.done("rollback", &format!("all reads back on Redis after {seconds:.2} s"));
        feeder.reach(95).await;
        Ok(())
    }

    async fn finish(mut self, feeder: Feeder) -> anyhow::Result<Report> {
        let tally = feeder.finish().await?;
        self.seen.tally.add(&tally);
        self.screen.doing("waiting for the outbox to empty");
        self.stack.wait_for_empty_outbox(OUTBOX_DEADLINE).await?;
        self.screen.doing("comparing every record of both stores");
        let catalog = Catalog::embedded();
        let equality = compare::stores(&self.stack.redis.url(), &self.stack.postgres.url(), &catalog).await?;
        self.screen.done("compare", &format!("{} records compared", grouped(equality.records)));
        self.seen.last = self.control.figures().await?;
        self.seen.last_outbox = self.stack.outbox_depth().await?;
        Ok(summary::report(&self.seen, &equality))
    }
}
