//! What belongs to a connection: who a client is, subscriptions, blocking commands, other databases, and its end.

use parallax::model::reply::Reply;

use crate::resp_door::client::{Raw, command};
use crate::support;
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::wait_until;

const USER: &str = "user:0123456789abcdef0123456789abcdef";

fn status(text: &str) -> Reply {
    Reply::Status(text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bytes_get_the_error_of_redis_and_the_connection_closes() {
    let redis = support::redis().await;
    let sidecar = Sidecar::start_with(&redis, None, &[]).await;
    let long = vec![b'a'; 70_000];
    let too_long = [b"*".as_ref(), &long].concat();
    let too_long_bulk = [b"*1\r\n$".as_ref(), &long].concat();
    let inputs: [&[u8]; 14] = [
        b"*x\r\n",
        b"*2147483648\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$01\r\n",
        b"GET \"a\r\n",
        b"GET 'a'b\r\n",
        b"PING\r\n*x\r\n",
        b"*1\r\n$4\r\nPING\r\nset session:q \"a b\"\r\nget session:q\r\n*1\r\n$-5\r\n",
        &long,
        &too_long,
        &too_long_bulk,
    ];
    for input in inputs {
        let mut seen = Vec::new();
        for address in [format!("127.0.0.1:{}", redis.port()), sidecar.resp.clone()] {
            let mut raw = Raw::connect(&address).await;
            raw.write(input).await;
            seen.push(String::from_utf8_lossy(&raw.rest().await).into_owned());
        }
        assert_eq!(seen[0], seen[1], "{:?}", String::from_utf8_lossy(&input[..input.len().min(40)]));
        assert!(seen[1].contains("Protocol error"), "{seen:?}");
    }
    sidecar.stop_expecting(&["postgres"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_with_a_password_lets_nobody_in_without_it() {
    let redis = support::redis().await;
    let sidecar = Sidecar::start_with(&redis, None, &[("PARALLAX_RESP_PASSWORD", "s3cret")]).await;
    let mut client = Raw::connect(&sidecar.resp).await;
    assert_eq!(client.see("GET a").await, "-NOAUTH Authentication required.\r\n");
    assert_eq!(client.see("AUTH wrong").await, "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    assert_eq!(
        client.see("AUTH other s3cret").await,
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    );
    assert!(client.see("HELLO 3").await.starts_with("-NOAUTH HELLO must be called"));
    assert!(client.see("HELLO 3 AUTH default s3cret SETNAME me").await.starts_with("%7\r\n"));
    assert_eq!(client.ask("CLIENT GETNAME").await, Reply::bulk("me"));
    assert_eq!(client.see("GET a").await, "_\r\n");
    assert_eq!(client.see("RESET").await, "+RESET\r\n");
    assert_eq!(client.see("GET a").await, "-NOAUTH Authentication required.\r\n");
    assert_eq!(client.ask("AUTH s3cret").await, status("OK"));
    assert_eq!(client.see("GET a").await, "$-1\r\n");
    let mut stranger = Raw::connect(&sidecar.resp).await;
    stranger.write(b"*11\r\n").await;
    assert_eq!(stranger.rest().await, b"-ERR Protocol error: unauthenticated multibulk length\r\n");
    assert!(sidecar.metric("parallax_auth_failures_total", &[("door", "resp")]).await > 1.5);
    sidecar.stop_expecting(&["postgres"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_its_subscribers_in_both_protocols() {
    let redis = support::redis().await;
    let sidecar = Sidecar::start_with(&redis, None, &[]).await;
    let mut sender = Raw::connect(&sidecar.resp).await;
    let (mut two, mut three) = (Raw::connect(&sidecar.resp).await, Raw::connect(&sidecar.resp).await);
    assert!(three.see("HELLO 3").await.starts_with('%'));
    two.send(&[command("SUBSCRIBE a b")]).await;
    assert_eq!(two.frame().await.bytes(), &b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"[..]);
    assert_eq!(two.frame().await.bytes(), &b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"[..]);
    three.send(&[command("PSUBSCRIBE a*")]).await;
    assert_eq!(three.frame().await.bytes(), &b">3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:1\r\n"[..]);
    assert_eq!(sender.ask("PUBLISH a hello").await, Reply::Integer(2));
    assert_eq!(two.frame().await.bytes(), &b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$5\r\nhello\r\n"[..]);
    let message = b">4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$1\r\na\r\n$5\r\nhello\r\n";
    assert_eq!(three.frame().await.bytes(), &message[..]);
    // In RESP2 a subscriber may do nothing else, in RESP3 it may.
    assert!(two.see("GET a").await.starts_with("-ERR Can't execute 'get'"));
    assert_eq!(two.see("PING").await, "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    assert_eq!(three.see("SET session:a 1").await, "+OK\r\n");
    two.send(&[command("UNSUBSCRIBE"), command("GET session:a")]).await;
    two.frames(2).await;
    assert_eq!(two.frame().await.bytes(), &b"$1\r\n1\r\n"[..]);
    sidecar.stop_expecting(&["postgres"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_command_waits_alone_and_is_refused_where_it_would_write_a_mirrored_record() {
    let (redis, postgres) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &postgres).await;
    sidecar.raise("dualwrite").await;
    let (mut waiter, mut other) = (Raw::connect(&sidecar.resp).await, Raw::connect(&sidecar.resp).await);
    waiter.send(&[command("BLPOP session:q 20"), command("PING")]).await;
    assert_eq!(other.ask("SET session:a 1").await, status("OK"));
    assert_eq!(other.ask("RPUSH session:q item").await, Reply::Integer(1));
    assert_eq!(waiter.frame().await.bytes(), &b"*2\r\n$9\r\nsession:q\r\n$4\r\nitem\r\n"[..]);
    assert_eq!(waiter.frame().await.bytes(), &b"+PONG\r\n"[..]);
    let refused = other.see("BLPOP usage:records:k 1").await;
    assert_eq!(refused, "-PARALLAX BLPOP would block while it writes a mirrored record\r\n");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_keys_are_invisible_and_another_database_passes_through_unmirrored() {
    let (redis, postgres) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &postgres).await;
    sidecar.raise("dualwrite").await;
    let mut client = Raw::connect(&sidecar.resp).await;
    assert_eq!(client.ask(&format!("HSET {USER} name one")).await, Reply::Integer(1));
    for version in ["2", "3"] {
        client.ask(&format!("HELLO {version}")).await;
        assert_eq!(client.ask("KEYS *").await, Reply::Array(vec![Reply::bulk(USER)]));
        assert_eq!(client.ask("DBSIZE").await, Reply::Integer(1));
        assert_eq!(client.ask("RANDOMKEY").await, Reply::bulk(USER));
        assert_eq!(client.ask("MULTI").await, status("OK"));
        for line in ["KEYS *", "DBSIZE", "SCAN 0 COUNT 1000"] {
            assert_eq!(client.ask(line).await, status("QUEUED"));
        }
        let page = Reply::Array(vec![Reply::bulk("0"), Reply::Array(vec![Reply::bulk(USER)])]);
        let all = vec![Reply::Array(vec![Reply::bulk(USER)]), Reply::Integer(1), page];
        assert_eq!(client.ask("EXEC").await, Reply::Array(all));
        for line in ["GET parallax:clock", "WATCH parallax:flags", "EVAL return 1 parallax:flags", "COPY a parallax:x"]
        {
            assert!(client.see(line).await.starts_with("-PARALLAX keys and channels that begin"), "{line}");
        }
    }
    assert_eq!(client.ask("SELECT 3").await, status("OK"));
    assert_eq!(client.ask(&format!("HSET {USER} name elsewhere")).await, Reply::Integer(1));
    assert!(client.see("FLUSHALL").await.starts_with("-PARALLAX FLUSHALL acts on the server"));
    assert_eq!(client.ask("SELECT 0").await, status("OK"));
    assert_eq!(client.ask(&format!("HGET {USER} name")).await, Reply::bulk("one"));
    assert!(client.see("CONFIG SET maxmemory 0").await.starts_with("-PARALLAX CONFIG acts on the server"));
    assert!(matches!(client.ask("CONFIG GET maxmemory").await, Reply::Map(_)));
    sidecar.drained().await;
    let found =
        postgres.client().await.query_one("SELECT doc->>'name' FROM users WHERE key = $1", &[&USER]).await.unwrap();
    assert_eq!(found.get::<_, String>(0), "one");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_has_the_form_of_redis_also_where_postgres_answers() {
    let (redis, postgres) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &postgres).await;
    sidecar.raise("live").await;
    let mut client = Raw::connect(&sidecar.resp).await;
    let (zset, set) = (USER.replace('0', "1"), USER.replace('0', "2"));
    let writes = [
        format!("HSET {USER} name one"),
        format!("ZADD {zset} 1 a 2.5 b 2.5 c inf d"),
        format!("SADD {set} x y"),
        "SET usage:cost:total:k 1.25".to_owned(),
    ];
    for line in &writes {
        assert!(!client.see(line).await.starts_with('-'), "{line}");
    }
    sidecar.drained().await;
    let reads = [
        format!("HGETALL {USER}"),
        format!("HKEYS {USER}"),
        format!("HMGET {USER} name nothing"),
        format!("ZSCORE {zset} b"),
        format!("ZMSCORE {zset} a nothing"),
        format!("ZRANGE {zset} 0 -1 WITHSCORES"),
        format!("ZRANGE {zset} (1 +inf BYSCORE LIMIT 0 2 WITHSCORES"),
        format!("ZREVRANGEBYSCORE {zset} +inf 2 WITHSCORES"),
        format!("ZCOUNT {zset} -inf (2.5"),
        format!("ZRANK {zset} nothing"),
        format!("SCARD {set}"),
        format!("SMISMEMBER {set} x z"),
        "GET usage:cost:total:k".to_owned(),
        "TYPE usage:cost:total:k".to_owned(),
    ];
    let mut alone = Raw::connect(&format!("127.0.0.1:{}", redis.port())).await;
    for version in ["2", "3"] {
        for raw in [&mut client, &mut alone] {
            raw.ask(&format!("HELLO {version}")).await;
        }
        for line in &reads {
            assert_eq!(client.see(line).await, alone.see(line).await, "{line} in RESP{version}");
        }
    }
    let from_postgres = sidecar.metric("parallax_reads_total", &[("store", "postgres")]).await;
    assert!(from_postgres > 27.5, "only {from_postgres} of the reads were answered by Postgres");
    assert!(!client.see(&format!("HSCAN {USER} 0")).await.starts_with('-'));
    assert!(sidecar.metric("parallax_not_cut_over_total", &[("command", "hscan")]).await > 0.5);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_that_was_received_is_answered_before_the_door_closes() {
    let (redis, postgres) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &postgres).await;
    sidecar.raise("dualwrite").await;
    let mut clients = Vec::new();
    for number in 0..8 {
        let mut client = Raw::connect(&sidecar.resp).await;
        let lines: Vec<_> = (0..500).map(|_| command(&format!("HINCRBY {USER}{number} n 1"))).collect();
        client.send(&lines).await;
        // The first answer shows that the door has begun with what was sent.
        client.frame().await;
        clients.push(client);
    }
    sidecar.terminate().await;
    let mut counted = Vec::new();
    for client in &mut clients {
        let mut last = 1;
        while let Some(frame) = client.next().await {
            last = frame.decode().integer().expect("a count");
        }
        counted.push(last);
    }
    let mut alone = Raw::connect(&format!("127.0.0.1:{}", redis.port())).await;
    for (number, counted) in counted.into_iter().enumerate() {
        let held = alone.ask(&format!("HGET {USER}{number} n")).await;
        assert_eq!(held, Reply::bulk(counted.to_string()), "what was done was answered, and the other way round");
    }
    sidecar.ended_with(&[], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_goes_and_comes_back_costs_its_clients_errors_and_nothing_else() {
    let redis = support::redis().await;
    let sidecar = Sidecar::start_with(&redis, None, &[]).await;
    let mut client = Raw::connect(&sidecar.resp).await;
    assert_eq!(client.ask("SET session:a 1").await, status("OK"));
    support::raw(&redis, "CLIENT KILL TYPE normal SKIPME yes").await;
    wait_until("the door has connected anew", PATIENCE, || async {
        let mut client = Raw::connect(&sidecar.resp).await;
        client.see("GET session:a").await == "$1\r\n1\r\n"
    })
    .await;
    let answer = client.see("GET session:a").await;
    assert!(answer == "$1\r\n1\r\n" || answer.starts_with("-PARALLAX redis"), "{answer}");
    assert_eq!(client.ask("PING").await, status("PONG"));
    sidecar.stop_with(&["postgres"], &["renewed", "redis"]).await;
}
