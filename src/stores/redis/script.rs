//! The Lua scripts, by text and digest. Each file in `lua/` says at its head what it takes and answers.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::model::command::Command;
use crate::model::reply::Reply;
use crate::stores::redis::connection::RedisError;

/// A script.
pub struct Script {
    text: &'static str,
    sha: OnceLock<String>,
}

macro_rules! script {
    ($flags:literal, $($file:literal),+) => {
        Script::new(concat!($flags, $(include_str!(concat!("lua/", $file, ".lua"))),+))
    };
    ($flags:literal, prelude, $($file:literal),+) => {
        script!($flags, "prelude", $($file),+)
    };
}

/// Marks the keys of a batch; first in its EXEC.
pub static MARK: Script = script!("#!lua flags=allow-oom\n", "marking", "mark");
/// Says what the writes left; last in its EXEC.
pub static SETTLE: Script = script!("#!lua flags=allow-oom\n", "settling", "settle");
/// Marks, runs and settles where Redis is full.
pub static FULL: Script = script!("#!lua flags=allow-oom\n", "unwatched", "marking", "settling", "full");
/// Raises the counter of a list log; right before its push.
pub static PUSH: Script = script!("#!lua flags=allow-oom\n", "push");
/// Reads records with a version.
pub static CAPTURE: Script = script!("#!lua flags=allow-oom\n", prelude, "capture");
/// Begins a whole collection.
pub static WHOLE_BEGIN: Script = script!("#!lua flags=allow-oom\n", prelude, "whole_begin");
/// One chunk of a whole collection.
pub static WHOLE_CHUNK: Script = script!("#!lua flags=allow-oom\n", prelude, "whole_chunk");
/// Removes marks.
pub static ACK: Script = script!("#!lua flags=allow-oom\n", "ack");
/// The fence before a read from Postgres.
pub static FENCE: Script = script!("#!lua flags=no-writes,allow-oom\n", prelude, "fence");
/// Fence and value in one step.
pub static LOOK: Script = script!("#!lua flags=no-writes,allow-oom\n", prelude, "look");
/// Fence and the values of several records in one step.
pub static LOOKS: Script = script!("#!lua flags=no-writes,allow-oom\n", prelude, "looks");
/// Fence and one page of a log in one step.
pub static LOG_PAGE: Script = script!("#!lua flags=no-writes,allow-oom\n", prelude, "log_page");
/// A write of the records API; a command among others, so Redis' own memory rule holds for it.
pub static RECORD: Script = script!("#!lua\n", prelude, "record");
/// Renews a lease.
pub static RENEW: Script = script!("#!lua flags=allow-oom\n", prelude, "renew");
/// Takes or keeps a lease.
pub static HOLD: Script = script!("#!lua flags=allow-oom\n", "hold");
/// Changes flags and plans.
pub static CHANGE: Script = script!("#!lua flags=allow-oom\n", "unwatched", "change");
/// Takes or keeps the lease of the leader.
pub static LEAD: Script = script!("#!lua flags=allow-oom\n", "lead");
/// Marks records that owe a look.
pub static REPAIR: Script = script!("#!lua flags=allow-oom\n", prelude, "repair");
/// Notes a committed backfill.
pub static BACKFILLED: Script = script!("#!lua flags=allow-oom\n", prelude, "backfilled");
/// Writes the anchor.
pub static ANCHOR: Script = script!("#!lua flags=allow-oom\n", "anchor");
/// Marks ghosts.
pub static GHOSTS: Script = script!("#!lua flags=allow-oom\n", "ghosts");
/// Refills documents.
pub static REFILL: Script = script!("#!lua\n", prelude, "unwatched", "filling", "refill");
/// Writes documents over what is there.
pub static OVERWRITE: Script = script!("#!lua\n", prelude, "unwatched", "filling", "overwrite");
/// Gathers a part of a collection that goes back.
pub static REFILL_PART: Script = script!("#!lua\n", "unwatched", "refill_part");
/// Puts a collection into its place.
pub static REFILL_END: Script = script!("#!lua\n", prelude, "unwatched", "refill_end");
/// Takes from the anchor the run that it names.
pub static DISOWN: Script = script!("#!lua flags=allow-oom\n", "disown");
/// Ends a lift.
pub static LIFT: Script = script!("#!lua flags=allow-oom\n", "lift");
/// A random key of the caller's.
pub static RANDOMKEY: Script = script!("#!lua flags=no-writes,allow-oom\n", "randomkey");
/// How many keys the callers have.
pub static DBSIZE: Script = script!("#!lua flags=no-writes,allow-oom\n", "dbsize");
/// Notes a capture gap.
pub static GAP: Script = script!("#!lua flags=allow-oom\n", prelude, "gap");
/// Forgets a capture gap that Postgres has.
pub static GAP_WRITTEN: Script = script!("#!lua flags=allow-oom\n", "gap_written");
/// Notes a heartbeat of Postgres.
pub static BEAT: Script = script!("#!lua flags=allow-oom\n", "beat");

/// All of them.
pub(super) static ALL: [&Script; 32] = [
    &MARK,
    &SETTLE,
    &FULL,
    &PUSH,
    &CAPTURE,
    &WHOLE_BEGIN,
    &WHOLE_CHUNK,
    &ACK,
    &FENCE,
    &LOOK,
    &LOOKS,
    &LOG_PAGE,
    &RECORD,
    &RENEW,
    &HOLD,
    &CHANGE,
    &LEAD,
    &REPAIR,
    &BACKFILLED,
    &ANCHOR,
    &GHOSTS,
    &REFILL,
    &OVERWRITE,
    &REFILL_PART,
    &REFILL_END,
    &DISOWN,
    &LIFT,
    &RANDOMKEY,
    &DBSIZE,
    &GAP,
    &GAP_WRITTEN,
    &BEAT,
];

impl Script {
    const fn new(text: &'static str) -> Self {
        Self { text, sha: OnceLock::new() }
    }

    /// Its text.
    pub(super) fn text(&self) -> &'static str {
        self.text
    }

    fn digest(&self) -> &str {
        self.sha.get_or_init(|| redis::Script::new(self.text).get_hash().to_owned())
    }

    /// The call by digest: short, but the server may not know it.
    #[must_use]
    pub fn evalsha(&self, keys: &[&[u8]], args: &[&[u8]]) -> Command {
        call("EVALSHA", Bytes::copy_from_slice(self.digest().as_bytes()), keys, args)
    }

    /// The call by text: cannot fail for want of the script, so it may stand inside a transaction.
    #[must_use]
    pub fn eval(&self, keys: &[&[u8]], args: &[&[u8]]) -> Command {
        call("EVAL", Bytes::from_static(self.text.as_bytes()), keys, args)
    }
}

/// A way to Redis that runs scripts, and knows which server process will execute them.
pub trait Scripts: Sync {
    /// Runs the command that `command` makes of the `run_id` of the server that will execute it (C1). The reply may be an error.
    ///
    /// # Errors
    /// When the connection fails, or nobody knows which server it will reach.
    fn call(
        &self,
        command: impl FnOnce(&str) -> Command + Send,
    ) -> impl Future<Output = Result<Reply, RedisError>> + Send;

    /// Runs a script with the `run_id` as its first argument.
    ///
    /// # Errors
    /// As [`Self::call`], or when Redis answers with an error.
    fn script(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> impl Future<Output = Result<Reply, RedisError>> + Send {
        async move {
            let reply = self.call(|run_id| script.evalsha(keys, &with_run_id(run_id, args))).await?;
            let is_unknown = reply.error().is_some_and(|error| error.starts_with("NOSCRIPT"));
            let reply = if is_unknown {
                self.call(|run_id| script.eval(keys, &with_run_id(run_id, args))).await?
            } else {
                reply
            };
            accepted(reply)
        }
    }
}

impl<S: Scripts + Send> Scripts for Arc<S> {
    async fn call(&self, command: impl FnOnce(&str) -> Command + Send) -> Result<Reply, RedisError> {
        S::call(self, command).await
    }
}

fn with_run_id<'a>(run_id: &'a str, args: &[&'a [u8]]) -> Vec<&'a [u8]> {
    [run_id.as_bytes()].into_iter().chain(args.iter().copied()).collect()
}

/// The reply, unless it is an error.
pub(crate) fn accepted(reply: Reply) -> Result<Reply, RedisError> {
    match reply.error() {
        Some(text) => Err(RedisError::Answered(text.to_owned())),
        None => Ok(reply),
    }
}

fn call(name: &'static str, script: Bytes, keys: &[&[u8]], args: &[&[u8]]) -> Command {
    let mut parts = vec![Bytes::from_static(name.as_bytes()), script, Bytes::from(keys.len().to_string())];
    parts.extend(keys.iter().chain(args).map(|part| Bytes::copy_from_slice(part)));
    Command(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::tallied::{self, Called};

    #[test]
    fn none_is_left_out_of_all() {
        assert_eq!(include_str!("script.rs").matches(": Script = script!(").count(), ALL.len() + 1);
    }

    #[test]
    fn a_script_calls_nothing_that_is_watched_for_bypasses_or_says_so() {
        for script in ALL {
            let text = script.text();
            let is_quiet = tallied::called_by(text.as_bytes()) == Called::Names(Vec::new())
                // Names that are chosen: the scans of a collection.
                || text.contains("redis.call(command, key, cursor,") || text.contains("redis.call(lengths[kind], key)");
            assert!(is_quiet || text.contains("local function unwatched()"), "{text}");
        }
    }
}
