//! Every value that Redis can hold: mirrored, and read back from Postgres as Redis itself gives it.

mod differential;

use parallax::dev::servers::PrivateRedis;
use parallax::model::catalog::Catalog;
use parallax::traffic::compare;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::json;

use self::differential::{Parts, agree, connection, from_redis, line, parts, reads, through_the_door};
use crate::support::sidecar::Sidecar;
use crate::support::{self, Database};

async fn equal(redis: &PrivateRedis, database: &Database) {
    let equality = compare::stores(&redis.url(), &database.url(), &Catalog::embedded()).await.unwrap();
    assert!(equality.holds() && equality.records > 0, "{:?}", equality.differences);
}

/// Bytes that some layer between the caller and Postgres might take for something else.
const BLOBS: [&[u8]; 12] = [
    b"",
    b"\0",
    b"a\0b",
    b"\xff",
    b"\xff\0\xfe",
    b"\\x",
    b"\\x41",
    b"\\xzz",
    "名前 😀".as_bytes(),
    b"\"quoted\" {json} [1] \\u0000 \n\t\x1f",
    b"NaN",
    b"\xc3\x28",
];

/// Writes every blob into every type, as a document and as a collection, and answers the keys.
async fn written(sidecar: &Sidecar) -> Vec<Vec<u8>> {
    let write = async |command: Parts| {
        let answer = through_the_door(sidecar, &command).await;
        assert_eq!(answer.status, 200, "{:?}: {:?}", String::from_utf8_lossy(&command[1]), answer.body);
    };
    let scores: [&[u8]; 12] = [
        b"0.1",
        b"1e20",
        b"0",
        b"-0",
        b"inf",
        b"-inf",
        b"1e-7",
        b"3.0",
        b"12345678901234567",
        b"1.7976931348623157e308",
        b"5e-324",
        b"-2.5",
    ];
    let mut keys: Vec<Vec<u8>> = Vec::new();
    // The same values as documents and as collections: `account_group_members` is kept by element.
    for prefix in ["apikey:v-", "account_group_members:v-"] {
        for blob in BLOBS {
            let key = |name: &str| [prefix.as_bytes(), name.as_bytes()].concat();
            write(parts(&[b"HSET", &key("hash"), blob, blob])).await;
            write(parts(&[b"HSET", &key("hash"), &[blob, b"-empty"].concat(), b""])).await;
            write(parts(&[b"SADD", &key("set"), blob])).await;
        }
        let key = |name: &str| [prefix.as_bytes(), name.as_bytes()].concat();
        for (blob, score) in BLOBS.iter().zip(scores) {
            write(parts(&[b"ZADD", &key("zset"), score, blob])).await;
        }
        keys.extend([key("hash"), key("set"), key("zset")]);
    }
    for (index, blob) in BLOBS.iter().enumerate() {
        let key = format!("apikey:v-text-{index}").into_bytes();
        write(parts(&[b"SET", &key, blob])).await;
        write(parts(&[b"RPUSH", b"apikey:v-list", blob])).await;
        write(parts(&[b"XADD", b"apikey:v-stream", b"*", blob, blob])).await;
        keys.push(key);
        // The blob in the key itself.
        let key = [b"apikey:k", *blob].concat();
        write(parts(&[b"SET", &key, b"v"])).await;
        keys.push(key);
    }
    keys.extend([b"apikey:v-list".to_vec(), b"apikey:v-stream".to_vec()]);
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_of_every_type_is_read_from_postgres_as_redis_gives_it() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let mut direct = connection(&redis).await;
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    let keys = written(&sidecar).await;
    sidecar.drained().await;
    equal(&redis, &database).await;

    for key in &keys {
        for texts in [true, false] {
            let names: Vec<&[u8]> =
                BLOBS.into_iter().filter(|blob| std::str::from_utf8(blob).is_ok() == texts).collect();
            agree(&sidecar, &mut direct, if texts { reads(key, &names) } else { reads(key, &names).split_off(15) })
                .await;
        }
        let answer = through_the_door(&sidecar, &parts(&[b"TYPE", key])).await;
        assert_eq!(answer.header("parallax-source"), Some("postgres"), "{:?}", String::from_utf8_lossy(key));
    }
    let mismatches = sidecar.get("/v1/mismatches").await.json();
    assert_eq!(mismatches["mismatches"], json!([]));

    // The records API shows the same value under the same ETag, whoever answers.
    let mut shown = Vec::new();
    for percent in [100.0, 0.0] {
        for kind in ["apikey", "account_group_members"] {
            sidecar.flag(kind, json!({ "percent": percent })).await;
        }
        let source = if percent > 0.0 { "postgres" } else { "redis" };
        let mut round = Vec::new();
        for key in &keys {
            let (kind, id) = match key.strip_prefix(b"apikey:") {
                Some(id) => ("apikey", id),
                None => ("account_group_members", key.strip_prefix(b"account_group_members:").unwrap()),
            };
            let id = parallax::model::text::encode(id).into_owned();
            let path = format!("/v1/records/{kind}/{}", percent_encode(id.as_bytes(), NON_ALPHANUMERIC));
            let answer = sidecar.data("GET", &path, None, &[]).await;
            assert_eq!(
                (answer.status, answer.header("parallax-source")),
                (200, Some(source)),
                "{id}: {:?}",
                answer.body
            );
            round.push((answer.header("etag").unwrap().to_owned(), answer.body));
        }
        shown.push(round);
    }
    assert_eq!(shown[0], shown[1]);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_huge_is_mirrored_and_read_back() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let mut direct = connection(&redis).await;
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    let (long, wide) = ("k".repeat(64 * 1024 - 7), "m".repeat(1024 * 1024));
    let key = format!("apikey:{long}");
    let members = "account_group_members:huge";
    let fields: Vec<String> = (0..1000)
        .flat_map(|n| [format!("field-{n}"), if n % 3 == 0 { String::new() } else { "v".repeat(n) }])
        .collect();
    let with_fields = |key: &str| {
        let mut command = parts(&[b"HSET", key.as_bytes()]);
        command.extend(fields.iter().map(|field| field.clone().into_bytes()));
        command
    };
    let nul_wide = [wide.as_bytes(), b"\0", b"\xff"].concat();
    let binary: Vec<u8> = (0..10_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let commands = [
        parts(&[b"HSET", key.as_bytes(), b"name", b"a long way"]),
        parts(&[b"SET", format!("{key}\0").as_bytes(), b"v"]),
        parts(&[b"SADD", members.as_bytes(), wide.as_bytes()]),
        parts(&[b"SADD", members.as_bytes(), &nul_wide]),
        parts(&[b"HSET", b"account_group_members:hash", wide.as_bytes(), wide.as_bytes()]),
        with_fields("apikey:wide"),
        with_fields("account_group_members:wide"),
        parts(&[b"SET", b"apikey:text", "t".repeat(10_000_000).as_bytes()]),
        parts(&[b"SET", b"apikey:binary", &binary]),
        parts(&[b"HSET", b"apikey:field", b"description", "d".repeat(10_000_000).as_bytes()]),
    ];
    for command in &commands {
        let answer = through_the_door(&sidecar, command).await;
        assert_eq!(answer.status, 200, "{:.300}", String::from_utf8_lossy(&answer.body));
    }
    sidecar.drained().await;
    equal(&redis, &database).await;
    for command in [
        parts(&[b"HGETALL", key.as_bytes()]),
        parts(&[b"GET", format!("{key}\0").as_bytes()]),
        parts(&[b"SMEMBERS", members.as_bytes()]),
        parts(&[b"SISMEMBER", members.as_bytes(), &nul_wide]),
        parts(&[b"HGET", b"account_group_members:hash", wide.as_bytes()]),
        parts(&[b"HGETALL", b"apikey:wide"]),
        parts(&[b"HGETALL", b"account_group_members:wide"]),
        parts(&[b"HSTRLEN", b"account_group_members:wide", b"field-999"]),
        parts(&[b"GET", b"apikey:text"]),
        parts(&[b"GET", b"apikey:binary"]),
        parts(&[b"HGETALL", b"apikey:field"]),
    ] {
        let answer = through_the_door(&sidecar, &command).await;
        assert_eq!(answer.header("parallax-source"), Some("postgres"), "{:.99}", String::from_utf8_lossy(&command[1]));
        agree(&sidecar, &mut direct, vec![command]).await;
    }
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_mirrored_and_one_in_the_past_is_a_delete() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let mut direct = connection(&redis).await;
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    for command in [
        "SET apikey:soon v EX 3600",
        "SET apikey:never v",
        "HSET account_group_members:soon f v",
        "PEXPIRE account_group_members:soon 3600500",
        "SET apikey:back v EX 100",
        "PERSIST apikey:back",
        "HSET apikey:past f v",
        "HSET account_group_members:past f v",
        "SET apikey:at v",
        "SET apikey:set v",
    ] {
        assert_eq!(through_the_door(&sidecar, &line(command)).await.status, 200, "{command}");
    }
    sidecar.drained().await;
    for command in [
        "EXPIRE apikey:past -1",
        "EXPIRE account_group_members:past 0",
        "PEXPIREAT apikey:at 1000",
        "SET apikey:set w PXAT 1000",
        "SET apikey:newborn v PXAT 1000",
        "EXPIRE apikey:nobody -1",
    ] {
        assert_eq!(through_the_door(&sidecar, &line(command)).await.status, 200, "{command}");
    }
    sidecar.drained().await;
    equal(&redis, &database).await;
    let rows = "SELECT key FROM api_keys WHERE deleted_at IS NOT NULL AND gone_at IS NULL
        UNION SELECT key FROM collections WHERE deleted_at IS NOT NULL AND gone_at IS NULL ORDER BY key";
    let rows = database.client().await.query(rows, &[]).await.unwrap();
    let deleted: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(deleted, ["account_group_members:past", "apikey:at", "apikey:past", "apikey:set"]);
    // Beyond what a row can hold, and never counted as a difference.
    sidecar.command(&["SET", "apikey:far", "v", "PXAT", "9000000000000000"]).await;
    sidecar.drained().await;
    for key in [
        "apikey:soon",
        "apikey:far",
        "apikey:never",
        "apikey:back",
        "account_group_members:soon",
        "apikey:past",
        "account_group_members:past",
        "apikey:newborn",
    ] {
        agree(&sidecar, &mut direct, reads(key.as_bytes(), &[b"f"])).await;
    }
    // Time goes on between the two questions.
    for (command, step) in [("TTL", 1), ("PTTL", 2_000)] {
        for key in ["apikey:soon", "account_group_members:soon"] {
            let answer = sidecar.ask(&[command, key], &[]).await;
            assert_eq!(answer.header("parallax-source"), Some("postgres"));
            let expected =
                from_redis(&mut direct, &line(&format!("{command} {key}"))).await["result"].as_i64().unwrap();
            let found = answer.json()["result"].as_i64().unwrap();
            assert!((found - step..=found).contains(&expected), "{command} {key}: {found}, redis {expected}");
        }
    }
    assert_eq!(sidecar.metric("parallax_mismatches_total", &[]).await, 0.0);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_cast_is_null_and_never_a_refused_row() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    let nonsense = [
        "NaN",
        "Infinity",
        "1e999999",
        "-",
        "",
        "99999999999999999999999",
        "2026-02-31T00:00:00Z",
        "{\"a\":",
        "\u{0}",
        "\\x41",
        "名前",
    ];
    let fields = [
        "dailyCostLimit",
        "isActive",
        "lastUsedAt",
        "createdAt",
        "expiresAt",
        "tags",
        "permissions",
        "tokenLimit",
        "concurrencyLimit",
        "totalTokens",
        "requests",
        "cost",
        "allTokens",
        "priority",
        "schedulable",
        "userId",
        "name",
    ];
    for (index, nonsense) in nonsense.iter().enumerate() {
        for key in [
            format!("apikey:n{index}"),
            format!("claude:account:n{index}"),
            format!("quota_card:n{index}"),
            format!("usage:n{index}"),
            format!("usage:daily:n{index}:2026-11-23"),
        ] {
            let mut command = vec!["HSET".to_owned(), key];
            command.extend(fields.iter().flat_map(|field| [(*field).to_owned(), (*nonsense).to_owned()]));
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            sidecar.command(&command).await;
        }
        for key in [
            format!("usage:cost:daily:n{index}:2026-11-23"),
            format!("user:n{index}"),
            format!("bedrock_account:n{index}"),
            format!("request_detail:item:n{index}"),
        ] {
            sidecar.command(&["SET", &key, nonsense]).await;
        }
        sidecar.command(&["ZADD", "account_group_members:n", "1e308", nonsense]).await;
        sidecar.command(&["LPUSH", "usage:records:n", nonsense]).await;
        sidecar.command(&["XADD", "billing:events", "*", "data", nonsense]).await;
    }
    sidecar.drained().await;
    equal(&redis, &database).await;
    let client = database.client().await;
    let row = "SELECT daily_cost_limit IS NULL AND is_active IS NULL AND last_used_at IS NULL FROM api_keys WHERE key = 'apikey:n0'";
    assert!(client.query_one(row, &[]).await.unwrap().get::<_, bool>(0));
    assert_eq!(client.query_one("SELECT count(*) FROM dead_letters", &[]).await.unwrap().get::<_, i64>(0), 0);
    sidecar.stop_expecting(&[]).await;
}
