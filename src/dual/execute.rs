//! Executing commands: who is let through, what is marked, who answers, and when.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::dual::batch::Done;
use crate::dual::gather::{Answers, Failed, Gathered};
use crate::dual::plan::{self, EXEC_COMMANDS_MAX, LOG_PUSHES_MAX, MirroredTouch, Step};
use crate::dual::route::{Callers, Path, Policy, Route, keys_at};
use crate::dual::view::View;
use crate::dual::{Answer, Engine, EngineError, Options, Refusal, RefusalCause, Source, only};
use crate::dual::{answer, hide};
use crate::model::catalog::UNMATCHED;
use crate::model::command::Command;
use crate::model::command::effect;
use crate::model::command::table::{Access, Class};
use crate::model::frame::{Frame, Protocol};
use crate::model::key::Key;
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::lane::{Lane, Silence};
use crate::telemetry::labels::{Operation, RouteReason, Store};

/// How long a blocking command may block.
const BLOCKING_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Why a command was not even sent.
const NOT_SENT: &str = "it was not sent, as a command before it failed";

/// A command that was let through.
enum Admitted {
    /// May be answered by either store.
    Read(Command, Vec<Key>),
    /// Goes to Redis, with marks for what it touches.
    Write(Step),
    /// Blocks, on records that are not mirrored.
    Blocking(Command),
}

impl Engine {
    /// Runs commands in order; an answer each. A refused one fails alone; in a transaction it takes the others with it.
    ///
    /// # Errors
    /// When Redis cannot be reached or the outcome of a write is unknown.
    ///
    /// # Cancel safety
    /// What was sent is done whole.
    pub async fn execute(&self, commands: Vec<Command>, options: Options) -> Result<Vec<Answer>, EngineError> {
        // Held until all is answered: a newer view is not confirmed before that (S2).
        let view = self.keeper.view();
        if !options.atomic {
            return self.in_order(&self.path, &view, commands, options).await.into_iter().collect();
        }
        let admitted = self.admit_all(&self.path, &view, commands).await;
        self.transaction(&view, admitted, options).await
    }

    /// As [`Self::execute`], over a path of the caller's. Each command is answered with what is known of it: when Redis fails
    /// on the way, those before it are answered, and those behind it were not sent.
    ///
    /// # Cancel safety
    /// As [`Self::execute`].
    pub async fn execute_over(&self, path: &Path, commands: Vec<Command>) -> Vec<Result<Answer, EngineError>> {
        let view = self.keeper.view();
        self.in_order(path, &view, commands, Options::default()).await
    }

    async fn in_order(
        &self,
        path: &Path,
        view: &View,
        commands: Vec<Command>,
        options: Options,
    ) -> Vec<Result<Answer, EngineError>> {
        let admitted = self.admit_all(path, view, commands).await;
        let mut answers = Answers(vec![None; admitted.len()]);
        // What went wrong stands with the commands that it went wrong with.
        drop(self.run(path, view, admitted, options, &mut answers).await);
        let not_sent = || Err(EngineError::RedisUnreachable(NOT_SENT.to_owned()));
        answers.0.into_iter().map(|answer| answer.unwrap_or_else(not_sent)).collect()
    }

    /// Runs commands in order until one of them fails for a reason that is not its own.
    async fn run(
        &self,
        path: &Path,
        view: &View,
        admitted: Vec<Result<Admitted, Refusal>>,
        options: Options,
        answers: &mut Answers,
    ) -> Result<(), Failed> {
        let mut gathered = Gathered::default();
        let mut admitted = admitted.into_iter().enumerate().peekable();
        while let Some((place, next)) = admitted.next() {
            match next {
                Err(refusal) => answers.set(place, Ok(refused(refusal))),
                Ok(Admitted::Blocking(command)) => {
                    self.flush(path, view, &mut gathered, answers, options).await?;
                    answers.set_or_fail(place, self.blocking(command).await)?;
                }
                Ok(Admitted::Read(command, keys)) if self.may_read_postgres(view, &command, &keys) => {
                    self.flush(path, view, &mut gathered, answers, options).await?;
                    let mut reads = vec![(place, command, keys)];
                    // Reads that follow one another run at once.
                    while let Some((place, Ok(Admitted::Read(command, keys)))) =
                        admitted.next_if(|(_, next)| matches!(next, Ok(Admitted::Read(command, keys)) if self.may_read_postgres(view, command, keys)))
                    {
                        reads.push((place, command, keys));
                    }
                    let done = join_all(
                        reads
                            .into_iter()
                            .map(async |(place, command, keys)| (place, self.read(path, view, command, &keys).await)),
                    );
                    let mut all = Ok(());
                    for (place, answer) in done.await {
                        all = all.and(answers.set_or_fail(place, answer));
                    }
                    all?;
                }
                Ok(Admitted::Read(command, keys)) => {
                    self.note_redis_read(view, &command, &keys);
                    self.sample(view, &command, &keys);
                    gathered.add(place, Step { command, touches: Vec::new() });
                }
                Ok(Admitted::Write(step)) => gathered.add(place, step),
            }
        }
        self.flush(path, view, &mut gathered, answers, options).await
    }

    /// Sends what has been gathered, in pieces that Redis can bear, and takes the answers to their places.
    async fn flush(
        &self,
        path: &Path,
        view: &View,
        gathered: &mut Gathered,
        answers: &mut Answers,
        options: Options,
    ) -> Result<(), Failed> {
        let Gathered { steps: mut rest, places } = std::mem::take(gathered);
        let mut places = places.into_iter();
        while !rest.is_empty() {
            let others = rest.split_off(piece(&rest));
            let piece = std::mem::replace(&mut rest, others);
            // The places stand last: a zip that ends at what stands before them has already taken one of them otherwise.
            let own: Vec<usize> = piece.iter().zip(places.by_ref()).map(|(_, place)| place).collect();
            let touched: Vec<Vec<MirroredTouch>> = piece.iter().map(|step| step.touches.clone()).collect();
            let listers: Vec<bool> = piece.iter().map(|step| hide::lists_keys(&step.command)).collect();
            let only_reads = piece.iter().all(|step| step.touches.is_empty() && self.only_reads(&step.command));
            let began = Instant::now();
            let frames = match self.submit(&path.batcher, piece).await {
                Ok(frames) => shown(frames, &listers, path.protocol()),
                Err(error) => {
                    let error = self.redis_failed(error, only_reads);
                    own.into_iter().for_each(|place| answers.set(place, Err(error.clone())));
                    return Err(Failed);
                }
            };
            let operation =
                if touched.iter().any(|touches| !touches.is_empty()) { Operation::Write } else { Operation::Read };
            self.metrics.store_latency(Store::Redis, operation, began.elapsed());
            let mirrored = self.mirrored(view, &touched, options, !rest.is_empty()).await;
            let answer = |result, mirror| Answer { result: Ok(result), source: Some(Source::Redis), mirror };
            for (at, (frame, place)) in frames.into_iter().zip(own).enumerate() {
                let marks = touched.get(at).is_some_and(|touches| !touches.is_empty());
                answers.set(
                    place,
                    match &mirrored {
                        Ok(mirrors) => Ok(answer(frame, mirrors.get(at).copied().flatten())),
                        Err(error) if marks => Err(error.clone()),
                        // What leaves no mark owes Postgres nothing.
                        Err(_) => Ok(answer(frame, None)),
                    },
                );
            }
            if mirrored.is_err() {
                return Err(Failed);
            }
        }
        Ok(())
    }

    fn redis_failed(&self, error: RedisError, only_reads: bool) -> EngineError {
        self.metrics.store_error(Store::Redis, if only_reads { Operation::Read } else { Operation::Write });
        if only_reads { EngineError::of_a_read(error) } else { error.into() }
    }

    /// Whether the command changes nothing, so that it may be asked again whatever became of it.
    fn only_reads(&self, command: &Command) -> bool {
        self.commands.table().class(command) == Class::Data(Access::Read)
    }

    /// A caller's transaction: one EXEC, one reply for each command.
    async fn transaction(
        &self,
        view: &View,
        admitted: Vec<Result<Admitted, Refusal>>,
        options: Options,
    ) -> Result<Vec<Answer>, EngineError> {
        let mut steps = Vec::with_capacity(admitted.len());
        for next in admitted {
            match next {
                Err(refusal) => return Ok(vec![refused(refusal)]),
                Ok(Admitted::Write(step)) => steps.push(step),
                Ok(Admitted::Read(command, _) | Admitted::Blocking(command)) => {
                    steps.push(Step { command, touches: Vec::new() });
                }
            }
        }
        let touched: Vec<Vec<MirroredTouch>> = steps.iter().map(|step| step.touches.clone()).collect();
        let listers: Vec<bool> = steps.iter().map(|step| hide::lists_keys(&step.command)).collect();
        let done = self.transact(&self.path.batcher, steps).await.map_err(|error| self.redis_failed(error, false))?;
        let answer = |frame, mirror| Answer { result: Ok(frame), source: Some(Source::Redis), mirror };
        match done {
            Done::Ran(frames) => {
                let frames = shown(frames, &listers, self.path.protocol());
                let mirrors = self.mirrored(view, &touched, options, false).await?;
                Ok(frames.into_iter().zip(mirrors).map(|(frame, mirror)| answer(frame, mirror)).collect())
            }
            Done::Aborted(error) => Ok(vec![answer(error, None)]),
        }
    }

    /// A blocking command on records that are not mirrored has a connection to itself.
    async fn blocking(&self, command: Command) -> Result<Answer, EngineError> {
        let lane = Lane::new(Arc::clone(&self.upstream), Protocol::Resp2, BLOCKING_MAX, Silence::Ends);
        let frame = only(lane.ask(&[command]).await?)?;
        Ok(Answer { result: Ok(frame), source: Some(Source::Redis), mirror: None })
    }

    async fn admit_all(&self, path: &Path, view: &View, commands: Vec<Command>) -> Vec<Result<Admitted, Refusal>> {
        let mut admitted = Vec::with_capacity(commands.len());
        for command in commands {
            self.learn(&command).await;
            let positions = self.positions(&command).await;
            admitted.push(self.admit(path, view, command, &positions));
        }
        admitted
    }

    fn admit(&self, path: &Path, view: &View, command: Command, positions: &[usize]) -> Result<Admitted, Refusal> {
        let name = command.name();
        let refuse = |cause, message: String| Err(Refusal { cause, message });
        if name == "MONITOR" {
            let message = "MONITOR would show the commands of everybody, with their values and tokens".to_owned();
            return refuse(RefusalCause::Connection, message);
        }
        let class = self.commands.table().class(&command);
        if let (Callers::Connections(policy), Class::Administrative | Class::Server | Class::Unknown) =
            (path.callers, class)
        {
            return self.admit_as_it_is(view, policy, command);
        }
        let access = match class {
            Class::Connection => {
                return refuse(
                    RefusalCause::Connection,
                    format!("{name} belongs to a connection, which a request has not"),
                );
            }
            Class::Administrative | Class::Server => {
                return refuse(
                    RefusalCause::Administrative,
                    format!("{name} acts on the server and is refused while records are mirrored"),
                );
            }
            Class::Unknown => {
                return refuse(RefusalCause::UnknownCommand, format!("the server does not know the command {name}"));
            }
            Class::Blocking => None,
            Class::Data(access) => Some(access),
        };
        let keys = keys_at(&command, positions);
        if keys.iter().any(Key::is_control) || hide::names_control_keys(&name, &command) {
            return Err(hide::closed());
        }
        // A command with too few or too many arguments is Redis' to refuse, and may not take an EXEC with it.
        if !self.commands.table().fits_arity(&command) {
            return Ok(Admitted::Read(command, Vec::new()));
        }
        match access {
            None => {
                let is_mirrored = keys.iter().any(|key| self.is_marked(view, key));
                if is_mirrored {
                    return refuse(
                        RefusalCause::Blocking,
                        format!("{name} would block while it writes a mirrored record"),
                    );
                }
                Ok(Admitted::Blocking(command))
            }
            Some(Access::Read) => Ok(Admitted::Read(hide::in_place_of(&name, command), keys)),
            Some(Access::Write) => Ok(Admitted::Write(self.step(view, command, positions))),
        }
    }

    /// What a connection may send and a request may not: forwarded as it is, unless the policy says otherwise.
    fn admit_as_it_is(&self, view: &View, policy: Policy, command: Command) -> Result<Admitted, Refusal> {
        if self.commands.table().class(&command) == Class::Administrative
            && let Route::Refuse(message) = self.route_acting(view, policy, &command.name())
        {
            return Err(Refusal { cause: RefusalCause::Administrative, message });
        }
        if self.commands.table().class(&command) == Class::Unknown {
            self.metrics.keyless_write("");
            if !self.commands.is_known_to_be_unknown(&command.name()) {
                let reason = "a command was forwarded that the server could not be asked about";
                self.note_unverifiable(view, UNMATCHED, reason);
            }
        }
        Ok(Admitted::Write(Step { command, touches: Vec::new() }))
    }

    /// Whether a write of this key leaves a mark: by its stage, or always where there is no valid lease (S3).
    pub(super) fn is_marked(&self, view: &View, key: &Key) -> bool {
        let kind = self.catalog.kind_of(key.as_bytes());
        kind.is_mirrored() && (view.flag(kind).stage.marks() || !self.keeper.has_lease())
    }

    pub(super) fn step(&self, view: &View, command: Command, positions: &[usize]) -> Step {
        let touches: Vec<MirroredTouch> = effect::touches(&command, positions)
            .into_iter()
            .filter(|touch| self.is_marked(view, &touch.key))
            .map(|touch| MirroredTouch { kind: Arc::clone(self.catalog.kind_of(touch.key.as_bytes())), touch })
            .collect();
        for touch in &touches {
            if let Some(reason) = plan::unverifiable(touch) {
                self.note_unverifiable(view, &touch.kind.name, reason);
            }
        }
        if positions.is_empty() && touches.is_empty() {
            self.metrics.keyless_write(&command.name());
            if self.mirrors_anything(view) {
                self.note_unverifiable(view, UNMATCHED, "a write without a key was forwarded");
            }
        }
        Step { command, touches }
    }

    pub(super) fn note_unverifiable(&self, view: &View, kind: &str, reason: &'static str) {
        self.metrics.unverifiable(kind);
        if !view.unverifiable.contains_key(kind) {
            let (redis, kind) = (Arc::clone(&self.looks), kind.to_owned());
            tokio::spawn(async move {
                if crate::stores::redis::lease::note_unverifiable(&redis, &kind, reason).await.is_err() {
                    tracing::debug!("an unverifiable kind could not be noted; its next write notes it");
                }
            });
        }
    }

    pub(super) fn note_redis_read(&self, view: &View, command: &Command, keys: &[Key]) {
        // A key that could be read from Postgres was held back by another key of the command, or by the command itself.
        let other = keys.iter().find_map(|key| self.may_leave_redis(view, key).err());
        for key in keys {
            let kind = self.catalog.kind_of(key.as_bytes());
            let own = self.may_leave_redis(view, key).err();
            if own.is_none() && !answer::is_answerable(command) {
                self.metrics.not_cut_over(&command.name());
            }
            let broken = self.breakers.is_open(kind.index).then_some(RouteReason::Breaker);
            let reason = own.or(broken).or(other).unwrap_or(RouteReason::NotReadable);
            self.metrics.read_routed(&kind.name, Store::Redis, reason);
        }
    }
}

/// How many steps go in one piece: as many as an EXEC may hold, and no more pushes to a log than it may bear uncaptured.
fn piece(steps: &[Step]) -> usize {
    let mut count = 0;
    let mut pushes = std::collections::BTreeMap::new();
    for step in steps.iter().take(EXEC_COMMANDS_MAX) {
        for (key, pushed) in plan::pushes(std::slice::from_ref(step)) {
            *pushes.entry(key).or_insert(0) += pushed;
        }
        if count > 0 && pushes.values().any(|pushed| *pushed > LOG_PUSHES_MAX) {
            break;
        }
        count += 1;
    }
    count.max(1)
}

/// The replies, lists of keys among them without ours.
fn shown(frames: Vec<Frame>, listers: &[bool], protocol: Protocol) -> Vec<Frame> {
    let show = |(frame, lists)| if lists { hide::shown(frame, protocol) } else { frame };
    let listers = listers.iter().copied().chain(std::iter::repeat(false));
    frames.into_iter().zip(listers).map(show).collect()
}

fn refused(refusal: Refusal) -> Answer {
    Answer { result: Err(refusal), source: None, mirror: None }
}
