//! What administrators and the relay's own timers do between the relayed requests.
//!
//! These are the commands that change keys in other ways than counting up: temporary sets, RENAME over an index,
//! members that carry NUL, deletes for good, floods of a list, and a read of the wrong type that the relay really makes.

mod keys;

use crate::traffic::usage::{Usage, usage_record};
use crate::traffic::world::{MODELS, World};
use crate::traffic::{Burst, command};

/// How many different operations there are.
pub(super) const OPERATIONS: usize = 12;

/// How many entries are pushed at once onto a list that keeps 200.
const FLOOD: usize = 260;

/// The bursts of operation `number` (taken modulo [`OPERATIONS`]).
pub(super) fn operation(world: &mut World, number: usize) -> Vec<Burst> {
    let mut bursts = vec![vec![command(&["hgetall", "session:admin_credentials"])]];
    bursts.extend(match number % OPERATIONS {
        0 => keys::create_key(world),
        1 => keys::update_key(world),
        2 => keys::list_keys(world),
        3 => flood_list(world),
        4 => keys::rebuild_rank(world),
        5 => edit_accounts(world),
        6 => keys::delete_key(world),
        7 => request_details(world),
        8 => dashboard(world),
        9 => redeem_card(world),
        10 => keys::delete_for_good(world),
        _ => sign_in(world),
    });
    bursts
}

/// More pushes than the list keeps, in one pipeline: what was trimmed before a look must not be silently lost.
fn flood_list(world: &mut World) -> Vec<Burst> {
    let Some(key) = world.api_keys.first().cloned() else {
        return Vec::new();
    };
    let calendar = world.calendar();
    let account = world.console_for(key.sessions.first().map_or("", String::as_str)).id.clone();
    let records = format!("usage:records:{}", key.id);
    let mut burst = Burst::new();
    for _ in 0..FLOOD {
        let request = world.dice.uuid();
        let entry = usage_record(&calendar, &account, MODELS[0].0, &Usage::of(MODELS[0].1), &request);
        burst.push(command(&["lpush", &records, &entry]));
        burst.push(command(&["ltrim", &records, "0", "199"]));
    }
    burst.push(command(&["expire", &records, "7776000"]));
    vec![burst, vec![command(&["lrange", &records, "0", "19"])]]
}

/// Account pages: status fields come and go, and the one JSON-string family is probed as if it were a hash.
fn edit_accounts(world: &mut World) -> Vec<Burst> {
    let calendar = world.calendar();
    let mut bursts = Vec::new();
    for account in &world.accounts {
        let key = account.key();
        bursts.push(vec![command(&["smembers", &format!("{}:index", account.family.prefix)])]);
        if account.family.prefix == "bedrock_account" {
            bursts.push(vec![command(&["get", &key])]);
            // The relay makes this mistake itself: Redis answers WRONGTYPE, and so must we.
            bursts.push(vec![command(&["hgetall", &key])]);
            continue;
        }
        bursts.push(vec![command(&["hgetall", &key]), command(&["hget", &key, "status"])]);
        bursts.push(vec![
            command(&["hmset", &key, "rateLimitStatus", "limited", "rateLimitedAt", &calendar.iso]),
            command(&["hset", &key, "updatedAt", &calendar.iso]),
        ]);
        bursts.push(vec![command(&["hdel", &key, "rateLimitedAt", "fiveHourStoppedAt"])]);
    }
    bursts
}

fn request_details(world: &mut World) -> Vec<Burst> {
    let calendar = world.calendar();
    let id = world.dice.hex(11);
    let index = format!("request_detail:index:day:{}", calendar.compact_day);
    let body = world.dice.hex(2000);
    let item = serde_json::json!({"requestId": id, "timestamp": calendar.iso, "body": body}).to_string();
    vec![vec![
        command(&["multi"]),
        command(&["set", &format!("request_detail:item:{id}"), &item, "EX", "21600"]),
        command(&["zadd", &index, &calendar.ms.to_string(), &id]),
        command(&["expire", &index, "108000"]),
        command(&["exec"]),
    ]]
}

/// Pages that only read: scans, several keys at once, scores, lengths.
fn dashboard(world: &mut World) -> Vec<Burst> {
    let calendar = world.calendar();
    let mut bursts = vec![
        vec![command(&["scan", "0", "MATCH", "usage:daily:*", "COUNT", "100"])],
        vec![command(&["scan", "0", "MATCH", "concurrency:*", "COUNT", "100"])],
        vec![command(&["keys", "temp_unavailable:*"])],
        vec![command(&["zcard", "apikey:idx:createdAt"]), command(&["scard", "apikey:set:active"])],
        vec![command(&["zrangebyscore", "apikey:idx:lastUsedAt", "1", "+inf", "WITHSCORES"])],
        vec![command(&["hgetall", "usage:global:total"])],
    ];
    for key in world.api_keys.iter().take(10) {
        let today = format!("usage:cost:daily:{}:{}", key.id, calendar.day);
        bursts.push(vec![
            command(&["mget", &today, &format!("usage:cost:total:{}", key.id)]),
            command(&["hmget", &format!("apikey:{}", key.id), "name", "isActive", "dailyCostLimit"]),
            command(&["ttl", &format!("apikey:{}", key.id)]),
            command(&["lrange", &format!("usage:records:{}", key.id), "0", "9"]),
            command(&["zscore", "apikey:idx:createdAt", &key.id]),
        ]);
    }
    bursts
}

fn redeem_card(world: &mut World) -> Vec<Burst> {
    let Some(key) = world.api_keys.first().cloned() else {
        return Vec::new();
    };
    let calendar = world.calendar();
    let (card, redemption) = (world.dice.uuid(), world.dice.uuid());
    let record = format!("quota_card:{card}");
    vec![
        vec![
            command(&[
                "hset",
                &record,
                "id",
                &card,
                "code",
                "CC_NEW",
                "type",
                "quota",
                "quotaAmount",
                "5",
                "status",
                "unused",
            ]),
            command(&["set", "quota_card_code:CC_NEW", &card]),
            command(&["sadd", "quota_cards:all", &card]),
            command(&["sadd", "quota_cards:status:unused", &card]),
        ],
        vec![
            command(&["incr", "redeem_card:ip:127.0.0.1:12"]),
            command(&["expire", "redeem_card:ip:127.0.0.1:12", "3600"]),
        ],
        vec![
            command(&["hset", &record, "status", "redeemed", "redeemedApiKeyId", &key.id, "redeemedAt", &calendar.iso]),
            command(&["srem", "quota_cards:status:unused", &card]),
            command(&["sadd", "quota_cards:status:redeemed", &card]),
            command(&[
                "hset",
                &format!("redemption:{redemption}"),
                "id",
                &redemption,
                "cardId",
                &card,
                "apiKeyId",
                &key.id,
            ]),
            command(&["sadd", "redemptions:all", &redemption]),
            command(&["sadd", &format!("redemptions:apikey:{}", key.id), &redemption]),
        ],
        vec![command(&["del", "quota_card_code:CC_NEW"])],
    ]
}

/// A user signs in, a conversation begins, and the hourly clean-up gives a life to keys that have none.
fn sign_in(world: &mut World) -> Vec<Burst> {
    let calendar = world.calendar();
    let token = world.dice.hex(32);
    let session = format!(r#"{{"username":"user-0","createdAt":"{}"}}"#, calendar.iso);
    let mut bursts = vec![
        vec![command(&["eval", "return 0", "1", "login_ip_limiter:127.0.0.1", "1", "900000"])],
        vec![command(&["get", "username:user-0"])],
        vec![command(&["setex", &format!("user_session:{token}"), "86400", &session])],
    ];
    if let Some(key) = world.api_keys.last() {
        for conversation in &key.sessions {
            let account = &world.console_for(conversation).id;
            let mapping = format!(r#"{{"accountId":"{account}","accountType":"claude-console"}}"#);
            let name = format!("unified_claude_session_mapping:{conversation}");
            bursts.push(vec![command(&["scard", "apikey:set:active"]), command(&["setex", &name, "3600", &mapping])]);
        }
        let keyless = format!("usage:keymodel:daily:index:{}", calendar.day);
        bursts.push(vec![command(&["ttl", &keyless]), command(&["expire", &keyless, "86400"])]);
    }
    bursts
}
