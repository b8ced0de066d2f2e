//! Columns that SQL computes: from good data, from bad data, and from the names of keys.

use parallax::model::catalog::{Catalog, Table};

use super::Database;

#[tokio::test]
async fn a_text_that_fits_its_column_is_there() {
    let database = Database::migrated().await;
    for (cast, good, wanted) in [
        ("bigint", "-9223372036854775808", "-9223372036854775808"),
        ("bigint", "+5", "5"),
        ("numeric", "0.05600499999999999", "0.05600499999999999"),
        ("numeric", "1.5e-7", "0.00000015"),
        ("numeric", "9223372036854775808", "9223372036854775808"),
        ("double", "-inf", "-Infinity"),
        ("double", "1732320590044", "1732320590044"),
        ("boolean", "true", "true"),
        ("boolean", "0", "false"),
        ("jsonb", r#" {"a":[1]}"#, r#"{"a": [1]}"#),
        ("timestamptz", "2026-11-23T06:09:50.044Z", "2026-11-23 06:09:50.044+00"),
        ("timestamptz", "2026-11-23T06:09:50+08:00", "2026-11-22 22:09:50+00"),
        ("timestamptz", "2024-02-29T00:00:00-0330", "2024-02-29 03:30:00+00"),
        ("timestamptz", "1796278189445", "2026-12-03 06:09:49.445+00"),
    ] {
        let sql = format!("SELECT parallax_{cast}('{good}')");
        database.client.batch_execute("SET timezone = 'UTC'").await.unwrap();
        assert_eq!(database.text(&sql).await.as_deref(), Some(wanted), "{cast} {good}");
    }
}

#[tokio::test]
async fn a_text_that_does_not_fit_its_column_is_null() {
    let database = Database::migrated().await;
    for (cast, bad) in [
        ("bigint", "9223372036854775808"),
        ("bigint", "1.5"),
        ("bigint", " 1"),
        ("numeric", "1e400"),
        ("numeric", "NaN"),
        ("numeric", "Infinity"),
        ("numeric", "0x10"),
        ("double", "1e400"),
        ("double", "nan"),
        ("boolean", "yes"),
        ("jsonb", "{"),
        ("jsonb", r#""\u0000""#),
        ("jsonb", "1e1000000"),
        ("timestamptz", "2026-02-30T00:00:00Z"),
        ("timestamptz", "2026-11-23T06:09:50"),
        ("timestamptz", "0000-01-01T00:00:00Z"),
        ("timestamptz", "2026-11-23T24:00:00Z"),
        ("timestamptz", "now"),
        ("timestamptz", "999999999999999"),
        ("short", ""),
    ] {
        assert_eq!(database.text(&format!("SELECT parallax_{cast}('{bad}')")).await, None, "{cast} {bad}");
    }
    for cast in ["bigint", "numeric", "double", "boolean", "jsonb", "timestamptz", "short"] {
        assert_eq!(database.text(&format!("SELECT parallax_{cast}(NULL)")).await, None, "{cast}");
        assert_eq!(database.text(&format!("SELECT parallax_{cast}(repeat('[', 100000))")).await, None, "{cast}");
    }
}

#[tokio::test]
async fn an_api_key_has_real_columns_and_bad_fields_are_null() {
    let database = Database::migrated().await;
    database.client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    let columns =
        "SELECT format('%s|%s|%s|%s|%s', name, is_active, daily_cost_limit, last_used_at, tags ->> 0) FROM api_keys";
    let good = serde_json::json!({
        "name": "team", "isActive": "true", "dailyCostLimit": "12.50", "lastUsedAt": "2026-11-23T06:09:50.044Z",
        "tags": r#"["odd"]"#, "apiKey": "secret",
    });
    database.put(b"apikey:1", &good).await;
    assert_eq!(database.text(columns).await.unwrap(), "team|t|12.50|2026-11-23 06:09:50.044+00|odd");
    let bad = serde_json::json!({
        "name": "team", "isActive": "perhaps", "dailyCostLimit": "1e400", "lastUsedAt": "yesterday", "tags": "[",
    });
    database.put(b"apikey:1", &bad).await;
    assert_eq!(database.text(columns).await.unwrap(), "team||||");
    database.put(b"apikey:1", &serde_json::json!(["not", "a", "hash"])).await;
    assert_eq!(database.text(columns).await.unwrap(), "||||");
}

#[tokio::test]
async fn accounts_have_the_same_columns_as_hashes_and_as_one_json_text() {
    let database = Database::migrated().await;
    let columns =
        "SELECT format('%s|%s|%s|%s', platform, name, is_schedulable, priority) FROM accounts ORDER BY platform";
    let hash = serde_json::json!({"name": "console-1", "schedulable": "true", "priority": "5"});
    database.put(b"claude_console_account:1", &hash).await;
    let text = serde_json::json!(r#"{"name":"bedrock-1","schedulable":false,"priority":50}"#);
    database.put(b"bedrock_account:1", &text).await;
    let rows: Vec<String> = database.texts(columns).await.into_iter().flatten().collect();
    assert_eq!(rows, ["bedrock|bedrock-1|f|50", "claude-console|console-1|t|5"]);
    database.put(b"bedrock_account:1", &serde_json::json!("{broken")).await;
    assert_eq!(database.text(columns).await.unwrap(), "bedrock|||");
}

/// What the counters of the story below hold.
#[derive(Clone, Copy)]
enum Doc {
    Tokens,
    Cost,
}

/// A key, its document, and what its row says of scope, measure, granularity, API key, account, model, subject, period,
/// requests, input tokens, cost and real cost.
const COUNTERS: [(&str, Doc, &str); 13] = [
    ("usage:k", Doc::Tokens, "api_key|tokens|total|k|||k||6|720|2.000001|0.001932"),
    (
        "usage:daily:k:2026-11-23",
        Doc::Tokens,
        "api_key|tokens|daily|k|||k|2026-11-22 16:00:00+00|6|720|2.000001|0.001932",
    ),
    (
        "usage:k:model:hourly:us.claude-v1:0:2026-11-23:14",
        Doc::Tokens,
        "api_key_model|tokens|hourly|k||us.claude-v1:0|k|2026-11-23 06:00:00+00|6|720|2.000001|0.001932",
    ),
    ("usage:k:model:alltime:m:1", Doc::Tokens, "api_key_model|tokens|total|k||m:1|k||6|720|2.000001|0.001932"),
    (
        "usage:model:monthly:m:2026-11",
        Doc::Tokens,
        "model|tokens|monthly|||m|m|2026-10-31 16:00:00+00|6|720|2.000001|0.001932",
    ),
    ("usage:global:total", Doc::Tokens, "global|tokens|total||||global||6|720|2.000001|0.001932"),
    (
        "account_usage:model:daily:a:m:2026-11-23",
        Doc::Tokens,
        "account_model|tokens|daily||a|m|a|2026-11-22 16:00:00+00|6|720|2.000001|0.001932",
    ),
    ("account_usage:a", Doc::Tokens, "account|tokens|total||a||a||6|720|2.000001|0.001932"),
    ("usage:cost:hourly:k:2026-11-23:00", Doc::Cost, "api_key|cost|hourly|k|||k|2026-11-22 16:00:00+00|||0.0369495|"),
    ("usage:cost:real:total:k", Doc::Cost, "api_key|real_cost|total|k|||k|||||0.0369495"),
    (
        "usage:opus:weekly:k:2026-11-23T05",
        Doc::Cost,
        "api_key|opus_cost|weekly|k|||k|2026-11-22 21:00:00+00|||0.0369495|",
    ),
    ("usage:opus:weekly:k:2026-W48", Doc::Cost, "api_key|opus_cost|weekly|k|||k||||0.0369495|"),
    ("usage:daily:k:2026-02-30", Doc::Tokens, "api_key|tokens|daily|k|||k||6|720|2.000001|0.001932"),
];

#[tokio::test]
async fn a_usage_counter_says_whose_it_is_and_when_in_the_relays_offset() {
    let database = Database::migrated().await;
    database.client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    let tokens = serde_json::json!({
        "requests": "6", "inputTokens": "720", "totalTokens": "9", "realCostMicro": "1932", "ratedCostMicro": "2000001",
    });
    let cost = serde_json::json!("0.0369495");
    for (key, doc, wanted) in COUNTERS {
        let doc = match doc {
            Doc::Tokens => &tokens,
            Doc::Cost => &cost,
        };
        assert_eq!(database.put(key.as_bytes(), doc).await, Table::UsageCounters, "{key}");
        let sql = format!(
            "SELECT concat_ws('|', scope, measure, granularity, coalesce(api_key_id, ''), coalesce(account_id, ''),
                coalesce(model, ''), subject, coalesce(period_start::text, ''), coalesce(requests::text, ''),
                coalesce(input_tokens::text, ''), coalesce(cost::text, ''), coalesce(real_cost::text, ''))
             FROM usage_counters WHERE key = '{key}'"
        );
        assert_eq!(database.text(&sql).await.unwrap(), wanted, "{key}");
    }
}

#[tokio::test]
async fn the_sql_understands_the_name_of_every_usage_kind() {
    let database = Database::migrated().await;
    for kind in Catalog::embedded().kinds().iter().filter(|kind| kind.table == Table::UsageCounters) {
        let sql = format!(
            "SELECT parallax_usage_granularity('{0}') IS NOT NULL AND parallax_usage_scope('{0}') IS NOT NULL",
            kind.name
        );
        assert_eq!(database.text(&sql).await.as_deref(), Some("true"), "{}", kind.name);
    }
    for kind in Catalog::embedded().kinds().iter().filter(|kind| kind.table == Table::Accounts) {
        database.put(&kind.pattern.around(b"1"), &serde_json::json!({})).await;
    }
    assert_eq!(database.text("SELECT count(*) FROM accounts WHERE platform IS NULL").await.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_new_offset_moves_every_period_and_nothing_else() {
    let database = Database::migrated().await;
    database.client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    database.put(b"usage:daily:k:2026-11-23", &serde_json::json!({"requests": "1"})).await;
    database.put(b"usage:k", &serde_json::json!({"requests": "1"})).await;
    let period = "SELECT period_start FROM usage_counters WHERE granularity = 'daily'";
    assert_eq!(database.text(period).await.unwrap(), "2026-11-22 16:00:00+00");
    assert_eq!(database.text("SELECT parallax_set_offset('-03:30')").await.unwrap(), "true");
    assert_eq!(database.text(period).await.unwrap(), "2026-11-23 03:30:00+00");
    assert_eq!(database.text("SELECT parallax_set_offset('-03:30')").await.unwrap(), "false");
    assert_eq!(database.text("SELECT max(version) FROM usage_counters").await.unwrap(), "1");
    database.put(b"usage:daily:l:2026-11-23", &serde_json::json!({"requests": "1"})).await;
    assert_eq!(database.text("SELECT count(DISTINCT period_start) FROM usage_counters").await.unwrap(), "1");
    let refused = database.client.batch_execute("SELECT parallax_set_offset('Asia/Shanghai')").await.unwrap_err();
    assert!(format!("{refused:?}").contains("an offset is written like +08:00"), "{refused:?}");
}

#[tokio::test]
async fn entries_of_logs_have_columns_whatever_form_they_have() {
    let database = Database::migrated().await;
    database.client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    let record = r#"{"timestamp":"2026-11-23T06:09:53.254Z","model":"m","accountId":"a","requestId":"r","inputTokens":120,"cost":0.00032199999999999997,"realCost":0.0004}"#;
    database.put_element(b"usage:records:k", b"1", &serde_json::json!(record)).await;
    let event = r#"{"eventId":"e","timestamp":"2026-11-23T06:09:53.254Z","apiKey":{"id":"k2"},"usage":{"model":"m","inputTokens":120},"cost":{"total":0.5},"account":{"id":"a"}}"#;
    database.put_element(b"billing:events", b"1-0", &serde_json::json!(["data", event])).await;
    database.put_element(b"billing:events", b"2-0", &serde_json::json!(["note", "data", "data", event])).await;
    database.put_element(b"billing:events", b"3-0", &serde_json::json!(["data", "{broken"])).await;
    database.put_element(b"billing:events", b"4-0", &serde_json::json!(["odd"])).await;
    let sql =
        "SELECT concat_ws('|', element, at, request_id, api_key_id, account_id, model, input_tokens, cost, real_cost)
        FROM event_logs ORDER BY kind DESC, element";
    let rows: Vec<String> = database.texts(sql).await.into_iter().flatten().collect();
    assert_eq!(
        rows,
        [
            "1|2026-11-23 06:09:53.254+00|r|k|a|m|120|0.00032199999999999997|0.0004",
            "1-0|2026-11-23 06:09:53.254+00|e|k2|a|m|120|0.5",
            "2-0|2026-11-23 06:09:53.254+00|e|k2|a|m|120|0.5",
            "3-0",
            "4-0",
        ]
    );
}
