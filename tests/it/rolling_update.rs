//! A rolling update as a Deployment does it: three sidecars are replaced one by one under load, each new one first. The clients
//! follow: when their connection ends they go to another sidecar and send again what was not answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::equality::{ask, assert_equal, drained};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

const FLEET: usize = 3;
const CLIENTS: usize = 12;
/// Increments that a client sends before it reads a reply.
const PIPELINE: usize = 5;

/// A client that counts one record up, wherever there is a sidecar.
struct Counting {
    key: String,
    /// Increments that were answered.
    answered: Arc<AtomicU64>,
    /// Sidecars that it had to leave.
    moves: usize,
}

/// How a connection ended.
enum End {
    /// The client had enough.
    Stopped,
    /// The sidecar left.
    Left,
}

impl Counting {
    /// Counts until `stop`. Doors are those of the sidecars of the moment, as a Service would know them.
    async fn run(mut self, number: usize, doors: watch::Receiver<Vec<String>>, stop: watch::Receiver<bool>) -> Self {
        loop {
            let door = {
                let doors = doors.borrow();
                doors[(number + self.moves) % doors.len()].clone()
            };
            // A connection that is refused has carried nothing.
            if let Ok(stream) = TcpStream::connect(&door).await
                && matches!(self.count(stream, &stop).await, End::Stopped)
            {
                return self;
            }
            self.moves += 1;
            tokio::task::yield_now().await;
        }
    }

    async fn count(&self, stream: TcpStream, stop: &watch::Receiver<bool>) -> End {
        let (reading, mut writing) = stream.into_split();
        let mut lines = BufReader::new(reading).lines();
        while !*stop.borrow() {
            let increment = format!("HINCRBY {} requests 1\r\n", self.key);
            let pipeline = format!("{}HGET {} requests\r\n", increment.repeat(PIPELINE), self.key);
            // When the sidecar has left, reading says so, after the replies that it still had for us.
            let _ = writing.write_all(pipeline.as_bytes()).await;
            for _ in 0..PIPELINE {
                let Some(reply) = self.next(&mut lines).await else { return End::Left };
                let counted = self.answered.fetch_add(1, Ordering::Relaxed) + 1;
                assert_eq!(reply, format!(":{counted}"), "{}: lost, counted twice, or failed", self.key);
            }
            let Some(length) = self.next(&mut lines).await else { return End::Left };
            let Some(read) = self.next(&mut lines).await else { return End::Left };
            assert_eq!(read, self.answered.load(Ordering::Relaxed).to_string(), "{}: {length}", self.key);
        }
        End::Stopped
    }

    /// The next line; nothing when the sidecar closed the connection. One that is cut off may hide what was done.
    async fn next(&self, lines: &mut tokio::io::Lines<BufReader<tokio::net::tcp::OwnedReadHalf>>) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        line.expect("an answer in time").unwrap_or_else(|error| panic!("{} was cut off: {error}", self.key))
    }
}

/// Waits until each client got `more` further answers.
async fn all_go_on(answered: &[Arc<AtomicU64>], more: u64) {
    let wanted: Vec<u64> = answered.iter().map(|count| count.load(Ordering::Relaxed) + more).collect();
    wait_until("every client goes on", PATIENCE, || async {
        answered.iter().zip(&wanted).all(|(count, wanted)| count.load(Ordering::Relaxed) >= *wanted)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_sidecars_are_replaced_under_load_with_no_error_nothing_lost_and_nothing_counted_twice() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let mut fleet = Vec::new();
    for _ in 0..FLEET {
        fleet.push(Sidecar::start(&redis, &database).await);
    }
    fleet[0].raise("live").await;
    let doors = |fleet: &[Sidecar]| fleet.iter().map(|sidecar| sidecar.resp.clone()).collect::<Vec<_>>();
    let (endpoints, known) = watch::channel(doors(&fleet));
    let (stop, stopped) = watch::channel(false);
    let answered: Vec<_> = (0..CLIENTS).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let mut clients = JoinSet::new();
    for (number, answered) in answered.iter().enumerate() {
        let counting = Counting { key: format!("usage:client-{number}"), answered: Arc::clone(answered), moves: 0 };
        clients.spawn(counting.run(number, known.clone(), stopped.clone()));
    }
    all_go_on(&answered, 20).await;

    for _ in 0..FLEET {
        let new = Sidecar::start(&redis, &database).await;
        let flags = new.get("/v1/flags").await.json();
        assert!(flags.to_string().contains("\"live\""), "a new sidecar knows the stage from the others: {flags}");
        fleet.push(new);
        let old = fleet.remove(0);
        endpoints.send_replace(doors(&fleet));
        old.terminate().await;
        all_go_on(&answered, 20).await;
        old.ended_with(&[], &[]).await;
    }

    stop.send_replace(true);
    let clients = clients.join_all().await;
    drained(&redis).await;
    assert_equal(&redis, &database).await;
    let look = database.client().await;
    for client in &clients {
        let counted = client.answered.load(Ordering::Relaxed);
        assert_eq!(ask::<u64>(&redis, &["HGET", &client.key, "requests"]).await, counted, "{}", client.key);
        let text = "SELECT (doc->>'requests')::bigint FROM usage_counters WHERE key = $1";
        let row: i64 = look.query_one(text, &[&client.key]).await.unwrap().get(0);
        assert_eq!(row.cast_unsigned(), counted, "{}", client.key);
    }
    let moves: usize = clients.iter().map(|client| client.moves).sum();
    assert!(moves >= CLIENTS, "every client stood on a sidecar that left: {moves}");
    for sidecar in fleet {
        for result in ["error", "failed", "refused"] {
            assert_eq!(sidecar.metric("parallax_commands_total", &[("result", result)]).await, 0.0, "{result}");
        }
        sidecar.stop_expecting(&[]).await;
    }
}
