//! The records of API keys and upstream accounts, with their places in the indexes.

use crate::traffic::usage::MONTHLY;
use crate::traffic::world::{Account, ApiKey, Calendar, World};
use crate::traffic::{Command, command};

/// One HSET of all `fields`.
pub(super) fn hash(key: &str, fields: &[(&str, String)]) -> Command {
    let mut parts = vec!["hset", key];
    for (name, value) in fields {
        parts.push(name);
        parts.push(value);
    }
    command(&parts)
}

/// The fields of an API key: 48 of them, most of them empty, as the relay writes them at every use.
pub(super) fn apikey_fields(key: &ApiKey, last_used: &str) -> Vec<(&'static str, String)> {
    let created = Calendar::at(key.created_ms).iso;
    let tags = serde_json::to_string(&key.tags).unwrap_or_default();
    let mut fields: Vec<(&'static str, String)> = vec![
        ("id", key.id.clone()),
        ("name", key.name.clone()),
        ("description", format!("{} of a team", key.name)),
        ("apiKey", key.hash.clone()),
        ("tags", tags),
        ("activatedAt", created.clone()),
        ("createdAt", created),
        ("lastUsedAt", last_used.to_owned()),
        ("permissions", r#"["claude","gemini","openai","droid"]"#.to_owned()),
    ];
    let constant = [
        ("tokenLimit", "0"),
        ("concurrencyLimit", "5"),
        ("rateLimitWindow", "60"),
        ("rateLimitRequests", "1000"),
        ("rateLimitCost", "0"),
        ("isActive", "true"),
        ("enableModelRestriction", "false"),
        ("restrictedModels", "[]"),
        ("enableClientRestriction", "false"),
        ("allowedClients", "[]"),
        ("dailyCostLimit", "100"),
        ("totalCostLimit", "1000"),
        ("weeklyOpusCostLimit", "50"),
        ("activationDays", "0"),
        ("activationUnit", "days"),
        ("expirationMode", "fixed"),
        ("isActivated", "true"),
        ("createdBy", "admin"),
        ("serviceRates", "{}"),
        ("weeklyResetDay", "1"),
        ("weeklyResetHour", "0"),
        ("enableOpenAIResponsesCodexAdaptation", "true"),
        ("enableOpenAIResponsesPayloadRules", "false"),
        ("openaiResponsesPayloadRules", "[]"),
        ("isDeleted", "false"),
    ];
    fields.extend(constant.map(|(name, value)| (name, value.to_owned())));
    let empty = [
        "claudeAccountId",
        "claudeConsoleAccountId",
        "geminiAccountId",
        "openaiAccountId",
        "azureOpenaiAccountId",
        "bedrockAccountId",
        "droidAccountId",
        "expiresAt",
        "userId",
        "userUsername",
        "icon",
        "deletedAt",
        "deletedBy",
        "deletedByType",
    ];
    fields.extend(empty.map(|name| (name, String::new())));
    fields
}

/// The commands that create an API key: its record, its entry in the hash map, and its place in every index.
pub(super) fn api_key(key: &ApiKey, last_used: &str) -> Vec<Command> {
    let record = format!("apikey:{}", key.id);
    let created = key.created_ms.to_string();
    let mut out = vec![
        command(&["hset", "apikey:hash_map", &key.hash, &key.id]),
        hash(&record, &apikey_fields(key, last_used)),
        command(&["expire", &record, MONTHLY]),
    ];
    for range in ["today", "7days", "30days", "all"] {
        out.push(command(&["zadd", &format!("cost_rank:{range}"), "0", &key.id]));
    }
    out.push(command(&["zadd", "apikey:idx:createdAt", &created, &key.id]));
    out.push(command(&["zadd", "apikey:idx:lastUsedAt", "0", &key.id]));
    out.push(command(&["zadd", "apikey:idx:name", "0", &name_member(key)]));
    out.push(command(&["sadd", "apikey:idx:all", &key.id]));
    out.push(command(&["sadd", "apikey:set:active", &key.id]));
    out.push(command(&["srem", "apikey:set:deleted", &key.id]));
    for tag in &key.tags {
        out.push(command(&["sadd", &format!("apikey:tag:{tag}"), &key.id]));
        out.push(command(&["sadd", "apikey:tags:all", tag]));
    }
    out
}

/// The member of the name index: name and id with a NUL between them.
pub(super) fn name_member(key: &ApiKey) -> String {
    format!("{}\0{}", key.name, key.id)
}

/// The commands that delete an API key so that it can be restored.
pub(super) fn soft_delete(key: &ApiKey, calendar: &Calendar) -> Vec<Command> {
    let record = format!("apikey:{}", key.id);
    vec![
        command(&["hget", "apikey:hash_map", &key.hash]),
        command(&[
            "hset",
            &record,
            "isDeleted",
            "true",
            "isActive",
            "false",
            "deletedAt",
            &calendar.iso,
            "deletedBy",
            "admin",
            "deletedByType",
            "admin",
            "updatedAt",
            &calendar.iso,
        ]),
        command(&["expire", &record, MONTHLY]),
        command(&["hdel", "apikey:hash_map", &key.hash]),
        command(&["srem", "apikey:set:active", &key.id]),
        command(&["sadd", "apikey:set:deleted", &key.id]),
    ]
}

/// An encrypted credential: made-up hex in the relay's form `iv:cipher`.
fn credential(world: &mut World) -> String {
    format!("{}:{}", world.dice.hex(32), world.dice.hex(64))
}

pub(super) fn accounts(world: &mut World, calendar: &Calendar, out: &mut Vec<Command>) {
    for (number, account) in world.accounts.clone().iter().enumerate() {
        let prefix = account.family.prefix;
        out.push(command(&["sadd", &format!("{prefix}:index"), &account.id]));
        if let Some(shared) = account.family.shared {
            out.push(command(&["sadd", shared, &account.id]));
        }
        let name = format!("{}-{number}", account.family.platform);
        if prefix == "bedrock_account" {
            let secret = credential(world);
            out.push(command(&["set", &account.key(), &bedrock(account, &name, &secret, calendar)]));
            continue;
        }
        let mut fields = account_fields(account, &name, calendar);
        for field in account.family.credentials {
            fields.push((field, credential(world)));
        }
        out.push(hash(&account.key(), &fields));
    }
    let group = world.dice.uuid();
    let Some(member) = world.accounts.iter().find(|account| account.family.platform == "claude") else {
        return;
    };
    out.push(command(&["sadd", "account_groups", &group]));
    out.push(command(&[
        "hset",
        &format!("account_group:{group}"),
        "id",
        &group,
        "name",
        "group of claude",
        "platform",
        "claude",
        "description",
        "group",
        "createdAt",
        &calendar.iso,
        "updatedAt",
        &calendar.iso,
    ]));
    out.push(command(&["sadd", &format!("account_group_members:{group}"), &member.id]));
    out.push(command(&["sadd", &format!("account_groups_reverse:claude:{}", member.id), &group]));
    out.push(command(&["set", "account_groups_reverse:migrated", "true"]));
    out.push(command(&["set", &format!("account_balance_script:claude:{}", member.id), r#"{"enabled":false}"#]));
}

fn account_fields(account: &Account, name: &str, calendar: &Calendar) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("id", account.id.clone()),
        ("name", name.to_owned()),
        ("platform", account.family.platform.to_owned()),
        ("createdAt", calendar.iso.clone()),
        ("updatedAt", calendar.iso.clone()),
    ];
    let constant = [
        ("accountType", "shared"),
        ("priority", "50"),
        ("description", "第一个账户"),
        ("proxy", ""),
        ("isActive", "true"),
        ("schedulable", "true"),
        ("status", "active"),
        ("errorMessage", ""),
        ("disableAutoProtection", "false"),
        ("rateLimitStatus", ""),
        ("rateLimitDuration", "60"),
        ("supportedModels", "{}"),
        ("dailyQuota", "1000"),
        ("dailyUsage", "0"),
        ("quotaResetTime", "00:00"),
        ("quotaStoppedAt", ""),
        ("subscriptionExpiresAt", ""),
        ("lastUsedAt", ""),
        ("maxConcurrentTasks", "20"),
        ("interceptWarmup", "false"),
    ];
    fields.extend(constant.map(|(field, value)| (field, value.to_owned())));
    fields
}

/// The one family that is a JSON string.
fn bedrock(account: &Account, name: &str, secret: &str, calendar: &Calendar) -> String {
    serde_json::json!({
        "id": account.id, "name": name, "description": "", "region": "us-east-1", "isActive": true,
        "defaultModel": "us.anthropic.claude-sonnet-4-20250514-v1:0", "accountType": "shared", "priority": 50,
        "schedulable": false, "credentialType": "access_key", "subscriptionExpiresAt": null,
        "createdAt": calendar.iso, "updatedAt": calendar.iso, "type": "bedrock", "disableAutoProtection": false,
        "awsCredentials": {"encrypted": secret, "iv": "0000"},
    })
    .to_string()
}
