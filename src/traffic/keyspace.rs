//! The keys that exist before the traffic starts, as the commands that build them.
//!
//! Every family of keys of the relay is there: entities, indexes (with NUL in members), figures of past days, logs that
//! are full (200 entries), documents that are JSON strings, and ephemeral keys that must never reach Postgres.

use crate::traffic::entity;
use crate::traffic::entity::{api_key, hash, soft_delete};
use crate::traffic::usage::{DAILY, HOURLY, MONTHLY, Usage, billing_event, usage_record};
use crate::traffic::world::{ApiKey, Calendar, MODELS, World};
use crate::traffic::{Command, command};

/// One HSET of all counters in `fields`.
fn counters(key: &str, fields: &[(String, u64)]) -> Command {
    let fields: Vec<(&str, String)> = fields.iter().map(|(name, value)| (name.as_str(), value.to_string())).collect();
    hash(key, &fields)
}

/// The commands that build the state before the traffic.
pub(super) fn commands(world: &mut World) -> Vec<Command> {
    let mut out = Vec::new();
    let calendar = world.calendar();
    entity::accounts(world, &calendar, &mut out);
    let deleted = world.deleted.clone();
    let living = world.api_keys.clone();
    for key in &living {
        out.extend(api_key(key, &calendar.iso));
        history(world, key, &mut out);
    }
    for key in &deleted {
        out.extend(api_key(key, &calendar.iso));
        out.extend(soft_delete(key, &calendar));
    }
    logs(world, &calendar, &mut out);
    people(world, &calendar, &mut out);
    cards(world, &calendar, &mut out);
    configs(&calendar, &mut out);
    ephemeral(world, &calendar, &mut out);
    out
}

/// The figures of one API key for the past days, each with what is left of its life.
fn history(world: &mut World, key: &ApiKey, out: &mut Vec<Command>) {
    let id = &key.id;
    let days = i64::try_from(world.shape.days.clamp(1, 30)).unwrap_or(1);
    let mut total = 0;
    for age in (1..=days).rev() {
        let calendar = Calendar::at(world.now_ms - age * 86_400_000);
        let (model, cost_micro) = *world.dice.pick(&MODELS);
        let count = 1 + world.dice.below(40);
        total += count;
        let usage = Usage::of(cost_micro).times(count);
        let day = &calendar.day;
        let left = |ttl: &str| (ttl.parse::<i64>().unwrap_or(0) - age * 86_400).max(60).to_string();
        let mut figure = |name: String, fields: Vec<(String, u64)>, ttl: &str| {
            out.push(counters(&name, &fields));
            out.push(command(&["expire", &name, &left(ttl)]));
        };
        figure(format!("usage:daily:{id}:{day}"), usage.period_fields(), DAILY);
        figure(format!("usage:{id}:model:daily:{model}:{day}"), usage.cost_fields(), DAILY);
        if age <= 2 {
            figure(format!("usage:hourly:{id}:{}", calendar.hour), usage.period_fields(), HOURLY);
            figure(format!("usage:{id}:model:hourly:{model}:{}", calendar.hour), usage.cost_fields(), HOURLY);
        }
        for name in [format!("usage:cost:daily:{id}:{day}"), format!("usage:cost:real:daily:{id}:{day}")] {
            out.push(command(&["set", &name, &usage.cost(), "EX", &left("2592000")]));
        }
        out.push(command(&["sadd", &format!("usage:daily:index:{day}"), id]));
        out.push(command(&["expire", &format!("usage:daily:index:{day}"), &left(DAILY)]));
        out.push(command(&["sadd", &format!("usage:keymodel:daily:index:{day}"), &format!("{id}:{model}")]));
    }
    totals(world, id, total, out);
}

/// What a key has used since it was made, `count` requests.
fn totals(world: &World, id: &str, count: u64, out: &mut Vec<Command>) {
    let usage = Usage::of(1208).times(count);
    let calendar = world.calendar();
    out.push(counters(&format!("usage:{id}"), &usage.total_fields()));
    out.push(counters(&format!("usage:{id}:model:alltime:{}", MODELS[0].0), &usage.alltime_fields()));
    out.push(counters(&format!("usage:monthly:{id}:{}", calendar.month), &usage.period_fields()));
    out.push(command(&["expire", &format!("usage:monthly:{id}:{}", calendar.month), MONTHLY]));
    for name in ["cost:total", "cost:real:total", "opus:total", "opus:real:total"] {
        out.push(command(&["set", &format!("usage:{name}:{id}"), &usage.cost()]));
    }
    out.push(command(&["set", &format!("usage:opus:weekly:{id}:{}", calendar.week), &usage.cost(), "EX", "1209600"]));
}

/// Lists that are full, and a stream. Keys are used unevenly: the first has 200 entries, the others less and less.
fn logs(world: &mut World, calendar: &Calendar, out: &mut Vec<Command>) {
    let usage = Usage::of(1208);
    for (place, key) in world.api_keys.clone().iter().enumerate() {
        let entries = (200 / (place + 1)).max(3);
        let account = world.console_for(key.sessions.first().map_or("", String::as_str)).id.clone();
        let mut push = vec![b"lpush".to_vec(), format!("usage:records:{}", key.id).into_bytes()];
        for _ in 0..entries {
            let request = world.dice.uuid();
            push.push(usage_record(calendar, &account, MODELS[1].0, &usage, &request).into_bytes());
        }
        out.push(push);
        out.push(command(&["expire", &format!("usage:records:{}", key.id), "7776000"]));
        for _ in 0..3 {
            let request = world.dice.uuid();
            let event = billing_event(calendar, key, &account, MODELS[1].0, &usage, &request);
            out.push(command(&["xadd", "billing:events", "MAXLEN", "~", "100000", "*", "data", &event]));
        }
    }
    let Some(account) = world.accounts.first().cloned() else {
        return;
    };
    let history = format!("error_history:claude-console:{}", account.id);
    out.push(command(&["lpush", &history, r#"{"status":500,"errorType":"server_error","context":null}"#]));
    out.push(command(&["expire", &history, "259200"]));
    for number in 0..5 {
        let id = world.dice.hex(11);
        let item = serde_json::json!({"requestId": id, "timestamp": calendar.iso, "number": number}).to_string();
        out.push(command(&["set", &format!("request_detail:item:{id}"), &item, "EX", "21600"]));
        let index = format!("request_detail:index:day:{}", calendar.compact_day);
        out.push(command(&["zadd", &index, &calendar.ms.to_string(), &id]));
        out.push(command(&["expire", &index, "108000"]));
    }
}

fn people(world: &mut World, calendar: &Calendar, out: &mut Vec<Command>) {
    for number in 0..3 {
        let id = world.dice.hex(32);
        let name = format!("user-{number}");
        let user = serde_json::json!({
            "id": id, "username": name, "email": format!("{name}@example.org"), "displayName": "Üser", "role": "user",
            "isActive": true, "createdAt": calendar.iso, "updatedAt": calendar.iso, "lastLoginAt": null,
            "apiKeyCount": 0, "totalUsage": {"requests": 0, "totalCost": 0},
        });
        out.push(command(&["set", &format!("user:{id}"), &user.to_string()]));
        out.push(command(&["set", &format!("username:{name}"), &id]));
        out.push(command(&["sadd", "user:index", &id]));
    }
    out.push(command(&[
        "hset",
        "session:admin_credentials",
        "username",
        "admin",
        "passwordHash",
        "$2a$10$made.up.hash",
        "createdAt",
        &calendar.iso,
        "lastLogin",
        "",
        "updatedAt",
        "",
    ]));
    out.push(command(&["expire", "session:admin_credentials", "86400"]));
}

fn cards(world: &mut World, calendar: &Calendar, out: &mut Vec<Command>) {
    for number in 0..4 {
        let id = world.dice.uuid();
        let code = format!("CC_{number:04}_{}", world.dice.hex(4).to_uppercase());
        out.push(command(&[
            "hset",
            &format!("quota_card:{id}"),
            "id",
            &id,
            "code",
            &code,
            "type",
            "quota",
            "quotaAmount",
            "5",
            "timeAmount",
            "0",
            "timeUnit",
            "days",
            "status",
            "unused",
            "createdBy",
            "admin",
            "createdAt",
            &calendar.iso,
            "expiresAt",
            "",
            "note",
            "",
            "redeemedBy",
            "",
            "redeemedAt",
            "",
        ]));
        out.push(command(&["set", &format!("quota_card_code:{code}"), &id]));
        out.push(command(&["sadd", "quota_cards:all", &id]));
        out.push(command(&["sadd", "quota_cards:status:unused", &id]));
    }
}

fn configs(calendar: &Calendar, out: &mut Vec<Command>) {
    let stamp = format!(r#""updatedAt":"{}""#, calendar.iso);
    let texts = [
        (
            "claude_relay_config",
            format!(r#"{{"claudeCodeOnlyEnabled":false,"message":"你的本地session已污染",{stamp}}}"#),
        ),
        ("webhook_config:default", format!(r#"{{"enabled":true,"platforms":[],{stamp}}}"#)),
        ("oem:settings", format!(r#"{{"siteName":"Example","siteIcon":"",{stamp}}}"#)),
        ("system:service_rates", format!(r#"{{"baseService":"claude","rates":{{"claude":1,"codex":1}},{stamp}}}"#)),
        ("system:migrated:version", "1.1.314".to_owned()),
        ("system:migration:usage_index_v2", calendar.ms.to_string()),
        ("apikey:index:version", "2".to_owned()),
    ];
    for (key, text) in texts {
        out.push(command(&["set", key, &text]));
    }
}

/// Keys that belong to Redis alone: sessions, limits, locks, caches.
fn ephemeral(world: &mut World, calendar: &Calendar, out: &mut Vec<Command>) {
    let session = format!("session:{}", world.dice.hex(64));
    out.push(command(&[
        "hset",
        &session,
        "username",
        "admin",
        "loginTime",
        &calendar.iso,
        "lastActivity",
        &calendar.iso,
    ]));
    out.push(command(&["expire", &session, "86400"]));
    for key in world.api_keys.iter().take(5) {
        let ms = calendar.ms.to_string();
        out.push(command(&["set", &format!("rate_limit:window_start:{}", key.id), &ms, "PX", "3600000"]));
        out.push(command(&["set", &format!("rate_limit:requests:{}", key.id), "1", "PX", "3600000"]));
        let Some(conversation) = key.sessions.first() else {
            continue;
        };
        let account = &world.console_for(conversation).id;
        let mapping = format!(r#"{{"accountId":"{account}","accountType":"claude-console"}}"#);
        out.push(command(&["setex", &format!("unified_claude_session_mapping:{conversation}"), "3600", &mapping]));
    }
    let lease = (calendar.ms + 600_000).to_string();
    out.push(command(&["zadd", "concurrency:queued-example", &lease, "request-1"]));
    out.push(command(&["expire", "concurrency:queued-example", "600"]));
    out.push(command(&["setex", "user:index:empty", "3600", "1"]));
    out.push(command(&["set", "cost_rank_lock:today", "1", "NX", "EX", "300"]));
    out.push(command(&["hset", "cost_rank_meta:today", "status", "ready", "keyCount", "0"]));
}
