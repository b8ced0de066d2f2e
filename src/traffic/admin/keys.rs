//! What administrators do to API keys: the operations that change indexes, rename over them, and delete for good.

use crate::traffic::entity::{self, name_member, soft_delete};
use crate::traffic::usage::MONTHLY;
use crate::traffic::world::{ApiKey, World};
use crate::traffic::{Burst, Command, command};

pub(super) fn create_key(world: &mut World) -> Vec<Burst> {
    let key = world.make_key();
    let bursts = entity::api_key(&key, "").chunks(6).map(<[Command]>::to_vec).collect();
    world.api_keys.push(key);
    bursts
}

/// A new name and another tag: the old index member goes, the new one comes.
pub(super) fn update_key(world: &mut World) -> Vec<Burst> {
    let at = world.dice.below(world.api_keys.len() as u64);
    let calendar = world.calendar();
    let Some(key) = usize::try_from(at).ok().and_then(|at| world.api_keys.get_mut(at)) else {
        return Vec::new();
    };
    let before = key.clone();
    key.name = format!("{}-upd", before.name.trim_end_matches("-upd"));
    key.tags.truncate(1);
    key.tags.push("updated".to_owned());
    let record = format!("apikey:{}", key.id);
    let mut index = vec![
        command(&["zrem", "apikey:idx:name", &name_member(&before)]),
        command(&["zadd", "apikey:idx:name", "0", &name_member(key)]),
    ];
    for tag in &before.tags {
        index.push(command(&["srem", &format!("apikey:tag:{tag}"), &key.id]));
    }
    for tag in &key.tags {
        index.push(command(&["sadd", &format!("apikey:tag:{tag}"), &key.id]));
        index.push(command(&["sadd", "apikey:tags:all", tag]));
    }
    vec![
        vec![command(&["hgetall", &record])],
        vec![command(&["hset", "apikey:hash_map", &key.hash, &key.id])],
        vec![entity::hash(&record, &entity::apikey_fields(key, &calendar.iso)), command(&["expire", &record, MONTHLY])],
        index,
        before.tags.iter().map(|tag| command(&["scard", &format!("apikey:tag:{tag}")])).collect(),
    ]
}

/// The list page: three temporary sets that live 60 seconds, then every record of the page.
pub(super) fn list_keys(world: &mut World) -> Vec<Burst> {
    let temporary = |kind: &str, world: &mut World| format!("apikey:tmp:{kind}:{}", world.dice.uuid());
    let (not_deleted, tagged) = (temporary("notdeleted", world), temporary("tag", world));
    let (filter, sorted) = (temporary("filter", world), temporary("sorted", world));
    let mut filtered = vec!["zadd", &filter];
    let page: Vec<String> = world.api_keys.iter().take(20).map(|key| key.id.clone()).collect();
    for id in &page {
        filtered.push("0");
        filtered.push(id);
    }
    let mut bursts: Vec<Burst> = [
        command(&["get", "apikey:index:version"]),
        command(&["sdiffstore", &not_deleted, "apikey:idx:all", "apikey:set:deleted"]),
        command(&["expire", &not_deleted, "60"]),
        command(&["sinterstore", &tagged, &not_deleted, "apikey:tag:even"]),
        command(&["expire", &tagged, "60"]),
        command(&["smembers", &tagged]),
        command(&filtered),
        command(&["expire", &filter, "60"]),
        command(&["zinterstore", &sorted, "2", &filter, "apikey:idx:createdAt", "WEIGHTS", "0", "1"]),
        command(&["expire", &sorted, "60"]),
        command(&["zrevrange", &sorted, "0", "-1"]),
    ]
    .into_iter()
    .map(|single| vec![single])
    .collect();
    bursts.push(page.iter().map(|id| command(&["hgetall", &format!("apikey:{id}")])).collect());
    bursts.push(vec![command(&["smembers", "apikey:tags:all"])]);
    bursts
}

/// A rank is built beside the real one and renamed over it.
pub(super) fn rebuild_rank(world: &mut World) -> Vec<Burst> {
    let temporary = format!("cost_rank:today:temp:{}", world.now_ms);
    let calendar = world.calendar();
    let reads =
        world.api_keys.iter().map(|key| command(&["get", &format!("usage:cost:daily:{}:{}", key.id, calendar.day)]));
    let reads: Burst = reads.collect();
    let mut rank = Burst::new();
    for key in world.api_keys.clone() {
        let cost = format!("{}.{:03}", world.dice.below(90), world.dice.below(1000));
        rank.push(command(&["zadd", &temporary, &cost, &key.id]));
    }
    vec![
        vec![command(&["set", "cost_rank_lock:today", "1", "NX", "EX", "300"])],
        vec![command(&["hset", "cost_rank_meta:today", "status", "updating"])],
        reads,
        vec![command(&["del", &temporary])],
        rank,
        vec![command(&["rename", &temporary, "cost_rank:today"])],
        vec![command(&["zrevrange", "cost_rank:today", "0", "9", "WITHSCORES"])],
        vec![command(&["hset", "cost_rank_meta:today", "status", "ready", "lastUpdate", &calendar.iso])],
        vec![command(&["del", "cost_rank_lock:today"])],
    ]
}

pub(super) fn delete_key(world: &mut World) -> Vec<Burst> {
    // The first keys carry the long lists and stay; and somebody must be left to make requests.
    if world.api_keys.len() <= 4 {
        return Vec::new();
    }
    let Some(key) = world.api_keys.pop() else {
        return Vec::new();
    };
    let bursts = soft_delete(&key, &world.calendar()).into_iter().map(|single| vec![single]).collect();
    world.deleted.push(key);
    bursts
}

/// A key that was soft-deleted goes for good, with the figures whose keys name it.
pub(super) fn delete_for_good(world: &mut World) -> Vec<Burst> {
    let Some(key) = world.deleted.pop() else {
        return Vec::new();
    };
    let ApiKey { id, .. } = &key;
    let calendar = world.calendar();
    let mut index = vec![
        command(&["zrem", "apikey:idx:createdAt", id]),
        command(&["zrem", "apikey:idx:lastUsedAt", id]),
        command(&["zrem", "apikey:idx:name", &name_member(&key)]),
        command(&["srem", "apikey:idx:all", id]),
        command(&["srem", "apikey:set:active", id]),
        command(&["srem", "apikey:set:deleted", id]),
    ];
    for range in ["today", "7days", "30days", "all"] {
        index.push(command(&["zrem", &format!("cost_rank:{range}"), id]));
    }
    for tag in &key.tags {
        index.push(command(&["srem", &format!("apikey:tag:{tag}"), id]));
    }
    vec![
        vec![command(&["hdel", "apikey:hash_map", &key.hash])],
        vec![command(&["del", &format!("apikey:{id}")])],
        index,
        vec![command(&[
            "del",
            &format!("usage:daily:{id}:{}", calendar.day),
            &format!("usage:cost:daily:{id}:{}", calendar.day),
            &format!("usage:cost:total:{id}"),
            &format!("usage:records:{id}"),
        ])],
    ]
}
