//! SIGHUP: everything that is read at a start is read again, and the ports stay open.
//!
//! What serves is a *generation*: one engine and its doors, in runtimes of their own. A reload checks the new settings first;
//! where they cannot be used they are refused, and what served goes on. Otherwise the generation answers what it has received,
//! ends, and the next one begins, to the stores no different from a restart, which the protocol is made for. Connections that
//! come meanwhile wait in the queues of the listeners, which belong to no generation.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::app::{self, Ports};
use crate::dual::Engine;
use crate::model::catalog::Catalog;
use crate::settings::sources::Inputs;
use crate::settings::{self, Loaded, Settings};
use crate::shutdown::{self, Shutdown, Trigger};

/// How long a generation may take to end before the next one begins. What it leaves behind, a successor finds in the outbox.
const ENDING_MAX: Duration = Duration::from_secs(3);

/// Threads for the work that nobody waits for; callers are served by one of their own. Two, so that the capture of a large
/// record does not hold up the lease on the flags.
const BACKGROUND_THREADS: usize = 2;

/// One engine and its doors. When it is dropped it is cut.
struct Generation {
    ends: Trigger,
    cut: Trigger,
    served: oneshot::Receiver<anyhow::Result<()>>,
    engine: watch::Receiver<Option<Arc<Engine>>>,
}

impl Generation {
    fn begin(settings: &Settings, ports: &Arc<Ports>) -> anyhow::Result<Self> {
        let callers = Builder::new_current_thread().enable_all().build().context("a runtime could not be started")?;
        let background = Builder::new_multi_thread().worker_threads(BACKGROUND_THREADS).enable_all().build();
        let background = background.context("a runtime could not be started")?;
        let ((ends, ended), (cut, cutting)) = (shutdown::pair(), shutdown::pair());
        let (up, engine) = watch::channel(None);
        let (tell, served) = oneshot::channel();
        let (settings, ports) = (settings.clone(), Arc::clone(ports));
        let serve = move || {
            let outcome = callers.block_on(async {
                // On the heap: it is one future, and everything that a sidecar is.
                let serving = Box::pin(app::serve(settings, ports, up, ended, background.handle()));
                tokio::select! {
                    served = serving => served,
                    () = cutting.requested() => Ok(()),
                }
            });
            // Whatever it has begun and not ended goes with it.
            background.shutdown_background();
            callers.shutdown_background();
            // Where nobody listens any more, nobody needs to know.
            drop(tell.send(outcome));
        };
        thread::Builder::new().name("callers".to_owned()).spawn(serve).context("a thread could not be started")?;
        Ok(Self { ends, cut, served, engine })
    }

    /// Ends it, within [`ENDING_MAX`].
    async fn end(mut self) {
        self.ends.request();
        if tokio::time::timeout(ENDING_MAX, &mut self.served).await.is_err() {
            tracing::warn!("what served was cut: it had not ended in time for the reload");
            self.cut.request();
            drop((&mut self.served).await);
        }
    }
}

/// Serves until `shutdown`, and again with what is read anew after each SIGHUP.
///
/// # Errors
/// As [`app::serve`].
pub async fn serve(inputs: &Inputs, loaded: Loaded, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut hangups = signal(SignalKind::hangup()).context("SIGHUP cannot be listened to")?;
    let ports = Arc::new(Ports::default());
    let mut settings = loaded.settings;
    let mut generation = Generation::begin(&settings, &ports)?;
    loop {
        tokio::select! {
            served = &mut generation.served => return ended(served),
            () = shutdown.requested() => {
                tell(&[NotifyState::Stopping]);
                generation.ends.request();
                return ended((&mut generation.served).await);
            }
            Ok(()) = generation.engine.changed() => tell(&[NotifyState::Ready]),
            _ = hangups.recv() => match next(inputs, &settings, &generation).await {
                Err(reasons) => tracing::error!(reasons = reasons.join("; "), "the reload was refused: what held goes on"),
                Ok(loaded) => {
                    tell_of_reload();
                    generation.end().await;
                    settings = loaded.settings;
                    generation = Generation::begin(&settings, &ports)?;
                    tracing::info!("settings, catalog and certificates were read again");
                }
            },
        }
    }
}

fn ended(served: Result<anyhow::Result<()>, oneshot::error::RecvError>) -> anyhow::Result<()> {
    served.context("what served ended early")?
}

/// Tells systemd, if it started us; nobody else listens, and a supervisor that does not hear is no reason to stop.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the supervisor could not be told");
    }
}

fn tell_of_reload() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the supervisor could not be told of the reload"),
    }
}

/// What a reload would serve with, or every reason against it.
async fn next(inputs: &Inputs, held: &Settings, generation: &Generation) -> Result<Loaded, Vec<String>> {
    let Some(engine) = generation.engine.borrow().clone() else {
        return Err(vec!["the start is not over yet".to_owned()]);
    };
    let mut loaded =
        settings::load(inputs).map_err(|errors| errors.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    // Without a name of its own the sidecar keeps the one that was made up for it.
    if !loaded.resolved.is_given("instance") {
        loaded.settings.instance.clone_from(&held.instance);
    }
    let mut reasons = fixed(held, &loaded.settings);
    match app::catalog(&loaded.settings) {
        Err(error) => reasons.push(format!("{error:#}")),
        Ok(catalog) => reasons.extend(changed_kinds(&engine, &catalog)),
    }
    if reasons.is_empty() {
        // Looked at last, since only what is otherwise fine is worth a connection.
        app::try_stores(&loaded.settings).await.map_err(|error| vec![format!("{error:#}")])?;
        return Ok(loaded);
    }
    Err(reasons)
}

/// Settings that hold as long as the process: other ones need a restart.
fn fixed(held: &Settings, new: &Settings) -> Vec<String> {
    let redis = |settings: &Settings| {
        let redis = &settings.redis;
        (redis.host.clone(), redis.port, redis.database)
    };
    let postgres = |settings: &Settings| {
        let postgres = settings.postgres.as_ref();
        postgres.map(|postgres| (postgres.host.clone(), postgres.port, postgres.database.clone()))
    };
    let resp = |settings: &Settings| settings.resp.as_ref().map(|resp| resp.listen.clone());
    let log = |settings: &Settings| (settings.log.filter.clone(), settings.log.format);
    let differences = [
        ("the address of the data door", held.http.listen != new.http.listen),
        ("the address of the admin door", held.admin.listen != new.admin.listen),
        ("the address of the Redis door", resp(held) != resp(new)),
        ("the name of the instance", held.instance != new.instance),
        ("which Redis it is", redis(held) != redis(new)),
        ("which Postgres it is", postgres(held) != postgres(new)),
        ("the offset of the time zone", held.timezone_offset_hours != new.timezone_offset_hours),
        ("the log", log(held) != log(new)),
    ];
    let changed = differences.into_iter().filter(|(_, is_other)| *is_other);
    changed.map(|(what, _)| format!("{what} changes only with a restart")).collect()
}

/// Why the kinds that are mirrored now must stay as they are: what is in Postgres was written under their present description.
fn changed_kinds(engine: &Engine, new: &Catalog) -> Vec<String> {
    let report = engine.flags();
    if !report.lease_valid {
        return vec!["redis has not answered lately, so it is not known which kinds are mirrored".to_owned()];
    }
    let mirrored = report.kinds.iter().filter(|flag| flag.flag.stage.marks());
    let reasons = mirrored.filter_map(|flag| {
        let (name, stage) = (&flag.kind, flag.flag.stage);
        let held = engine.catalog().by_name(name)?;
        match new.by_name(name) {
            None => Some(format!("the kind {name} is in stage {stage} and must not go: take it to off first")),
            Some(kind) => {
                let changed = held.changed_in(kind);
                let what = changed.join(", ");
                (!changed.is_empty()).then(|| {
                    format!("the kind {name} is in stage {stage} and must keep its {what}: take it to off first")
                })
            }
        }
    });
    reasons.collect()
}
