//! Reads share: what callers ask while exchanges with a store are under way is asked together in the next one.
//!
//! Rule R1 holds for each as if it had asked alone: a question is handed over before its exchange begins, so the fence that
//! answers it was taken after the read came, and its rows are asked for after its fence was answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::model::catalog::Table;
use crate::model::key::Key;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::{QUESTION_DEADLINE, within};
use crate::stores::postgres::read::{self, Control, Row};
use crate::stores::redis::fence::{self, Fence, Standing};
use crate::stores::redis::lane::Lane;
use crate::telemetry::traces::active::Fault;

/// Questions that may wait.
const QUESTIONS_MAX: usize = 16_384;
/// Questions of an exchange, at most.
const TOGETHER_MAX: usize = 64;
/// Keys of a question, at most: who asks for more has an exchange alone, and holds up nobody.
const KEYS_SHARED_MAX: usize = 16;
/// Fences under way at once. Few, so that what waits meanwhile shares the next one.
const FENCES_MAX: usize = 4;

/// Why a question has no answer: the class of the error, which everybody has who shared the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unanswered(&'static str);

impl Unanswered {
    /// Too many wait, or the sidecar is stopping.
    const OVERLOADED: Self = Self("overloaded");

    pub(super) fn of(error: impl Fault) -> Self {
        Self(error.class())
    }
}

impl Fault for Unanswered {
    fn class(&self) -> &'static str {
        self.0
    }
}

type Outcome<A> = Result<A, Unanswered>;
type Fences = Together<Vec<Key>, (Fence, Vec<Standing>)>;
type Documents = Together<(Table, Vec<Key>), (Control, Vec<Option<Row>>)>;

/// What the reads of the callers of one thread ask of both stores.
pub(super) struct Reads {
    /// The connections of these reads: they live where the callers are served, so that no read changes threads.
    pub(super) postgres: Postgres,
    lane: Arc<Lane>,
    fences: Fences,
    documents: Documents,
}

impl Reads {
    /// Reads over `lane` and over connections of their own to `postgres`, on the runtime that calls this: a quarter as many
    /// as the background may have, and beside them.
    pub(super) fn start(lane: &Arc<Lane>, postgres: &Postgres) -> Self {
        let connections = (postgres.size_max() / 4).max(1);
        let (lane, postgres) = (Arc::clone(lane), postgres.here(connections));
        let (asks, rows) = (Arc::clone(&lane), postgres.clone());
        Self {
            fences: Together::start(FENCES_MAX, move |questions| fences(Arc::clone(&asks), questions)),
            documents: Together::start(connections, move |questions| documents(rows.clone(), questions)),
            postgres,
            lane,
        }
    }

    /// The fence for all keys of a read, in one step.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub(super) async fn fence(&self, keys: &[Key]) -> Outcome<(Fence, Vec<Standing>)> {
        if keys.len() > KEYS_SHARED_MAX {
            return fence::fence(&*self.lane, keys).await.map_err(Unanswered::of);
        }
        self.fences.ask(keys.to_vec()).await
    }

    /// The documents of `keys` in one table, and its control row of the same moment.
    ///
    /// # Errors
    /// When Postgres cannot be reached, or has no control row.
    pub(super) async fn documents(&self, table: Table, keys: &[Key]) -> Outcome<(Control, Vec<Option<Row>>)> {
        if keys.len() > KEYS_SHARED_MAX {
            return read::documents(&self.postgres, table, keys).await.map_err(Unanswered::of);
        }
        self.documents.ask((table, keys.to_vec())).await
    }
}

async fn fences(lane: Arc<Lane>, questions: Vec<Vec<Key>>) -> Vec<Outcome<(Fence, Vec<Standing>)>> {
    match fence::fence(&*lane, &questions.concat()).await {
        Ok((fence, standings)) => {
            let mut standings = standings.into_iter();
            questions.iter().map(|keys| Ok((fence, standings.by_ref().take(keys.len()).collect()))).collect()
        }
        Err(error) => vec![Err(Unanswered::of(error)); questions.len()],
    }
}

async fn documents(postgres: Postgres, questions: Vec<(Table, Vec<Key>)>) -> Vec<Outcome<(Control, Vec<Option<Row>>)>> {
    let mut tables: BTreeMap<Table, Vec<Key>> = BTreeMap::new();
    for (table, keys) in &questions {
        tables.entry(*table).or_default().extend_from_slice(keys);
    }
    let asked = tables.into_iter().map(async |(table, keys)| {
        // Nobody waits as long; but what hangs must not keep others from asking over another connection.
        let found = within(QUESTION_DEADLINE, read::documents(&postgres, table, &keys)).await.map_err(Unanswered::of);
        (table, found.map(|(control, rows)| (control, rows.into_iter())))
    });
    let mut found: BTreeMap<_, _> = futures_util::future::join_all(asked).await.into_iter().collect();
    let answers = questions.into_iter().map(|(table, keys)| match found.get_mut(&table) {
        Some(Ok((control, rows))) => Ok((*control, rows.by_ref().take(keys.len()).collect())),
        Some(Err(error)) => Err(*error),
        None => Err(Unanswered::OVERLOADED),
    });
    answers.collect()
}

/// Asks a store what several callers want to know, in exchanges of which few are under way at once.
struct Together<Q, A> {
    sender: mpsc::Sender<Asked<Q, A>>,
}

struct Asked<Q, A> {
    question: Q,
    answer: oneshot::Sender<Outcome<A>>,
}

impl<Q, A> Together<Q, A>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    /// Starts it on the runtime that calls this, with `exchanges` under way at once. `exchange` answers each of its questions.
    fn start<F>(exchanges: usize, exchange: impl Fn(Vec<Q>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Vec<Outcome<A>>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUESTIONS_MAX);
        tokio::spawn(run(exchanges, exchange, receiver));
        Self { sender }
    }

    /// Asks, alone or with others.
    ///
    /// # Errors
    /// That of the exchange.
    ///
    /// # Cancel safety
    /// A question whose caller left before its exchange began is not asked.
    async fn ask(&self, question: Q) -> Outcome<A> {
        let (answer, answered) = oneshot::channel();
        if self.sender.try_send(Asked { question, answer }).is_err() {
            return Err(Unanswered::OVERLOADED);
        }
        answered.await.unwrap_or(Err(Unanswered::OVERLOADED))
    }
}

async fn run<Q, A, F>(exchanges: usize, exchange: impl Fn(Vec<Q>) -> F, mut receiver: mpsc::Receiver<Asked<Q, A>>)
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Future<Output = Vec<Outcome<A>>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(exchanges));
    let mut waiting = Vec::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        if receiver.recv_many(&mut waiting, TOGETHER_MAX).await == 0 {
            return;
        }
        let wanted = waiting.drain(..).filter(|asked| !asked.answer.is_closed());
        let (questions, answers): (Vec<Q>, Vec<_>) = wanted.map(|asked| (asked.question, asked.answer)).unzip();
        if questions.is_empty() {
            continue;
        }
        let asked = exchange(questions);
        tokio::spawn(async move {
            for (answer, outcome) in answers.into_iter().zip(asked.await) {
                drop(answer.send(outcome));
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::Notify;

    use super::*;

    type Numbers = Together<u32, u32>;

    /// Doubles what it is asked, an exchange at a time, each when it is let go; and what its exchanges were.
    fn doubling(go: &Arc<Notify>) -> (Numbers, Arc<Mutex<Vec<Vec<u32>>>>) {
        let exchanges = Arc::new(Mutex::new(Vec::new()));
        let (go, noted) = (Arc::clone(go), Arc::clone(&exchanges));
        let together = Together::start(1, move |questions: Vec<u32>| {
            noted.lock().unwrap().push(questions.clone());
            let go = Arc::clone(&go);
            async move {
                go.notified().await;
                questions.into_iter().map(|number| Ok(number * 2)).collect()
            }
        });
        (together, exchanges)
    }

    #[tokio::test]
    async fn what_is_asked_during_an_exchange_shares_the_next_one_and_each_has_its_own_answer() {
        let go = Arc::new(Notify::new());
        let (together, exchanges) = doubling(&go);
        let together = Arc::new(together);
        let ask = |number| {
            let together = Arc::clone(&together);
            tokio::spawn(async move { together.ask(number).await.unwrap() })
        };
        let first = ask(1);
        while exchanges.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let (second, left, third) = (ask(2), ask(3), ask(4));
        while together.sender.capacity() > QUESTIONS_MAX - 3 {
            tokio::task::yield_now().await;
        }
        left.abort();
        assert!(left.await.is_err(), "it was answered");
        go.notify_one();
        assert_eq!(first.await.unwrap(), 2);
        while exchanges.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        assert_eq!((second.await.unwrap(), third.await.unwrap()), (4, 8));
        // Who left is not asked for.
        assert_eq!(*exchanges.lock().unwrap(), [vec![1], vec![2, 4]]);
    }
}
