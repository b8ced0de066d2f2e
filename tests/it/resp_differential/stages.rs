//! The door in every stage: off, dual write, shadow with every read compared, and live with every read from Postgres that
//! may come from there; and the marks of every command while Postgres is frozen.

use parallax::dev::servers::{PostgresOptions, PrivateRedis};
use parallax::model::catalog::Catalog;
use parallax::traffic::compare;
use parallax::traffic::world::Dice;

use super::look::Look;
use super::pair::{Pair, Protocol, address, server};
use super::policy::{Policy, REFUSED, is_refused};
use super::wire::{Frame, Wire, Words, words};
use super::{cases, cases_and_stories, hold_the_same, is_harmless, is_soak, marks, random};
use crate::support::sidecar::Sidecar;
use crate::support::{self, Database};

/// What the log says of a record whose type does not fit the layout of its kind.
const MISFIT: &str = "cannot be mirrored";
/// Pipelines and transactions whose marks are looked at.
const GROUPS: usize = 300;
/// Commands in one of them.
const GROUP_COMMANDS: u64 = 6;
/// Reads that are told in one write.
const READS_AT_ONCE: usize = 40;

struct Setting {
    bare: PrivateRedis,
    behind: PrivateRedis,
    database: Database,
    sidecar: Sidecar,
}

impl Setting {
    async fn in_stage(stage: &str) -> Self {
        let (bare, behind, database) = tokio::join!(server(), server(), support::postgres());
        let sidecar = Sidecar::start(&behind, &database).await;
        if stage != "off" {
            sidecar.raise(stage).await;
        }
        Self { bare, behind, database, sidecar }
    }

    async fn pair(&self, protocol: Protocol, policy: Policy) -> Pair {
        Pair::connect(&address(&self.bare), &self.sidecar.resp, protocol, policy).await
    }

    /// Everything in both protocols; then both Redises hold the same, and so does Postgres.
    async fn answers_as_redis_does(self, policy: Policy) {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            cases_and_stories(&address(&self.bare), &self.sidecar.resp, protocol, policy).await;
            // Their marks grow old, and the guard would take their kinds back to Redis.
            self.without_misfits().await;
            random(&address(&self.bare), &self.sidecar.resp, protocol, policy).await;
        }
        hold_the_same(&address(&self.bare), &address(&self.behind)).await;
        if policy != Policy::Off {
            self.without_misfits().await;
            self.sidecar.drained().await;
            let equality =
                compare::stores(&self.behind.url(), &self.database.url(), &Catalog::embedded()).await.unwrap();
            assert!(equality.holds() && equality.records > 0, "{:?}", equality.differences);
        }
        assert!(self.sidecar.metric("parallax_mismatches_total", &[]).await.abs() < 0.5);
        self.sidecar.stop_with(&[], &[MISFIT]).await;
    }

    /// Deletes in both what no table can hold: its marks stay for as long as it is there.
    async fn without_misfits(&self) {
        let states = Look::at(&address(&self.behind)).await.states().await;
        let catalog = Catalog::embedded();
        let (bare, door) = (address(&self.bare), self.sidecar.resp.clone());
        for mut wire in [Wire::connect(&bare).await, Wire::connect(&door).await] {
            for (key, _) in states.iter().filter(|(key, state)| !state.fits(catalog.kind_of(key))) {
                wire.send(&super::wire::encoded(&["DEL".into(), key.clone()])).await;
                wire.hear().await;
            }
            // One that fits, so that there is something to compare.
            wire.ask("SET user:differential-last v").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_in_stage_off_the_door_answers_as_redis_does() {
    Setting::in_stage("off").await.answers_as_redis_does(Policy::Off).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_in_stage_dualwrite_the_door_answers_as_redis_does() {
    Setting::in_stage("dualwrite").await.answers_as_redis_does(Policy::Mirrored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_in_stage_shadow_the_door_answers_as_redis_does() {
    Setting::in_stage("shadow").await.answers_as_redis_does(Policy::Mirrored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_in_stage_live_the_door_answers_as_redis_does() {
    Setting::in_stage("live").await.answers_as_redis_does(Policy::Live).await;
}

/// The commands that the server calls readers.
async fn readers(server: &PrivateRedis) -> Vec<String> {
    let mut wire = Wire::connect(&address(server)).await;
    let Frame::Many(_, Some(rows)) = wire.ask("COMMAND").await else { panic!("COMMAND answers an array") };
    let is_reader = |row: &&Frame| match row {
        Frame::Many(_, Some(parts)) => parts[2].holds(b"readonly"),
        Frame::Many(_, None) | Frame::Line(..) | Frame::Blob(..) => false,
    };
    let name = |row: &Frame| match row {
        Frame::Many(_, Some(parts)) => match &parts[0] {
            Frame::Blob(_, Some(name)) => String::from_utf8_lossy(name).to_ascii_uppercase(),
            Frame::Blob(_, None) | Frame::Line(..) | Frame::Many(..) => panic!("{parts:?}"),
        },
        Frame::Many(_, None) | Frame::Line(..) | Frame::Blob(..) => panic!("{row:?}"),
    };
    rows.iter().filter(is_reader).map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_answers_is_what_redis_would_have_said() {
    let setting = Setting::in_stage("live").await;
    let readers = readers(&setting.bare).await;
    let (seeds, reads) = cases::reads(|name| readers.iter().any(|reader| reader.eq_ignore_ascii_case(name)));
    let mut pair = setting.pair(Protocol::Resp2, Policy::Live).await;
    for chunk in seeds.chunks(READS_AT_ONCE) {
        pair.tell(chunk).await;
    }
    pair.judge("seeds");
    setting.sidecar.drained().await;
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let mut pair = setting.pair(protocol, Policy::Live).await;
        // In pipelines, in which replies must keep their order, and each one alone.
        for chunk in reads.chunks(READS_AT_ONCE) {
            pair.tell(chunk).await;
        }
        for read in reads.iter().step_by(7) {
            pair.tell(std::slice::from_ref(read)).await;
        }
        assert!(pair.judge(&format!("{protocol:?}")) > reads.len());
    }
    let from_postgres = setting.sidecar.metric("parallax_reads_total", &[("store", "postgres")]).await;
    eprintln!("{} reads, {from_postgres} answers from postgres", reads.len());
    assert!(from_postgres > 500.0, "only {from_postgres} reads were answered by Postgres");
    assert!(setting.sidecar.metric("parallax_mismatches_total", &[]).await.abs() < 0.5);
    setting.sidecar.stop_with(&[], &[MISFIT]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_acts_on_the_server_is_refused_while_anything_is_mirrored() {
    let setting = Setting::in_stage("dualwrite").await;
    let mut door = Wire::connect(&setting.sidecar.resp).await;
    door.ask("SET user:kept v").await;
    for line in REFUSED {
        for reply in [door.ask(line).await, door.ask(&line.to_lowercase()).await] {
            assert!(reply.is_error("PARALLAX "), "{line}: {reply:?}");
        }
        // Within a transaction it takes the others with it, as a command does that Redis refuses to queue.
        door.ask("MULTI").await;
        assert!(door.ask(line).await.is_error("PARALLAX "), "{line}");
        assert!(door.ask("EXEC").await.is_error("EXECABORT"), "{line}");
    }
    assert!(matches!(door.ask("EXISTS user:kept").await, Frame::Line(b':', one) if one.as_ref() == b"1"));
    setting.sidecar.stop_expecting(&[]).await;
}

/// Commands that are told together, and what is made before them.
struct Group {
    seeds: Vec<Words>,
    commands: Vec<Words>,
}

/// Every case alone, and random ones together, in pipelines and in transactions.
fn groups(dice: &mut Dice, cases: &[cases::Case]) -> Vec<Group> {
    let alone = |case: &cases::Case| Group { seeds: case.seeds.clone(), commands: vec![case.command.clone()] };
    let mut groups: Vec<Group> = cases.iter().map(alone).collect();
    // What the door refuses in a transaction would make all of it fail.
    let changes_connection = |case: &&cases::Case| {
        ["SELECT", "HELLO", "AUTH"].iter().any(|name| case.command[0].eq_ignore_ascii_case(name.as_bytes()))
    };
    let mixable: Vec<&cases::Case> = cases.iter().filter(|case| !changes_connection(case)).collect();
    for number in 0..GROUPS {
        let chosen: Vec<&cases::Case> = (0..2 + dice.below(GROUP_COMMANDS)).map(|_| *dice.pick(&mixable)).collect();
        let seeds = chosen.iter().flat_map(|case| case.seeds.iter().cloned()).collect();
        let mut commands: Vec<Words> = chosen.iter().map(|case| case.command.clone()).collect();
        if number % 2 == 0 {
            commands.insert(0, words("MULTI"));
            commands.push(words("EXEC"));
        }
        groups.push(Group { seeds, commands });
    }
    groups
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_the_keys_marked_cover_the_keys_changed() {
    let (bare, behind) = tokio::join!(server(), server());
    let database = support::postgres_of_its_own(PostgresOptions::default()).await;
    let sidecar = Sidecar::start(&behind, &database).await;
    sidecar.raise("dualwrite").await;
    sidecar.drained().await;
    // What is marked stays marked: nobody captures into a store that does not answer.
    database.server.pause().unwrap();
    let seed: u64 = rand::random();
    let mut dice = Dice::new(seed);
    let mut cases = cases::all();
    // What is refused makes an EXEC fail, as a command does that Redis refuses to queue.
    cases.retain(|case| {
        is_harmless(case) && !is_refused(&case.command) && (is_soak() || dice.below(100) < super::SHARE * 2)
    });
    let mut pair = Pair::connect(&address(&bare), &sidecar.resp, Protocol::Resp2, Policy::Mirrored).await;
    let (mut look, catalog, mut wrong) = (Look::at(&address(&behind)).await, Catalog::embedded(), Vec::new());
    let (readers, mut changed) = (readers(&bare).await, 0);
    let is_read = |command: &Words| {
        let name = String::from_utf8_lossy(&command[0]).to_ascii_uppercase();
        // Redis calls PFCOUNT a reader, and yet it writes.
        name != "PFCOUNT" && (name == "MULTI" || name == "EXEC" || readers.contains(&name))
    };
    for group in groups(&mut dice, &cases) {
        pair.tell(&group.seeds).await;
        look.forget_marks().await;
        let before = look.states().await;
        pair.tell(&group.commands).await;
        let (after, marks) = (look.states().await, look.marks().await);
        changed += usize::from(before != after);
        wrong.extend(marks::missed(&catalog, &group.commands, &before, &after, &marks));
        if group.commands.iter().all(is_read) && !marks.tokens.is_empty() {
            wrong.push(format!("a read left a mark: {:?}", group.commands));
        }
    }
    eprintln!("seed {seed}: {} replies, {changed} groups changed something", pair.judge(&format!("seed {seed}")));
    assert!(wrong.is_empty(), "seed {seed}: {} marks are missing or wrong\n  {}", wrong.len(), wrong.join("\n  "));
    assert!(changed > 500, "only {changed} groups changed anything");
    hold_the_same(&address(&bare), &address(&behind)).await;
    database.server.resume().unwrap();
    sidecar.stop_with(&[], &["postgres", "Postgres", "left with marks", MISFIT]).await;
}
