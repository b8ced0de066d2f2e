//! A statement of our own that Postgres prepares once.
//!
//! Diesel parses every `sql_query` and every `ON CONFLICT DO UPDATE` of its DSL anew; a fragment that does not say it is
//! unsafe to cache is prepared once for each connection and about twice as fast (see `docs/architecture.md`).

use std::borrow::Cow;

use diesel::QueryableByName;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Untyped};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

/// A value bound to a statement.
#[derive(Clone, Debug)]
pub(crate) enum Bind {
    /// `bytea[]`.
    BytesList(Vec<Vec<u8>>),
    /// `text[]`.
    TextList(Vec<String>),
    /// `text[]` with NULLs.
    NullableTextList(Vec<Option<String>>),
    /// `bigint[]`.
    NumberList(Vec<i64>),
    /// `bigint[]` with NULLs.
    NullableNumberList(Vec<Option<i64>>),
    /// `bytea`.
    Bytes(Vec<u8>),
    /// `text`.
    Text(String),
    /// `text` or NULL.
    NullableText(Option<String>),
    /// `bigint`.
    Number(i64),
}

/// SQL with `{}` where the bound values stand, in order.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    text: Cow<'static, str>,
    binds: Vec<Bind>,
}

impl Statement {
    /// A statement; `text` has one `{}` for each of `binds`.
    pub(crate) fn new(text: impl Into<Cow<'static, str>>, binds: Vec<Bind>) -> Self {
        Self { text: text.into(), binds }
    }

    /// Runs it and answers how many rows it touched. Statements that are begun together on one connection travel together,
    /// and run in the order in which they were begun.
    pub(crate) async fn run(self, mut connection: &AsyncPgConnection) -> QueryResult<usize> {
        self.execute(&mut connection).await
    }

    /// Runs it and answers all rows.
    pub(crate) async fn rows<R>(self, mut connection: &AsyncPgConnection) -> QueryResult<Vec<R>>
    where
        R: QueryableByName<Pg> + Send + 'static,
    {
        self.load(&mut connection).await
    }

    /// Runs it and answers its one row.
    pub(crate) async fn row<R>(self, mut connection: &AsyncPgConnection) -> QueryResult<R>
    where
        R: QueryableByName<Pg> + Send + 'static,
    {
        self.get_result(&mut connection).await
    }
}

impl QueryId for Statement {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement {
    type SqlType = Untyped;
}

impl<C> diesel::query_dsl::RunQueryDsl<C> for Statement {}

impl QueryFragment<Pg> for Statement {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut binds = self.binds.iter();
        for (index, piece) in self.text.split("{}").enumerate() {
            if index > 0 {
                let bind = binds.next().ok_or_else(|| mismatch("more places than values"))?;
                push(&mut out, bind)?;
            }
            out.push_sql(piece);
        }
        match binds.next() {
            None => Ok(()),
            Some(_) => Err(mismatch("more values than places")),
        }
    }
}

fn mismatch(reason: &'static str) -> diesel::result::Error {
    diesel::result::Error::QueryBuilderError(reason.into())
}

fn push<'b>(out: &mut AstPass<'_, 'b, Pg>, bind: &'b Bind) -> QueryResult<()> {
    match bind {
        Bind::BytesList(values) => out.push_bind_param::<Array<Binary>, _>(values),
        Bind::TextList(values) => out.push_bind_param::<Array<Text>, _>(values),
        Bind::NullableTextList(values) => out.push_bind_param::<Array<Nullable<Text>>, _>(values),
        Bind::NumberList(values) => out.push_bind_param::<Array<BigInt>, _>(values),
        Bind::NullableNumberList(values) => out.push_bind_param::<Array<Nullable<BigInt>>, _>(values),
        Bind::Bytes(value) => out.push_bind_param::<Binary, _>(value),
        Bind::Text(value) => out.push_bind_param::<Text, _>(value),
        Bind::NullableText(value) => out.push_bind_param::<Nullable<Text>, _>(value),
        Bind::Number(value) => out.push_bind_param::<BigInt, _>(value),
    }
}
