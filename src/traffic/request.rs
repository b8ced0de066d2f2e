//! One relayed request: 328 commands in the order and the bursts of the real program (a warm conversation on a
//! claude-console account).
//!
//! 36 reads, 14 EVAL and 276 writes (197 HINCRBY, 37 EXPIRE, 12 SADD, 11 DEL, 11 INCRBYFLOAT, 2 HSET and one each of
//! INCR, INCRBY, ZADD, LPUSH, LTRIM, XADD) and one MULTI/EXEC. 41 of them run one after another before the answer
//! of the upstream is known; the rest comes in bursts.

use crate::traffic::entity;
use crate::traffic::usage::{self, DAILY, HOURLY, MONTHLY, Usage, minute_fields};
use crate::traffic::world::{ApiKey, Calendar, MODELS, World};
use crate::traffic::{Burst, Command, command};

/// One HINCRBY for each field.
fn count_up(burst: &mut Burst, key: &str, fields: &[(String, u64)]) {
    for (name, value) in fields {
        burst.push(command(&["hincrby", key, name, &value.to_string()]));
    }
}

/// The bursts of one relayed request by `key` in its conversation `session`.
pub(super) fn relayed(world: &mut World, key: &ApiKey, session: &str) -> Vec<Burst> {
    let (model, cost_micro) = *world.dice.pick(&MODELS);
    let usage = Usage::of(cost_micro);
    let calendar = world.calendar();
    let account = world.console_for(session).clone();
    let request = world.dice.uuid();
    let console = account.key();
    let lease = concurrency(&format!("console_account:{}", account.id), &request, calendar.ms);
    let look = vec![command(&[
        "eval",
        "return 0",
        "1",
        &format!("concurrency:console_account:{}", account.id),
        &calendar.ms.to_string(),
    ])];

    let mut bursts = before_upstream(&calendar, key, session, &account.id, &lease, &look);
    bursts.push(vec![command(&["hgetall", &console])]);
    for _ in 0..2 {
        bursts.push(look.clone());
    }
    bursts.push(vec![
        command(&["exists", &console]),
        command(&["hset", &console, "lastUsedAt", &calendar.iso]),
        look.concat(),
    ]);
    bursts.push(key_figures(&calendar, &key.id, model, &usage));
    bursts.extend(key_cost(&calendar, &key.id, &usage));
    bursts.push(vec![command(&["hgetall", &apikey(key)]), command(&["hgetall", &apikey(key)])]);
    bursts.push(vec![
        entity::hash(&apikey(key), &entity::apikey_fields(key, &calendar.iso)),
        command(&["expire", &apikey(key), "31536000"]),
    ]);
    bursts.push(vec![command(&["zadd", "apikey:idx:lastUsedAt", &calendar.ms.to_string(), &key.id])]);
    bursts.push(account_figures(&calendar, &account.id, model, &usage));
    bursts.extend(usage::events(&calendar, key, &account.id, model, &usage, &request));
    bursts.push(vec![
        command(&["incrby", &format!("rate_limit:tokens:{}", key.id), &usage.all().to_string()]),
        command(&["incrbyfloat", &format!("rate_limit:cost:{}", key.id), &usage.cost()]),
    ]);
    bursts.push(vec![lease]);
    bursts.push(vec![concurrency(&key.id, &request, calendar.ms)]);
    bursts
}

fn apikey(key: &ApiKey) -> String {
    format!("apikey:{}", key.id)
}

/// The relay's concurrency scripts touch one ephemeral sorted set; their text does not matter to a store.
fn concurrency(subject: &str, request: &str, ms: i64) -> Command {
    command(&[
        "eval",
        "return 0",
        "1",
        &format!("concurrency:{subject}"),
        request,
        &(ms + 300_000).to_string(),
        &ms.to_string(),
    ])
}

/// The 41 commands that run before the upstream is called, one after another but for a group of three.
fn before_upstream(
    calendar: &Calendar,
    key: &ApiKey,
    session: &str,
    account: &str,
    lease: &Command,
    look: &Burst,
) -> Vec<Burst> {
    let id = &key.id;
    let mapping = format!("unified_claude_session_mapping:{session}");
    let console = format!("claude_console_account:{account}");
    let day = &calendar.day;
    let mut singles = vec![
        command(&["hget", "apikey:hash_map", &key.hash]),
        command(&["hgetall", &apikey(key)]),
        command(&["get", &format!("usage:cost:daily:{id}:{day}")]),
        concurrency(id, session, calendar.ms),
    ];
    for limit in ["window_start", "requests", "tokens", "cost"] {
        singles.push(command(&["get", &format!("rate_limit:{limit}:{id}")]));
    }
    singles.push(command(&["incr", &format!("rate_limit:requests:{id}")]));
    singles.push(command(&["get", &mapping]));
    singles.push(command(&["hgetall", &console]));
    let mut bursts: Vec<Burst> = singles.into_iter().map(|single| vec![single]).collect();

    bursts.push(vec![
        command(&["hgetall", &format!("account_usage:{account}")]),
        command(&["hgetall", &format!("account_usage:daily:{account}:{day}")]),
        command(&["hgetall", &format!("account_usage:monthly:{account}:{}", calendar.month)]),
    ]);
    // To find the family of an account, the relay asks for it in each one.
    for prefix in [
        "claude:account",
        "claude_account",
        "openai:account",
        "openai_responses_account",
        "openai_account",
        "droid:account",
    ] {
        bursts.push(vec![command(&["hgetall", &format!("{prefix}:{account}")])]);
    }
    bursts.push(vec![command(&["smembers", &format!("account_usage:model:daily:index:{day}")])]);
    for (model, _) in MODELS {
        bursts.push(vec![command(&["hgetall", &format!("account_usage:model:daily:{account}:{model}:{day}")])]);
    }
    bursts.push(vec![command(&["ttl", &format!("temp_unavailable:claude-console:{account}")])]);
    for _ in 0..6 {
        bursts.push(vec![command(&["hgetall", &console])]);
        bursts.push(look.clone());
    }
    bursts.push(look.clone());
    bursts.push(vec![command(&["ttl", &mapping])]);
    bursts.push(vec![command(&["hgetall", &console])]);
    bursts.push(vec![lease.clone()]);
    bursts
}

/// The big pipeline: what one request adds to the figures of its API key, its model and the whole relay.
fn key_figures(calendar: &Calendar, id: &str, model: &str, usage: &Usage) -> Burst {
    let Calendar { day, month, hour, minute, .. } = calendar;
    let metrics = format!("system:metrics:minute:{minute}");
    // (key, fields, seconds to live) in the order of the real pipeline.
    let figures = [
        (format!("usage:{id}"), usage.total_fields(), None),
        (format!("usage:daily:{id}:{day}"), usage.period_fields(), Some(DAILY)),
        (format!("usage:monthly:{id}:{month}"), usage.period_fields(), Some(MONTHLY)),
        (format!("usage:model:daily:{model}:{day}"), usage.model_fields(), Some(DAILY)),
        (format!("usage:model:monthly:{model}:{month}"), usage.model_fields(), Some(MONTHLY)),
        (format!("usage:{id}:model:daily:{model}:{day}"), usage.cost_fields(), Some(DAILY)),
        (format!("usage:{id}:model:monthly:{model}:{month}"), usage.cost_fields(), Some(MONTHLY)),
        (format!("usage:{id}:model:alltime:{model}"), usage.alltime_fields(), None),
        (format!("usage:hourly:{id}:{hour}"), usage.period_fields(), Some(HOURLY)),
        (format!("usage:model:hourly:{model}:{hour}"), usage.model_fields(), Some(HOURLY)),
        (format!("usage:{id}:model:hourly:{model}:{hour}"), usage.cost_fields(), Some(HOURLY)),
        (metrics, minute_fields(usage), Some("600")),
    ];
    let mut burst = Burst::new();
    for (key, fields, _) in &figures {
        count_up(&mut burst, key, fields);
    }
    for (key, _, ttl) in &figures {
        if let Some(seconds) = ttl {
            burst.push(command(&["expire", key, seconds]));
        }
    }
    key_indexes(&mut burst, calendar, id, model);
    whole_relay(&mut burst, calendar, usage);
    burst
}

/// The indexes of the periods in which an API key and a model were used.
fn key_indexes(burst: &mut Burst, calendar: &Calendar, id: &str, model: &str) {
    let Calendar { day, month, hour, .. } = calendar;
    let pair = format!("{id}:{model}");
    index(
        burst,
        &[
            (format!("usage:daily:index:{day}"), id, DAILY),
            (format!("usage:hourly:index:{hour}"), id, HOURLY),
            (format!("usage:model:daily:index:{day}"), model, DAILY),
            (format!("usage:model:hourly:index:{hour}"), model, HOURLY),
            (format!("usage:model:monthly:index:{month}"), model, MONTHLY),
            (format!("usage:keymodel:daily:index:{day}"), &pair, DAILY),
            (format!("usage:keymodel:hourly:index:{hour}"), &pair, HOURLY),
        ],
    );
    burst.push(command(&["sadd", "usage:model:monthly:months", month]));
}

/// The figures of the whole relay.
fn whole_relay(burst: &mut Burst, calendar: &Calendar, usage: &Usage) {
    let Calendar { day, month, .. } = calendar;
    let daily = format!("usage:global:daily:{day}");
    let monthly = format!("usage:global:monthly:{month}");
    for key in ["usage:global:total", &daily, &monthly] {
        count_up(burst, key, &usage.model_fields());
    }
    burst.push(command(&["expire", &daily, DAILY]));
    burst.push(command(&["expire", &monthly, MONTHLY]));
}

/// SADD to each index, DEL of its "was found empty" marker, EXPIRE.
fn index(burst: &mut Burst, entries: &[(String, &str, &str)]) {
    for (key, member, _) in entries {
        burst.push(command(&["sadd", key, member]));
    }
    for (key, _, _) in entries {
        burst.push(command(&["del", &format!("{key}:empty")]));
    }
    for (key, _, seconds) in entries {
        burst.push(command(&["expire", key, seconds]));
    }
}

/// What one request adds to the money of its API key: six figures that limits are held against, and four of the week.
fn key_cost(calendar: &Calendar, id: &str, usage: &Usage) -> Vec<Burst> {
    let Calendar { day, month, hour, week, .. } = calendar;
    let cost = usage.cost();
    let rated = [
        (format!("usage:cost:daily:{id}:{day}"), Some("2592000")),
        (format!("usage:cost:monthly:{id}:{month}"), Some("7776000")),
        (format!("usage:cost:hourly:{id}:{hour}"), Some(HOURLY)),
        (format!("usage:cost:total:{id}"), None),
        (format!("usage:cost:real:total:{id}"), None),
        (format!("usage:cost:real:daily:{id}:{day}"), Some("2592000")),
    ];
    let weekly = [
        (format!("usage:opus:weekly:{id}:{week}"), Some("1209600")),
        (format!("usage:opus:total:{id}"), None),
        (format!("usage:opus:real:weekly:{id}:{week}"), Some("1209600")),
        (format!("usage:opus:real:total:{id}"), None),
    ];
    let pipeline = |figures: &[(String, Option<&str>)]| {
        let adds = figures.iter().map(|(key, _)| command(&["incrbyfloat", key, &cost]));
        let lives = figures.iter().filter_map(|(key, ttl)| ttl.map(|seconds| command(&["expire", key, seconds])));
        adds.chain(lives).collect::<Burst>()
    };
    vec![pipeline(&rated), vec![command(&["hgetall", &format!("apikey:{id}")])], pipeline(&weekly)]
}

/// The second big burst: what one request adds to the figures of its account.
fn account_figures(calendar: &Calendar, account: &str, model: &str, usage: &Usage) -> Burst {
    let Calendar { day, month, hour, .. } = calendar;
    let mut hourly = usage.period_fields();
    hourly.extend(usage.model_fields().into_iter().map(|(name, value)| (format!("model:{model}:{name}"), value)));
    let figures = [
        (format!("account_usage:{account}"), usage.total_fields(), None),
        (format!("account_usage:daily:{account}:{day}"), usage.period_fields(), Some(DAILY)),
        (format!("account_usage:monthly:{account}:{month}"), usage.period_fields(), Some(MONTHLY)),
        (format!("account_usage:hourly:{account}:{hour}"), hourly, Some(HOURLY)),
        (format!("account_usage:model:daily:{account}:{model}:{day}"), usage.model_fields(), Some(DAILY)),
        (format!("account_usage:model:monthly:{account}:{model}:{month}"), usage.model_fields(), Some(MONTHLY)),
        (format!("account_usage:model:hourly:{account}:{model}:{hour}"), usage.model_fields(), Some(HOURLY)),
    ];
    let mut burst = Burst::new();
    for (key, fields, _) in &figures {
        count_up(&mut burst, key, fields);
    }
    for (key, _, ttl) in &figures {
        if let Some(seconds) = ttl {
            burst.push(command(&["expire", key, seconds]));
        }
    }
    let pair = format!("{account}:{model}");
    index(
        &mut burst,
        &[
            (format!("account_usage:hourly:index:{hour}"), account, HOURLY),
            (format!("account_usage:model:hourly:index:{hour}"), &pair, HOURLY),
            (format!("account_usage:daily:index:{day}"), account, DAILY),
            (format!("account_usage:model:daily:index:{day}"), &pair, DAILY),
        ],
    );
    burst
}
