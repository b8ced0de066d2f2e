//! The sidecar: build (no ports yet), check what it stands on, bind, announce, serve, drain. Reads as a boot log.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::doors::admin::{self, AdminDoor};
use crate::doors::http::arguments::CommandLimits;
use crate::doors::http::{self as data, DataDoor};
use crate::doors::resp::{self, RespDoor};
use crate::doors::server;
use crate::doors::trigger::Triggers;
use crate::dual::{self, Engine, Membership, Parts, Remedy};
use crate::failure::Failure;
use crate::jobs::Jobs;
use crate::model::catalog::Catalog;
use crate::settings::{PostgresSettings, RespListen, Settings};
use crate::shutdown::Shutdown;
use crate::stores::postgres::pool::{Options, Postgres};
use crate::stores::redis::Redis;
use crate::stores::tls;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otlp::readings::Readings;
use crate::telemetry::traces::Traces;

/// How long the start waits for Redis, which may come up beside us in the same pod.
const REDIS_WAIT: Duration = Duration::from_secs(30);
/// How long between two tries.
const REDIS_PAUSE: Duration = Duration::from_millis(250);

/// The listeners of the doors. They outlive a reload, so that no connection is refused meanwhile.
#[derive(Default)]
pub struct Ports {
    listeners: Mutex<BTreeMap<&'static str, net::TcpListener>>,
}

impl Ports {
    /// The listener of `door`; the first call binds it.
    fn open(&self, door: &'static str, address: net::SocketAddr) -> anyhow::Result<TcpListener> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = match listeners.entry(door) {
            Entry::Occupied(bound) => bound.into_mut(),
            Entry::Vacant(place) => place.insert(bind(address)?),
        };
        Ok(TcpListener::from_std(listener.try_clone()?)?)
    }
}

fn bind(address: net::SocketAddr) -> anyhow::Result<net::TcpListener> {
    // tokio's way to bind lets a successor have the port at once.
    let bound = async { TcpListener::bind(address).await?.into_std() };
    let bound = futures_util::FutureExt::now_or_never(bound).context("an address needs no waiting")?;
    bound.with_context(|| Failure::Foundation(format!("the address {address} cannot be listened on")))
}

/// Whether both stores let us in with these settings, asked once.
///
/// # Errors
/// Which does not, and why.
pub async fn try_stores(settings: &Settings) -> anyhow::Result<()> {
    let deadline = Duration::from_millis(settings.limits.command_deadline_ms);
    let client = tls::redis_client(&settings.redis).context(settings_failure("redis"))?;
    let remedies = dual::check_redis(&Redis::new(client, deadline)).await.context("redis does not answer")?;
    tell(&remedies)?;
    let Some(postgres) = &settings.postgres else { return Ok(()) };
    tell(&dual::check_postgres(&pool(postgres, deadline)?).await.context("postgres does not answer")?)
}

/// Serves until `shutdown`, then answers what was received and drains its own marks.
///
/// Callers are served on the runtime that runs this, which has one thread: no command changes threads on its way to Redis
/// and back. What nobody waits for runs on `background`.
///
/// # Errors
/// When something it stands on is not as it must be, with what to do; or when a port is taken.
pub async fn serve(
    settings: Settings,
    ports: Arc<Ports>,
    up: watch::Sender<Option<Arc<Engine>>>,
    shutdown: Shutdown,
    background: &Handle,
) -> anyhow::Result<()> {
    let triggers = Triggers::listen(settings.rollback_file.clone()).context("SIGUSR2 cannot be listened to")?;
    let Some(engine) = engine(&settings, Membership::Sidecar, &shutdown, background).await? else { return Ok(()) };
    let (limits, metrics, catalog) = (&settings.limits, engine.metrics().clone(), Arc::clone(engine.catalog()));

    let triggers = background.spawn(triggers.run(Arc::clone(&engine)));
    let data_listener = ports.open("data", settings.http.listen)?;
    let admin_listener = ports.open("admin", settings.admin.listen)?;
    let data_guard = data::guard(&settings.http)?;
    let admin_guard = admin::guard(settings.admin.listen, &settings.admin)?;
    let commands = CommandLimits::default();
    let data_door = Arc::new(DataDoor::new(Arc::clone(&engine), catalog, data_guard, commands, metrics.clone()));
    let jobs = {
        let _entered = background.enter();
        Jobs::start(Arc::clone(&engine))
    };
    let admin_door =
        Arc::new(AdminDoor::new(Arc::clone(&engine), jobs, admin_guard, &settings.admin.origins, metrics.clone()));
    let resp = match &settings.resp {
        Some(resp) => Some((listen_resp(&ports, &resp.listen)?, RespDoor::start(&engine, resp, &metrics)?)),
        None => None,
    };
    tracing::info!(
        instance = settings.instance,
        data = %data_listener.local_addr()?,
        admin = %admin_listener.local_addr()?,
        resp = resp.as_ref().map(|(listener, _)| listener.place()),
        "the doors are open"
    );
    let readings = readings(&settings, &metrics, background)?;
    up.send_replace(Some(Arc::clone(&engine)));

    let (admin_ends, ended) = crate::shutdown::pair();
    let admin = background.spawn(async move {
        server::serve(admin_listener, admin::limits(), admin_door, async move { ended.requested().await }).await
    });
    let resp = serve_resp(resp, Duration::from_millis(data::limits(limits).drain_timeout_ms), shutdown.clone());
    let data = server::serve(data_listener, data::limits(limits), data_door, shutdown.requested());
    let (drained, cut) = tokio::join!(data, resp);
    tracing::info!(cut = drained.cut + cut, "the data doors are closed; what was marked here is drained");
    // The admin door stays open meanwhile: probes and metrics tell of the drain.
    engine.stop(Duration::from_millis(limits.drain_deadline_ms)).await;
    readings.stop().await;
    triggers.abort();
    admin_ends.request();
    admin.await.context("the admin door ended early")?;
    Ok(())
}

/// The engine between both stores, once both were found to be as they must be. `None` when `shutdown` came first.
///
/// # Errors
/// When something it stands on is not as it must be, with what to do.
pub async fn engine(
    settings: &Settings,
    membership: Membership,
    shutdown: &Shutdown,
    background: &Handle,
) -> anyhow::Result<Option<Arc<Engine>>> {
    let catalog = Arc::new(catalog(settings)?);
    let names: Vec<String> = catalog.kinds().iter().map(|kind| kind.name.clone()).collect();
    let deadline = Duration::from_millis(settings.limits.command_deadline_ms);
    let client = tls::redis_client(&settings.redis).context(settings_failure("redis"))?;
    let postgres = {
        let _entered = background.enter();
        settings.postgres.as_ref().map(|postgres| pool(postgres, deadline)).transpose()?
    };
    tokio::select! {
        checked = check_redis(&client, deadline) => checked?,
        () = shutdown.requested() => return Ok(None),
    }
    check_postgres(postgres.as_ref()).await?;
    let limits = &settings.limits;
    let upstream = tls::redis_upstream(&settings.redis, &client).context(settings_failure("redis"))?;
    let metrics = Metrics::new(&settings.instance, &names);
    let traces = traces(settings, &metrics)?;
    let engine = Engine::start(Parts {
        catalog,
        instance: settings.instance.clone(),
        membership,
        redis: client,
        upstream: Arc::new(upstream),
        postgres,
        command_deadline: deadline,
        lease: Duration::from_millis(limits.lease_ms),
        barrier_wait: Duration::from_millis(limits.barrier_wait_ms),
        outbox_queue_max: limits.outbox_queue_max,
        shadow_queue_max: limits.shadow_queue_max,
        watches_for_bypasses: settings.redis.watches_for_bypasses,
        metrics,
        traces,
        background: background.clone(),
    });
    Ok(Some(engine.await.context(Failure::Foundation("the engine could not be started".to_owned()))?))
}

async fn serve_resp(door: Option<(resp::Listener, RespDoor)>, deadline: Duration, shutdown: Shutdown) -> usize {
    match door {
        Some((listener, door)) => door.serve(listener, deadline, shutdown.requested()).await,
        None => 0,
    }
}

fn listen_resp(ports: &Ports, listen: &RespListen) -> anyhow::Result<resp::Listener> {
    Ok(match listen {
        RespListen::Tcp(address) => {
            resp::Listener::Tcp(ports.open("redis", *address).context("set PARALLAX_RESP_LISTEN")?)
        }
        // A path can be bound anew at once: nobody else has it.
        RespListen::Unix(path) => resp::Listener::unix(path)
            .with_context(|| Failure::Foundation(format!("the socket {} cannot be listened on", path.display())))?,
    })
}

/// The catalog of these settings.
///
/// # Errors
/// Everything that is wrong with it.
pub fn catalog(settings: &Settings) -> anyhow::Result<Catalog> {
    let Some(path) = &settings.catalog else { return Ok(Catalog::embedded()) };
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .with_context(|| Failure::Settings(format!("the catalog {file} cannot be read")))?;
    Catalog::parse(&file, &text).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::Settings(format!("the catalog cannot be used:\n  {}", lines.join("\n  "))).into()
    })
}

fn settings_failure(store: &str) -> Failure {
    Failure::Settings(format!("{store} cannot be reached as configured"))
}

fn traces(settings: &Settings, metrics: &Metrics) -> anyhow::Result<Traces> {
    let Some(traces) = &settings.traces else { return Ok(Traces::default()) };
    let tls = tls::collector_config(&traces.target).context(settings_failure("the collector of traces"))?;
    Ok(Traces::start(traces, settings, tls, metrics.clone()))
}

/// Metrics on their way to a collector, where somebody asked for it.
///
/// # Errors
/// When the collector cannot be reached as configured.
pub fn readings(settings: &Settings, metrics: &Metrics, background: &Handle) -> anyhow::Result<Readings> {
    let Some(wanted) = &settings.metrics else { return Ok(Readings::default()) };
    let tls = tls::collector_config(&wanted.target).context(settings_failure("the collector of metrics"))?;
    let _entered = background.enter();
    Ok(Readings::start(wanted, &settings.instance, tls, metrics.clone()))
}

/// A pool as the settings want it, driven by the runtime that calls this.
///
/// # Errors
/// When they contradict each other.
pub fn pool(settings: &PostgresSettings, wait: Duration) -> anyhow::Result<Postgres> {
    let options = Options {
        config: tls::postgres_target(settings),
        tls: tls::postgres_config(settings).context(settings_failure("postgres"))?,
        pool_size: settings.pool_size,
        wait,
    };
    Ok(Postgres::new(options))
}

async fn check_redis(client: &redis::Client, deadline: Duration) -> anyhow::Result<()> {
    let redis = Redis::new(client.clone(), deadline);
    let began = tokio::time::Instant::now();
    let mut was_told = false;
    loop {
        match dual::check_redis(&redis).await {
            Ok(remedies) => return tell(&remedies),
            Err(error) if began.elapsed() >= REDIS_WAIT => {
                return Err(error).context(Failure::Foundation("redis is not there".to_owned()));
            }
            Err(error) => {
                if !std::mem::replace(&mut was_told, true) {
                    tracing::warn!(%error, "waiting for redis");
                }
                tokio::time::sleep(REDIS_PAUSE).await;
            }
        }
    }
}

/// Postgres may be down when we start: then writes are marked, and it is looked at when it comes.
async fn check_postgres(postgres: Option<&Postgres>) -> anyhow::Result<()> {
    let Some(postgres) = postgres else { return Ok(()) };
    match dual::check_postgres(postgres).await {
        Ok(remedies) => tell(&remedies),
        Err(error) => {
            tracing::warn!(%error, "postgres is not there at the start");
            Ok(())
        }
    }
}

fn tell(remedies: &[Remedy]) -> anyhow::Result<()> {
    let (fatal, others): (Vec<&Remedy>, Vec<&Remedy>) = remedies.iter().partition(|remedy| remedy.is_fatal);
    for remedy in others {
        tracing::warn!(reason = remedy.reason, remedy = remedy.remedy, "not as it should be");
    }
    if fatal.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = fatal.iter().map(|remedy| format!("{}: {}", remedy.reason, remedy.remedy)).collect();
    Err(Failure::Foundation(format!("cannot start:\n  {}", lines.join("\n  "))).into())
}
