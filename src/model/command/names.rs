//! Names of commands that a door treats in a way that the server's table does not tell.

/// What belongs to a connection.
pub(super) const CONNECTION: [&str; 24] = [
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH",
    "UNWATCH",
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "SSUBSCRIBE",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE",
    "SELECT",
    "AUTH",
    "HELLO",
    "RESET",
    "QUIT",
    "CLIENT",
    "MONITOR",
    "SYNC",
    "PSYNC",
    "REPLCONF",
    "ASKING",
    "READONLY",
    "READWRITE",
];
/// What acts on the server or on all of its data.
pub(super) const ADMINISTRATIVE: [&str; 12] = [
    "FLUSHALL",
    "FLUSHDB",
    "SWAPDB",
    "SHUTDOWN",
    "REPLICAOF",
    "SLAVEOF",
    "DEBUG",
    "FAILOVER",
    "MIGRATE",
    "PFDEBUG",
    "RESTORE-ASKING",
    "MOVE",
];
/// What asks the server about itself, or tends it.
pub(super) const SERVER: [&str; 9] =
    ["CONFIG", "SAVE", "BGSAVE", "BGREWRITEAOF", "CLUSTER", "ACL", "MODULE", "LATENCY", "SLOWLOG"];
/// Commands whose arguments must be read to know their keys or what they do; of all others the table knows it.
pub(super) const NOT_PLAIN: [&str; 36] = [
    "EVAL",
    "EVALSHA",
    "EVAL_RO",
    "EVALSHA_RO",
    "FCALL",
    "FCALL_RO",
    "SCRIPT",
    "FUNCTION",
    "ZUNIONSTORE",
    "ZINTERSTORE",
    "ZDIFFSTORE",
    "ZUNION",
    "ZINTER",
    "ZDIFF",
    "SINTERCARD",
    "ZINTERCARD",
    "LMPOP",
    "ZMPOP",
    "XREAD",
    "XREADGROUP",
    "SORT",
    "SORT_RO",
    "GEORADIUS",
    "GEORADIUSBYMEMBER",
    "OBJECT",
    "XINFO",
    "XGROUP",
    "MEMORY",
    "SCAN",
    "KEYS",
    "RANDOMKEY",
    "DBSIZE",
    "WAIT",
    "PUBLISH",
    "SPUBLISH",
    "PUBSUB",
];
/// Commands that write only with their last word: without it they are in the table as writes all the same.
pub(super) const SCRIPTS: [&str; 3] = ["EVAL", "EVALSHA", "FCALL"];
/// Its rules leave out where the result is stored, as that word may stand anywhere.
pub(super) const SORTING: [&str; 2] = ["SORT", "SORT_RO"];
/// The server calls it a reader, and yet it writes the count that it found into the key's bytes.
pub(super) const WRITING_READER: &str = "PFCOUNT";
