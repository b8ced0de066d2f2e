//! The Postgres side: a pool that knows which Postgres it reaches, guarded upserts, and reads behind the fence.

pub mod apply;
pub mod expunge;
pub mod gaps;
pub mod ghosts;
pub mod jobs;
pub mod journal;
pub mod lineage;
pub mod pages;
pub mod pool;
pub mod proofs;
pub mod read;
pub mod repairs;
pub mod rows;
pub mod schema;
mod statement;

pub use pool::Postgres;
