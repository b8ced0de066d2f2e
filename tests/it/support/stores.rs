//! Both real stores without a sidecar between them, so that a story can put the steps of the protocol in any order: a
//! write behind its mark, a capture, an apply, an acknowledgement.

use std::collections::BTreeMap;

use bytes::Bytes;
use parallax::dev::servers::PrivateRedis;
use parallax::dual::plan::{self, MirroredTouch, Step};
use parallax::dual::settle::{self, Due};
use parallax::model::catalog::{Catalog, Kind};
use parallax::model::command::Command;
use parallax::model::command::effect;
use parallax::model::command::table::Table;
use parallax::model::key::Key;
use parallax::model::reply::Reply;
use parallax::stores::postgres::Postgres;
use parallax::stores::postgres::apply::{self, Applied, Basis};
use parallax::stores::postgres::lineage as postgres_lineage;
use parallax::stores::postgres::pool::{Options, PostgresError};
use parallax::stores::postgres::rows::{Fate, Item};
use parallax::stores::redis::capture::{self, Captured, Purpose, Stamp, WholeBegin};
use parallax::stores::redis::connection::RedisError;
use parallax::stores::redis::lineage;
use parallax::stores::redis::marks::{self, Ack};
use parallax::stores::redis::{ELEMENTS_PREFIX, OUTBOX, Redis};
use parallax::stores::tls;

use crate::support::sidecar::PATIENCE;
use crate::support::{self, Database};

/// The epoch in which the stories begin.
pub(crate) const EPOCH: i64 = 1;

/// Two stores that know each other.
pub(crate) struct Stores {
    /// Held, so that it lives as long as the stores.
    _server: PrivateRedis,
    pub(crate) database: Database,
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    pub(crate) look: tokio_postgres::Client,
    pub(crate) catalog: Catalog,
    table: Table,
}

/// A record on its way: captured, and not yet applied or acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    pub(crate) key: Key,
    pub(crate) stamp: Stamp,
    pub(crate) item: Item,
    pub(crate) ack: Ack,
}

/// A row as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRow {
    pub(crate) version: i64,
    pub(crate) doc: Option<String>,
    /// `live`, `gone` or `deleted`.
    pub(crate) state: String,
}

impl Stores {
    pub(crate) async fn start() -> Self {
        let (server, database) = (support::redis().await, support::postgres().await);
        let redis = Redis::new(redis::Client::open(server.url()).unwrap(), PATIENCE);
        let config = tls::postgres_target(&database.settings());
        let postgres = Postgres::new(Options { config, tls: None, pool_size: 4, wait: PATIENCE });
        let table = Table::from_reply(&redis.command(Command::new(["COMMAND"])).await.unwrap());
        postgres_lineage::raise_epoch(&postgres, EPOCH).await.unwrap();
        let known = lineage::Postgres { system: "1".to_owned(), timeline: "1".to_owned(), beat: 0 };
        assert!(lineage::anchor(&redis, EPOCH, 0, &known).await.unwrap());
        let look = database.client().await;
        Self { _server: server, database, redis, postgres, look, catalog: Catalog::embedded(), table }
    }

    pub(crate) fn kind(&self, key: &str) -> &Kind {
        self.catalog.kind_of(key.as_bytes())
    }

    /// A command that passes every sidecar by; its parts stand between spaces.
    pub(crate) async fn raw(&self, line: &str) -> Reply {
        self.redis.command(command(line)).await.unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Commands in one EXEC behind their marks, as a sidecar sends them; their replies.
    pub(crate) async fn write(&self, token: &str, lines: &[&str]) -> Vec<Reply> {
        let steps: Vec<Step> = lines.iter().map(|line| self.step(command(line))).collect();
        let exec = plan::exec(&steps, token);
        let answer = self.redis.pipeline(&exec.commands).await.unwrap().pop().unwrap();
        let Reply::Array(replies) = answer else { panic!("{answer:?}") };
        (0..steps.len()).map(|step| replies[exec.reply_place(step)].clone()).collect()
    }

    fn step(&self, command: Command) -> Step {
        let positions = self.table.key_positions(&command).expect("its table tells");
        let mirrored =
            |touch: effect::Touch| MirroredTouch { kind: self.catalog.kind_of(touch.key.as_bytes()).clone(), touch };
        let touches = effect::touches(&command, &positions).into_iter().map(mirrored);
        Step { touches: touches.filter(|touch| touch.kind.is_mirrored()).collect(), command }
    }

    /// The mark of a record.
    pub(crate) async fn mark(&self, key: &str) -> Option<String> {
        let Reply::Bulk(token) = self.raw(&format!("HGET {OUTBOX} {key}")).await else { return None };
        Some(String::from_utf8(token.to_vec()).unwrap())
    }

    /// What is noted beside the mark of a collection.
    pub(crate) async fn companion(&self, key: &str) -> BTreeMap<String, String> {
        let Reply::Array(parts) = self.raw(&format!("HGETALL {ELEMENTS_PREFIX}{key}")).await else { panic!() };
        let text = |reply: &Reply| {
            let Reply::Bulk(bytes) = reply else { panic!("{reply:?}") };
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        parts.chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
    }

    /// One capture of a marked record.
    pub(crate) async fn take(&self, key: &str) -> Result<(Stamp, Captured), RedisError> {
        let wanted = (Key::new(key.to_owned()), settle::shape(self.kind(key)), Bytes::new());
        let (stamp, mut captured) = capture::capture(&self.redis, &[wanted], Purpose::Drain).await?;
        Ok((stamp, captured.remove(0)))
    }

    /// Captures a marked record that needs one capture alone.
    pub(crate) async fn carry(&self, key: &str) -> Carried {
        let (stamp, captured) = self.take(key).await.unwrap();
        let due = settle::due(self.kind(key), &stamp, captured);
        let Due::Write(item, ack) = due else { panic!("{key}: {due:?}") };
        Carried { key: Key::new(key.to_owned()), stamp, item: *item, ack }
    }

    /// Begins the capture of a whole collection.
    pub(crate) async fn whole(&self, key: &str) -> WholeBegin {
        let (_, captured) = self.take(key).await.unwrap();
        assert!(matches!(captured.found, capture::Found::Whole | capture::Found::Absent), "{captured:?}");
        capture::whole_begin(&self.redis, &Key::new(key.to_owned())).await.unwrap()
    }

    /// What a whole capture of an absent collection carries.
    pub(crate) fn absent(&self, key: &str, begin: WholeBegin) -> Carried {
        assert_eq!(begin.type_name, "none");
        let (key, kind) = (Key::new(key.to_owned()), self.kind(key));
        let fate = if begin.token.is_gone() { Fate::Deleted } else { Fate::Gone };
        let item = Item::Absent(kind.table, settle::header(kind, &key, &begin.stamp, fate));
        Carried { key, stamp: begin.stamp, item, ack: Ack::Whole(begin.token, begin.tokens) }
    }

    pub(crate) async fn apply(&self, carried: &Carried) -> Result<Applied, PostgresError> {
        let basis = Basis { epoch: carried.stamp.epoch, beat: carried.stamp.beat };
        apply::apply(&self.postgres, basis, std::slice::from_ref(&carried.item)).await
    }

    /// How many marks the acknowledgement removed.
    pub(crate) async fn ack(&self, carried: &Carried) -> Result<i64, RedisError> {
        marks::ack(&self.redis, carried.stamp.epoch, &[(carried.key.clone(), carried.ack.clone())]).await
    }

    /// Carries a record to its end.
    pub(crate) async fn bring(&self, key: &str) -> Applied {
        let carried = self.carry(key).await;
        let applied = self.apply(&carried).await.unwrap();
        self.ack(&carried).await.unwrap();
        applied
    }

    /// The row of a record, or the header of a collection or log.
    pub(crate) async fn row(&self, key: &str) -> Option<StoredRow> {
        let kind = self.kind(key);
        let is_document = kind.layout == parallax::model::catalog::Layout::Document;
        let (table, doc) = if is_document { (kind.table.name(), "doc::text") } else { ("collections", "NULL::text") };
        let text = format!("SELECT version, {doc}, {STATE} FROM {table} WHERE key = $1");
        let row = self.look.query_opt(&text, &[&key]).await.unwrap()?;
        Some(StoredRow { version: row.get(0), doc: row.get(1), state: row.get(2) })
    }

    /// Elements or entries of a record and their state, by their text.
    pub(crate) async fn elements(&self, key: &str) -> BTreeMap<String, StoredRow> {
        let table = self.kind(key).table.name();
        let text = format!(
            "SELECT element, version, doc::text, CASE WHEN deleted_at IS NULL THEN 'live' ELSE 'deleted' END
             FROM {table} WHERE key_hash = $1"
        );
        let rows = self.look.query(&text, &[&Key::new(key.to_owned()).hash()]).await.unwrap();
        rows.iter()
            .map(|row| (row.get(0), StoredRow { version: row.get(1), doc: row.get(2), state: row.get(3) }))
            .collect()
    }

    /// The names of live elements.
    pub(crate) async fn live_elements(&self, key: &str) -> Vec<String> {
        let live = self.elements(key).await.into_iter().filter(|(_, row)| row.state == "live");
        live.map(|(name, _)| name).collect()
    }

    pub(crate) async fn sql(&self, text: &str) {
        self.look.batch_execute(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    }
}

const STATE: &str =
    "CASE WHEN deleted_at IS NOT NULL THEN 'deleted' WHEN gone_at IS NOT NULL THEN 'gone' ELSE 'live' END";

/// The command whose parts stand between spaces.
pub(crate) fn command(line: &str) -> Command {
    Command::new(line.split(' ').map(|part| part.as_bytes().to_vec()))
}
