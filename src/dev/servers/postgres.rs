//! A private Postgres.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::dev::servers::binaries::PostgresBinaries;
use crate::dev::servers::process::{ServerProcess, command, free_port};
use crate::dev::servers::scratch::{Scratch, User};
use crate::dev::servers::{ServerError, ServerTls, binaries, blocking, spawner, url_part};

const NAME: &str = "Postgres";
const SUPERUSER: &str = "postgres";
const PORT_TRIES_MAX: usize = 5;

/// How a private Postgres is to be. The default is fast, forgets what a power cut would take, and asks for no password.
#[derive(Clone, Default)]
pub struct PostgresOptions {
    /// A commit is on disk when it is answered (`fsync` and `synchronous_commit` on). A SIGKILL loses nothing either way.
    pub durable: bool,
    /// What the user `postgres` must say.
    pub password: Option<String>,
    /// TLS is offered, and asked for: a connection without it is refused.
    pub tls: Option<ServerTls>,
    /// Further lines for `postgresql.conf`, e.g. `("log_statement", "all")`.
    pub config: Vec<(String, String)>,
    /// A folder in which an empty database cluster is kept for the next start: a copy takes a tenth of the time.
    pub template: Option<PathBuf>,
}

/// A Postgres of our own: a child process on a free port of 127.0.0.1. Dropping it ends it and removes its data.
#[derive(Clone)]
pub struct PrivatePostgres {
    inner: Arc<Inner>,
}

// The process stands before the folder: fields are dropped in this order, and the server must end before its data go.
struct Inner {
    process: ServerProcess,
    port: u16,
    password: Option<String>,
    scratch: Scratch,
}

impl PrivatePostgres {
    /// Starts one, with an empty database `postgres`, and waits until it accepts connections.
    ///
    /// # Errors
    /// When there is no Postgres 15 or newer, or it does not start.
    pub async fn start(options: PostgresOptions) -> Result<Self, ServerError> {
        blocking(move || start(&options)).await
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.inner.port
    }

    /// Where the database `postgres` is, password included.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Where the database `name` is, password included.
    #[must_use]
    pub fn url_of(&self, name: &str) -> String {
        let password =
            self.inner.password.as_ref().map(|password| format!(":{}", url_part(password))).unwrap_or_default();
        format!("postgres://{SUPERUSER}{password}@127.0.0.1:{}/{name}", self.port())
    }

    /// The folder with its data: a copy taken while it is stopped is a backup.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        data_path(&self.inner.scratch)
    }

    /// Ends it in good order (SIGINT: connections are cut, everything is written).
    ///
    /// # Errors
    /// When it does not run, or had to be killed.
    pub async fn stop(&self) -> Result<(), ServerError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.process.stop("INT")).await
    }

    /// Starts it again on the same port and data, after `stop` or `kill`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&self) -> Result<(), ServerError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.start()).await
    }

    /// Ends it without a warning, the processes of its connections included (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<(), ServerError> {
        self.inner.process.kill()
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<(), ServerError> {
        self.inner.process.signal("STOP")
    }

    /// Lets it go on after `pause`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<(), ServerError> {
        self.inner.process.signal("CONT")
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.inner.process.id()
    }
}

impl Inner {
    fn start(&self) -> Result<(), ServerError> {
        let status = data_path(&self.scratch).join("postmaster.pid");
        self.process.start(|id| is_ready(&status, id))
    }
}

fn start(options: &PostgresOptions) -> Result<PrivatePostgres, ServerError> {
    let programs = binaries::postgres()?;
    let user = User::unprivileged()?;
    let mut failure = ServerError::NotRunning(NAME);
    // Between finding a free port and taking it, somebody else may: then another one is tried.
    for _ in 0..PORT_TRIES_MAX {
        let scratch = Scratch::new(user)?;
        make_cluster(&programs, &scratch, options)?;
        let port = free_port()?;
        write_config(&scratch, port, options)?;
        let log = scratch.path().join("postgres.log");
        let arguments = vec!["-D".to_owned(), data_path(&scratch).display().to_string()];
        let process = ServerProcess::new(NAME, programs.postgres.clone(), arguments, user, log);
        let inner = Inner { process, port, password: options.password.clone(), scratch };
        match inner.start() {
            Ok(()) => return Ok(PrivatePostgres { inner: Arc::new(inner) }),
            Err(error) if error.to_string().contains("in use") => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

/// An empty database cluster in the scratch folder: a copy of the template where there is one.
fn make_cluster(programs: &PostgresBinaries, scratch: &Scratch, options: &PostgresOptions) -> Result<(), ServerError> {
    // A cluster with a password is made anew: a template must not carry one.
    let folder = if options.password.is_some() { None } else { options.template.as_deref() };
    let Some(folder) = folder else {
        return initdb(programs, scratch, options);
    };
    let owner = scratch.user().map_or_else(|| "own".to_owned(), |user| user.uid.to_string());
    let template = folder.join(format!("postgres-{}-{owner}", programs.major));
    if template.join("PG_VERSION").is_file() {
        return copy(&template, &data_path(scratch));
    }
    initdb(programs, scratch, options)?;
    fs::create_dir_all(folder).map_err(ServerError::io("making", folder))?;
    let unfinished = tempfile::tempdir_in(folder).map_err(ServerError::io("making a folder in", folder))?;
    let made = unfinished.path().join("cluster");
    copy(&data_path(scratch), &made)?;
    // Whoever comes second finds the name taken by a template as good as its own.
    drop(fs::rename(&made, &template));
    Ok(())
}

fn initdb(programs: &PostgresBinaries, scratch: &Scratch, options: &PostgresOptions) -> Result<(), ServerError> {
    let data = data_path(scratch).display().to_string();
    let mut arguments: Vec<String> =
        ["--no-sync", "--locale=C", "--encoding=UTF8", "-U", SUPERUSER, "-D", &data].map(str::to_owned).to_vec();
    if let Some(password) = &options.password {
        let file = scratch.write("password", password)?;
        arguments.extend(["--auth=scram-sha-256".to_owned(), format!("--pwfile={}", file.display())]);
    } else {
        arguments.push("--auth=trust".to_owned());
    }
    let mut command = command(&programs.initdb, &arguments, scratch.user());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = spawner::spawn(command)
        .and_then(std::process::Child::wait_with_output)
        .map_err(ServerError::io("running", &programs.initdb))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ServerError::NotReady { server: "initdb", reason })
}

fn write_config(scratch: &Scratch, port: u16, options: &PostgresOptions) -> Result<(), ServerError> {
    let switch = if options.durable { "on" } else { "off" };
    let mut lines = vec![
        "listen_addresses = '127.0.0.1'".to_owned(),
        format!("port = {port}"),
        // No socket file: its folder would be another thing to own and to remove.
        "unix_socket_directories = ''".to_owned(),
        "max_connections = 200".to_owned(),
        "shared_buffers = '64MB'".to_owned(),
        format!("fsync = {switch}"),
        format!("synchronous_commit = {switch}"),
        format!("full_page_writes = {switch}"),
    ];
    let mut host = "host";
    if let Some(tls) = &options.tls {
        let certificate = scratch.write("postgres.crt", &tls.certificate_pem)?;
        let key = scratch.write("postgres.key", &tls.key_pem)?;
        lines.push("ssl = on".to_owned());
        lines.push(format!("ssl_cert_file = '{}'", certificate.display()));
        lines.push(format!("ssl_key_file = '{}'", key.display()));
        host = "hostssl";
    }
    lines.extend(options.config.iter().map(|(name, value)| format!("{name} = '{value}'")));
    let method = if options.password.is_some() { "scram-sha-256" } else { "trust" };
    scratch.write("data/postgresql.auto.conf", &(lines.join("\n") + "\n"))?;
    scratch.write("data/pg_hba.conf", &format!("{host} all all 127.0.0.1/32 {method}\n"))?;
    Ok(())
}

fn data_path(scratch: &Scratch) -> PathBuf {
    scratch.path().join("data")
}

/// Whether the server with this process id says in its status file that it accepts connections, as `pg_ctl` asks it.
fn is_ready(status: &Path, id: u32) -> bool {
    let Ok(text) = fs::read_to_string(status) else {
        return false;
    };
    let mut lines = text.lines();
    // The file of a server that was killed lies about until the next one has written its own.
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(id) && lines.nth(6).map(str::trim) == Some("ready")
}

fn copy(from: &Path, to: &Path) -> Result<(), ServerError> {
    // `cp -a` keeps owners and modes, which Postgres insists on.
    let done = Command::new("cp").arg("-a").args([from, to]).status().map_err(ServerError::io("copying", from))?;
    if done.success() {
        return Ok(());
    }
    Err(ServerError::NotReady { server: NAME, reason: format!("{} could not be copied ({done})", from.display()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::{Client, Error, NoTls};

    async fn connect(url: &str) -> Result<Client, Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    #[tokio::test]
    async fn postgres_keeps_its_data_and_port_over_a_kill_and_a_stop() {
        let postgres =
            PrivatePostgres::start(PostgresOptions { durable: true, ..PostgresOptions::default() }).await.unwrap();
        connect(&postgres.url()).await.unwrap().batch_execute("CREATE TABLE t AS SELECT 7 AS n").await.unwrap();
        postgres.kill().unwrap();
        assert!(connect(&postgres.url()).await.is_err());
        postgres.restart().await.unwrap();
        let row = connect(&postgres.url()).await.unwrap().query_one("SELECT n FROM t", &[]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 7);
        postgres.stop().await.unwrap();
        postgres.restart().await.unwrap();
        assert!(connect(&postgres.url()).await.is_ok());
    }

    #[tokio::test]
    async fn a_frozen_postgres_answers_on_no_connection_until_it_is_let_go() {
        let postgres = PrivatePostgres::start(PostgresOptions::default()).await.unwrap();
        let client = connect(&postgres.url()).await.unwrap();
        postgres.pause().unwrap();
        let late = tokio::time::timeout(std::time::Duration::from_millis(100), client.batch_execute("SELECT 1")).await;
        assert!(late.is_err(), "a frozen server answered");
        postgres.resume().unwrap();
        client.batch_execute("SELECT 1").await.unwrap();
    }

    #[tokio::test]
    async fn a_template_is_used_the_second_time_and_a_password_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let options = PostgresOptions { template: Some(folder.path().to_owned()), ..PostgresOptions::default() };
        let first = PrivatePostgres::start(options.clone()).await.unwrap();
        let second = PrivatePostgres::start(options.clone()).await.unwrap();
        assert_ne!(first.port(), second.port());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(connect(&second.url()).await.is_ok());

        let guarded = PostgresOptions { password: Some("s3cret @/:%".to_owned()), ..options };
        let guarded = PrivatePostgres::start(guarded).await.unwrap();
        assert!(connect(&guarded.url()).await.is_ok());
        assert!(connect(&guarded.url().replace("s3cret", "wrong")).await.is_err());
    }
}
