//! The stream of traffic: relayed requests with administration in between, burst by burst.

use crate::traffic::world::{Shape, World};
use crate::traffic::{Burst, Command, admin, keyspace, request};

/// After so many relayed requests comes one operation of an administrator or a timer.
const REQUESTS_A_OPERATION: usize = 4;

/// How much time passes in the traffic's calendar from one request to the next.
const REQUEST_EVERY_MS: i64 = 250;

/// Commands of one relayed request.
pub const COMMANDS_A_REQUEST: usize = 328;

/// The commands that build the state before the traffic, for this seed and size.
#[must_use]
pub fn keyspace(shape: &Shape) -> Vec<Command> {
    keyspace::commands(&mut World::new(shape.clone()))
}

/// The bursts of `requests` relayed requests upon that keyspace, made one request at a time.
#[must_use]
pub fn requests(shape: &Shape, requests: usize) -> Requests {
    Requests { world: World::new(shape.clone()), left: requests, sent: 0, ready: Vec::new().into_iter() }
}

/// An iterator over bursts; see [`requests`].
#[derive(Debug)]
pub struct Requests {
    world: World,
    left: usize,
    sent: usize,
    ready: std::vec::IntoIter<Burst>,
}

impl Iterator for Requests {
    type Item = Burst;

    fn next(&mut self) -> Option<Burst> {
        loop {
            if let Some(burst) = self.ready.next() {
                return Some(burst);
            }
            if self.left == 0 {
                return None;
            }
            self.ready = self.advance().into_iter();
        }
    }
}

impl Requests {
    fn advance(&mut self) -> Vec<Burst> {
        self.left -= 1;
        self.world.now_ms += REQUEST_EVERY_MS;
        // A few keys make most of the requests, as in life: the first half of the dice goes to the first four.
        let busy = self.world.dice.below(2) == 0;
        let choices = if busy { 4.min(self.world.api_keys.len()) } else { self.world.api_keys.len() };
        let candidates = self.world.api_keys.iter().take(choices).cloned().collect::<Vec<_>>();
        let key = self.world.dice.pick(&candidates).clone();
        let session = self.world.dice.pick(&key.sessions).clone();
        let mut bursts = request::relayed(&mut self.world, &key, &session);
        self.sent += 1;
        if self.sent.is_multiple_of(REQUESTS_A_OPERATION) {
            bursts.extend(admin::operation(&mut self.world, self.sent / REQUESTS_A_OPERATION - 1));
        }
        bursts
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::catalog::{Catalog, UNMATCHED};

    fn shape() -> Shape {
        Shape { seed: 42, api_keys: 12, days: 3, now_ms: 1_795_435_200_000 }
    }

    fn name(command: &Command) -> String {
        String::from_utf8_lossy(&command[0]).to_lowercase()
    }

    #[test]
    fn a_relayed_request_has_the_counted_commands() {
        let commands: Vec<Command> = requests(&shape(), 1).flatten().collect();
        assert_eq!(commands.len(), COMMANDS_A_REQUEST);
        let mut counts: HashMap<String, usize> = HashMap::new();
        for command in &commands {
            *counts.entry(name(command)).or_default() += 1;
        }
        let reads: usize =
            ["hget", "hgetall", "get", "ttl", "smembers", "exists"].map(|read| counts[read]).iter().sum();
        assert_eq!((reads, counts["eval"], counts["multi"], counts["exec"]), (36, 14, 1, 1));
        let writes = [
            ("hincrby", 197),
            ("expire", 37),
            ("sadd", 12),
            ("del", 11),
            ("incrbyfloat", 11),
            ("hset", 2),
            ("incr", 1),
            ("incrby", 1),
            ("zadd", 1),
            ("lpush", 1),
            ("ltrim", 1),
            ("xadd", 1),
        ];
        for (command, count) in writes {
            assert_eq!(counts[command], count, "{command}");
        }
    }

    #[test]
    fn forty_one_commands_come_before_the_answer_of_the_upstream() {
        let commands: Vec<Command> = requests(&shape(), 1).flatten().collect();
        let leases: Vec<usize> =
            (0..commands.len()).filter(|at| name(&commands[*at]) == "eval" && commands[*at].len() == 7).collect();
        assert_eq!(leases[1] + 1, 41, "the second lease, on the account, is the last command before the upstream");
    }

    #[test]
    fn one_request_touches_sixty_three_written_keys() {
        let reads = ["hget", "hgetall", "get", "ttl", "smembers", "exists", "eval", "multi", "exec"];
        let keys: std::collections::HashSet<Vec<u8>> = requests(&shape(), 1)
            .flatten()
            .filter(|command| !reads.contains(&name(command).as_str()))
            .map(|command| command[1].clone())
            .collect();
        assert_eq!(keys.len(), 63);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        let other = Shape { seed: 43, ..shape() };
        assert_eq!(keyspace(&shape()), keyspace(&shape()));
        assert_ne!(keyspace(&shape()), keyspace(&other));
        let collect = |shape: &Shape| requests(shape, 60).collect::<Vec<Burst>>();
        assert_eq!(collect(&shape()), collect(&shape()));
        assert_ne!(collect(&shape()), collect(&other));
    }

    #[test]
    fn administration_brings_renames_temporary_sets_nul_members_and_floods() {
        let commands: Vec<Command> = requests(&shape(), 48).flatten().collect();
        for wanted in
            ["sdiffstore", "sinterstore", "zinterstore", "rename", "hdel", "zrem", "srem", "mget", "scan", "hmset"]
        {
            assert!(commands.iter().any(|command| name(command) == wanted), "{wanted}");
        }
        assert!(commands.iter().any(|command| command.iter().any(|part| part.contains(&0))));
        let flood = requests(&shape(), 48).map(|burst| burst.iter().filter(|one| name(one) == "lpush").count()).max();
        assert!(flood > Some(200));
    }

    #[test]
    fn every_key_belongs_to_a_kind_of_the_catalog() {
        let catalog = Catalog::embedded();
        let mut seen = std::collections::BTreeSet::new();
        for command in keyspace(&shape()).into_iter().chain(requests(&shape(), 48).flatten()) {
            let keys: Vec<Vec<u8>> = match name(&command).as_str() {
                "multi" | "exec" | "scan" | "keys" => Vec::new(),
                "eval" => vec![command[3].clone()],
                "mget" | "del" => command[1..].to_vec(),
                "rename" | "sdiffstore" | "sinterstore" => command[1..3].to_vec(),
                "zinterstore" => vec![command[1].clone(), command[3].clone(), command[4].clone()],
                _ => vec![command[1].clone()],
            };
            for key in keys {
                let kind = catalog.kind_of(&key);
                // The relay asks for accounts under two names that no account has.
                let probe = key.starts_with(b"claude_account:") || key.starts_with(b"openai_account:");
                assert!(probe || kind.name != UNMATCHED, "{}", String::from_utf8_lossy(&key));
                seen.insert(kind.name.clone());
            }
        }
        for kind in ["apikey", "apikey_hash_map", "bedrock_account", "usage_records", "billing_events", "cost_rank"] {
            assert!(seen.contains(kind), "{kind} is missing among {seen:?}");
        }
    }

    #[test]
    fn multi_and_exec_never_leave_their_burst() {
        for burst in requests(&shape(), 48) {
            let count = |wanted: &str| burst.iter().filter(|command| name(command) == wanted).count();
            assert_eq!(count("multi"), count("exec"));
        }
    }
}
