//! Apply: guarded upserts of captured records, in one transaction behind the control row (rules A1-A3, C3, C4).
//!
//! A little over 400 lines, because the statements of one transaction are read together.

use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use futures_util::try_join;

use crate::model::catalog::Table;
use crate::model::key::hash16;
use crate::model::text;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::journal;
use crate::stores::postgres::pool::{PostgresError, TRANSACTION_DEADLINE, within};
use crate::stores::postgres::rows::{ElementRow, Fate, Item, RecordRow, Whole};
use crate::stores::postgres::statement::{Bind, Statement};

/// Rows in one statement at most.
pub const STATEMENT_ROWS_MAX: usize = 500;
/// Bytes of documents in one statement, after which the next one begins.
const STATEMENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The captures that an apply rests on: of one epoch, none older than the heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct Basis {
    /// The epoch of all captures.
    pub epoch: i64,
    /// The highest heartbeat that Redis knew at any of them (P1).
    pub beat: i64,
}

/// What an apply did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Table and number of rows that rose.
    pub upserts: Vec<(&'static str, i64)>,
    /// The kinds of records that went without having expired, one for each record.
    pub evicted: Vec<String>,
}

#[derive(QueryableByName)]
struct Control {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = BigInt)]
    floor: i64,
    #[diesel(sql_type = BigInt)]
    beat: i64,
}

#[derive(QueryableByName)]
struct Upserted {
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = Array<Text>)]
    evicted: Vec<String>,
}

/// Applies `items` in one transaction.
///
/// # Errors
/// [`PostgresError::Superseded`] or [`PostgresError::WentBack`] when the captures are no longer good: then nothing is
/// written, and nothing may be acknowledged. Any other error leaves the outcome unknown: apply again (A3).
pub async fn apply(postgres: &Postgres, basis: Basis, items: &[Item]) -> Result<Applied, PostgresError> {
    let lowest = items.iter().map(|item| item.header().version).min().unwrap_or(i64::MAX);
    let mut tables: Vec<&'static str> = items.iter().flat_map(Item::tables).collect();
    tables.sort_unstable();
    tables.dedup();
    let mut pooled = postgres.connection().await?;
    let connection: &mut AsyncPgConnection = &mut pooled;
    let done = connection.transaction(async |connection: &mut AsyncPgConnection| {
        let connection = &*connection;
        let keys = items.iter().map(|item| item.header().key.hash()).collect();
        // Sent together: what the control rows refuse is rolled back, whatever came after them.
        let ((), applied, ()) = try_join!(
            check_control(connection, basis, lowest, &tables),
            upsert(connection, items),
            journal::forget_letters(connection, keys)
        )?;
        Ok(applied)
    });
    within(TRANSACTION_DEADLINE, done).await
}

async fn upsert(connection: &AsyncPgConnection, items: &[Item]) -> Result<Applied, PostgresError> {
    let mut applied = Applied::default();
    for table in Table::ALL {
        let rows: Vec<&RecordRow> = items.iter().filter_map(|item| record_of(item, *table)).collect();
        upsert_records(connection, table.name(), &rows, &mut applied).await?;
    }
    for item in items {
        apply_collection(connection, item, &mut applied).await?;
    }
    Ok(applied)
}

fn record_of(item: &Item, table: Table) -> Option<&RecordRow> {
    match item {
        Item::Record(of, row) if *of == table => Some(row),
        Item::Record(..) | Item::Elements(..) | Item::Absent(..) | Item::Log { .. } => None,
    }
}

/// Holds the control rows until the transaction ends, and refuses captures of another lineage (A2, P1).
async fn check_control(
    connection: &AsyncPgConnection,
    basis: Basis,
    lowest: i64,
    tables: &[&str],
) -> Result<(), PostgresError> {
    let statement = Statement::new(
        "SELECT epoch, floor, coalesce((SELECT beat FROM heartbeat), 0) AS beat FROM control
         WHERE table_name = ANY({}) ORDER BY table_name FOR SHARE",
        vec![Bind::TextList(tables.iter().map(|table| (*table).to_owned()).collect())],
    );
    let rows: Vec<Control> = statement.rows(connection).await?;
    if rows.iter().any(|row| row.beat < basis.beat) {
        return Err(PostgresError::WentBack);
    }
    let is_current = |row: &Control| row.epoch == basis.epoch && lowest > row.floor;
    if rows.len() != tables.len() || !rows.iter().all(is_current) {
        return Err(PostgresError::Superseded);
    }
    Ok(())
}

async fn apply_collection(
    connection: &AsyncPgConnection,
    item: &Item,
    applied: &mut Applied,
) -> Result<(), PostgresError> {
    match item {
        Item::Record(..) => Ok(()),
        Item::Elements(header, elements) => {
            upsert_header(connection, header, None, applied).await?;
            upsert_elements(connection, Table::Elements, header, elements, applied).await
        }
        Item::Log { header, first_id, last_id, entries, missing } => {
            upsert_header(connection, header, Some((first_id, last_id)), applied).await?;
            upsert_elements(connection, Table::EventLogs, header, entries, applied).await?;
            if *missing > 0 { journal::note_gap(connection, header, first_id, *missing).await } else { Ok(()) }
        }
        Item::Absent(table, header) => {
            upsert_header(connection, header, None, applied).await?;
            if header.fate == Fate::Deleted {
                bury(connection, *table, header, header.version, None, applied).await?;
                let statement = Statement::new(
                    "UPDATE collections SET complete = false, floor = greatest(floor, version - 1), last_version = version
                     WHERE key_hash = {} AND version = {}",
                    vec![Bind::Bytes(header.key.hash()), Bind::Number(header.version)],
                );
                statement.run(connection).await?;
            }
            Ok(())
        }
    }
}

macro_rules! raised {
    () => {
        "type = CASE WHEN excluded.gone_at IS NULL THEN excluded.type ELSE t.type END,
    expires_at = CASE WHEN excluded.gone_at IS NULL THEN excluded.expires_at ELSE t.expires_at END,
    gone_at = CASE WHEN t.deleted_at IS NULL THEN excluded.gone_at END,
    deleted_at = CASE WHEN excluded.gone_at IS NULL THEN excluded.deleted_at ELSE t.deleted_at END,
    version = excluded.version"
    };
}

/// What a guarded upsert does to a row that is there: an absence without the bit keeps the document, and on a tombstone
/// only the version rises (C3).
const ON_CONFLICT: &str = concat!(raised!(), ", seq = excluded.seq, updated_at = excluded.updated_at");
const RAISED: &str = raised!();
const TIME: &str = "timestamptz 'epoch' + g.time_us * interval '1 microsecond'";
/// Expiry beyond the year 9999 is kept as the end of that year: no clock of ours reaches it.
const EXPIRES: &str = "CASE WHEN g.expires_ms IS NOT NULL THEN
    timestamptz 'epoch' + least(g.expires_ms, 253402300799000) * interval '1 millisecond' END";

/// Upserts rows of a record table. Those that are there are updated first: an INSERT computes all typed columns of a row
/// before it finds that the row is there, and an UPDATE only those that hang on what has changed.
async fn upsert_records(
    connection: &AsyncPgConnection,
    table: &'static str,
    rows: &[&RecordRow],
    applied: &mut Applied,
) -> Result<(), PostgresError> {
    let mut rest = rows;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |row: &&&RecordRow| {
            bytes += row.doc.as_ref().map_or(0, String::len);
            bytes <= STATEMENT_BYTES_MAX
        };
        let count = rest.iter().take(STATEMENT_ROWS_MAX).take_while(fits).count().max(1);
        let (batch, others) = rest.split_at(count);
        let mut batch = batch.to_vec();
        // Sorted, so that two sidecars take row locks in the same order; where a plan takes them in another one and two
        // transactions meet crosswise, Postgres ends one of them and it is repeated.
        batch.sort_by_key(|row| row.key.hash());
        let text = format!(
            "WITH given AS (SELECT key_hash, key, kind, id, type, doc::jsonb AS doc, version, {EXPIRES} AS expires_at,
                    CASE WHEN fate = 1 THEN {TIME} END AS gone_at, CASE WHEN fate = 2 THEN {TIME} END AS deleted_at
                FROM unnest({{}}::bytea[], {{}}::text[], {{}}::text[], {{}}::text[], {{}}::text[],
                    {{}}::text[], {{}}::bigint[], {{}}::bigint[], {{}}::bigint[], {{}}::bigint[])
                    AS g(key_hash, key, kind, id, type, doc, version, expires_ms, fate, time_us)),
             known AS (UPDATE {table} AS t SET
                    doc = CASE WHEN excluded.gone_at IS NULL THEN excluded.doc ELSE t.doc END, {RAISED}, seq = DEFAULT,
                    updated_at = now()
                FROM given AS excluded WHERE t.key_hash = excluded.key_hash AND t.version < excluded.version
                RETURNING t.kind, t.type, t.gone_at, t.expires_at),
             new AS (INSERT INTO {table} AS t (key_hash, key, kind, id, type, doc, version, expires_at, gone_at, deleted_at, updated_at)
                SELECT g.*, now() FROM given g
                WHERE NOT EXISTS (SELECT FROM {table} AS there WHERE there.key_hash = g.key_hash)
                ON CONFLICT (key_hash) DO UPDATE SET
                    doc = CASE WHEN excluded.gone_at IS NULL THEN excluded.doc ELSE t.doc END, {ON_CONFLICT}
                WHERE t.version < excluded.version RETURNING kind, type, gone_at, expires_at),
             done AS (SELECT * FROM known UNION ALL SELECT * FROM new)
             SELECT count(*) AS rows, coalesce(array_agg(kind) FILTER (WHERE gone_at IS NOT NULL AND type <> ''
                AND (expires_at IS NULL OR expires_at > gone_at)), ARRAY[]::text[]) AS evicted FROM done"
        );
        let upserted: Upserted = Statement::new(text, record_binds(&batch, true)).row(connection).await?;
        applied.upserts.push((table, upserted.rows));
        applied.evicted.extend(upserted.evicted);
        rest = others;
    }
    Ok(())
}

fn record_binds(rows: &[&RecordRow], with_doc: bool) -> Vec<Bind> {
    let texts = |of: fn(&RecordRow) -> String| Bind::TextList(rows.iter().map(|row| of(row)).collect());
    let numbers = |of: fn(&RecordRow) -> i64| Bind::NumberList(rows.iter().map(|row| of(row)).collect());
    let mut binds = vec![
        Bind::BytesList(rows.iter().map(|row| row.key.hash()).collect()),
        texts(|row| row.key.text()),
        texts(|row| row.kind.clone()),
        texts(|row| row.id.clone()),
        texts(|row| row.type_name.clone()),
    ];
    if with_doc {
        binds.push(Bind::NullableTextList(rows.iter().map(|row| row.doc.clone()).collect()));
    }
    binds.extend([
        numbers(|row| row.version),
        Bind::NullableNumberList(rows.iter().map(|row| row.expires_at_ms).collect()),
        numbers(|row| row.fate.code()),
        numbers(|row| row.time_us),
    ]);
    binds
}

/// Writes a header row. Even when its version does not rise the row is locked, which puts the writers of a collection in order.
async fn upsert_header(
    connection: &AsyncPgConnection,
    header: &RecordRow,
    ids: Option<(&str, &str)>,
    applied: &mut Applied,
) -> Result<(), PostgresError> {
    let text = format!(
        "WITH given AS (SELECT * FROM unnest({{}}::bytea[], {{}}::text[], {{}}::text[], {{}}::text[], {{}}::text[],
            {{}}::bigint[], {{}}::bigint[], {{}}::bigint[], {{}}::bigint[])
            AS g(key_hash, key, kind, id, type, version, expires_ms, fate, time_us)),
         done AS (INSERT INTO collections AS t (key_hash, key, kind, id, type, version, expires_at, gone_at, deleted_at,
                updated_at, first_id, last_id)
            SELECT key_hash, key, kind, id, type, version, {EXPIRES}, CASE WHEN fate = 1 THEN {TIME} END,
                CASE WHEN fate = 2 THEN {TIME} END, now(), {{}}, {{}} FROM given g
            ON CONFLICT (key_hash) DO UPDATE SET first_id = coalesce(excluded.first_id, t.first_id),
                last_id = greatest(t.last_id, excluded.last_id), {ON_CONFLICT}
            WHERE t.version < excluded.version RETURNING kind, type, gone_at, expires_at)
         SELECT count(*) AS rows, coalesce(array_agg(kind) FILTER (WHERE gone_at IS NOT NULL AND type <> ''
            AND (expires_at IS NULL OR expires_at > gone_at)), ARRAY[]::text[]) AS evicted FROM done"
    );
    let mut binds = record_binds(&[header], false);
    let (first, last) = ids.map_or((None, None), |(first, last)| (Some(first.to_owned()), Some(last.to_owned())));
    binds.extend([Bind::NullableText(first), Bind::NullableText(last)]);
    let upserted: Upserted = Statement::new(text, binds).row(connection).await?;
    applied.upserts.push(("collections", upserted.rows));
    applied.evicted.extend(upserted.evicted);
    Ok(())
}

/// Upserts elements above their collection's floor (C4); those at or below it are of a time before it was captured whole.
async fn upsert_elements(
    connection: &AsyncPgConnection,
    table: Table,
    header: &RecordRow,
    elements: &[ElementRow],
    applied: &mut Applied,
) -> Result<(), PostgresError> {
    let mut elements: Vec<(Vec<u8>, &ElementRow)> = elements.iter().map(|row| (hash16(&row.element), row)).collect();
    elements.sort_by(|one, two| one.0.cmp(&two.0));
    for batch in elements.chunks(STATEMENT_ROWS_MAX) {
        let name = table.name();
        let text = format!(
            "INSERT INTO {name} AS t (key_hash, element_hash, kind, id, element, doc, version, deleted_at, updated_at)
             SELECT {{}}, g.element_hash, {{}}, {{}}, g.element, g.doc::jsonb, g.version,
                CASE WHEN g.doc IS NULL THEN now() END, now()
             FROM unnest({{}}::bytea[], {{}}::text[], {{}}::text[], {{}}::bigint[]) AS g(element_hash, element, doc, version)
             WHERE g.version > (SELECT floor FROM collections WHERE key_hash = {{}})
             ON CONFLICT (key_hash, element_hash) DO UPDATE SET doc = excluded.doc, version = excluded.version,
                seq = excluded.seq, deleted_at = excluded.deleted_at, updated_at = excluded.updated_at
             WHERE t.version < excluded.version"
        );
        let binds = vec![
            Bind::Bytes(header.key.hash()),
            Bind::Text(header.kind.clone()),
            Bind::Text(header.id.clone()),
            Bind::BytesList(batch.iter().map(|(hash, _)| hash.clone()).collect()),
            Bind::TextList(batch.iter().map(|(_, row)| text::encode(&row.element).into_owned()).collect()),
            Bind::NullableTextList(batch.iter().map(|(_, row)| row.doc.clone()).collect()),
            Bind::NumberList(batch.iter().map(|(_, row)| row.version).collect()),
            Bind::Bytes(header.key.hash()),
        ];
        let rows = Statement::new(text, binds).run(connection).await?;
        applied.upserts.push((name, i64::try_from(rows).unwrap_or(i64::MAX)));
    }
    Ok(())
}

/// Makes tombstones of the elements below `version`, at that version; of a stream only those from its `oldest` entry on.
async fn bury(
    connection: &AsyncPgConnection,
    table: Table,
    header: &RecordRow,
    version: i64,
    oldest: Option<&str>,
    applied: &mut Applied,
) -> Result<(), PostgresError> {
    let name = table.name();
    let mut binds = vec![Bind::Number(version), Bind::Bytes(header.key.hash()), Bind::Number(version)];
    let mut text = format!(
        "UPDATE {name} SET deleted_at = now(), updated_at = now(), doc = NULL, version = {{}}
         WHERE key_hash = {{}} AND version < {{}} AND deleted_at IS NULL"
    );
    if let Some(oldest) = oldest {
        text.push_str(" AND element >= {}");
        binds.push(Bind::Text(oldest.to_owned()));
    }
    let rows = Statement::new(text, binds).run(connection).await?;
    applied.upserts.push((name, i64::try_from(rows).unwrap_or(i64::MAX)));
    Ok(())
}

/// Writes one chunk of a whole collection. The header is made if there is none, but says nothing yet.
///
/// # Errors
/// As [`apply`].
pub async fn chunk(
    postgres: &Postgres,
    basis: Basis,
    table: Table,
    header: &RecordRow,
    elements: &[ElementRow],
) -> Result<Applied, PostgresError> {
    let mut pooled = postgres.connection().await?;
    let connection: &mut AsyncPgConnection = &mut pooled;
    let done = connection.transaction(async |connection: &mut AsyncPgConnection| {
        check_control(connection, basis, header.version, &["collections", table.name()]).await?;
        let mut applied = Applied::default();
        upsert_header(connection, header, None, &mut applied).await?;
        upsert_elements(connection, table, header, elements, &mut applied).await?;
        Ok(applied)
    });
    within(TRANSACTION_DEADLINE, done).await
}

/// Ends a whole capture (C4) with its last chunk.
///
/// Unseen elements go at the first version, the header says `complete`, and its floor rises. A collection that was deleted
/// after the first chunk was read stays as its deletion left it.
///
/// # Errors
/// As [`apply`].
pub async fn finalise(
    postgres: &Postgres,
    basis: Basis,
    whole: &Whole,
    last: &[ElementRow],
) -> Result<Applied, PostgresError> {
    let mut pooled = postgres.connection().await?;
    let connection: &mut AsyncPgConnection = &mut pooled;
    let (header, table) = (&whole.header, whole.table);
    let done = connection.transaction(async |connection: &mut AsyncPgConnection| {
        check_control(connection, basis, whole.first_version, &["collections", table.name()]).await?;
        let mut applied = Applied::default();
        let ids = whole.stream.as_ref().and_then(|stream| stream.ids.as_ref());
        let ids = ids.map(|(first, last)| (first.as_str(), last.as_str()));
        let oldest = ids.map(|(first, _)| first);
        upsert_header(connection, header, ids, &mut applied).await?;
        upsert_elements(connection, table, header, last, &mut applied).await?;
        let statement = Statement::new(
            "UPDATE collections SET complete = true, floor = {}, last_version = greatest(last_version, {})
                 WHERE key_hash = {} AND floor < {} AND deleted_at IS NULL AND gone_at IS NULL",
            vec![
                Bind::Number(whole.first_version - 1),
                Bind::Number(header.version),
                Bind::Bytes(header.key.hash()),
                Bind::Number(whole.first_version - 1),
            ],
        );
        let is_ended = statement.run(connection).await? == 1;
        if is_ended && (whole.stream.is_none() || oldest.is_some()) {
            bury(connection, table, header, whole.first_version, oldest, &mut applied).await?;
        }
        if let Some(stream) = whole.stream.as_ref().filter(|stream| stream.missing > 0) {
            journal::note_gap(connection, header, oldest.unwrap_or("~"), stream.missing).await?;
        }
        journal::forget_letters(connection, vec![header.key.hash()]).await?;
        Ok(applied)
    });
    within(TRANSACTION_DEADLINE, done).await
}
