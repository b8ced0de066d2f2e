//! One server process: started, awaited, signalled, ended. What Redis and Postgres have in common.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::dev::servers::scratch::User;
use crate::dev::servers::{ServerError, binaries, spawner};

const POLL: Duration = Duration::from_millis(5);
/// 30 seconds: a loaded machine with two cores starts Postgres in three.
const READY_POLLS_MAX: usize = 6_000;
/// 15 seconds for an orderly end, before it is ended the other way.
const STOP_POLLS_MAX: usize = 3_000;
/// How much of a log an error carries.
const LOG_LINES_MAX: usize = 12;

/// A server process that can be started again with the same arguments.
pub(super) struct ServerProcess {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    user: Option<User>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl ServerProcess {
    pub(super) fn new(
        name: &'static str,
        program: PathBuf,
        arguments: Vec<String>,
        user: Option<User>,
        log: PathBuf,
    ) -> Self {
        Self { name, program, arguments, user, log, child: Mutex::new(None) }
    }

    /// Starts it and waits until `is_ready` says so of its process id.
    pub(super) fn start(&self, is_ready: impl Fn(u32) -> bool) -> Result<(), ServerError> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(ServerError::io("opening the log", &self.log))?;
        let errors = log.try_clone().map_err(ServerError::io("opening the log", &self.log))?;
        let mut command = command(&self.program, &self.arguments, self.user);
        command.stdout(log).stderr(errors);
        let mut child = spawner::spawn(command).map_err(ServerError::io("starting", &self.program))?;
        for _ in 0..READY_POLLS_MAX {
            if let Some(status) = child.try_wait().map_err(ServerError::io("waiting for", &self.program))? {
                return Err(self.not_ready(&format!("it ended with {status}")));
            }
            if is_ready(child.id()) {
                *self.locked() = Some(child);
                return Ok(());
            }
            thread::sleep(POLL);
        }
        drop(child.kill());
        drop(child.wait());
        Err(self.not_ready("it was not ready within 30 seconds"))
    }

    /// Asks it to end with `signal`, waits, and kills it when it does not.
    pub(super) fn stop(&self, signal: &str) -> Result<(), ServerError> {
        let Some(mut child) = self.locked().take() else {
            return Err(ServerError::NotRunning(self.name));
        };
        // A frozen process would not hear the other signal.
        drop(send("CONT", &family(child.id())));
        drop(send(signal, &[child.id()]));
        for _ in 0..STOP_POLLS_MAX {
            if ended(&mut child).is_some() {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        kill(child);
        Err(ServerError::Stuck(self.name))
    }

    /// Ends it as a crash would: no warning, its children included.
    pub(super) fn kill(&self) -> Result<(), ServerError> {
        let Some(child) = self.locked().take() else {
            return Err(ServerError::NotRunning(self.name));
        };
        kill(child);
        Ok(())
    }

    /// Sends `signal` to it and its children.
    pub(super) fn signal(&self, signal: &str) -> Result<(), ServerError> {
        let id = self.locked().as_ref().map(Child::id).ok_or(ServerError::NotRunning(self.name))?;
        send(signal, &family(id)).map_err(ServerError::io("signalling", &self.program))
    }

    /// Its process id, while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.locked().as_ref().map(Child::id)
    }

    /// The last lines of its log.
    pub(super) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .iter()
            .skip(lines.len().saturating_sub(LOG_LINES_MAX))
            .fold(String::new(), |all, line| all + "\n  " + line)
    }

    fn not_ready(&self, what: &str) -> ServerError {
        ServerError::NotReady { server: self.name, reason: format!("{what}. The end of its log:{}", self.log_tail()) }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Some(child) = self.locked().take() {
            kill(child);
        }
    }
}

/// A command that runs as `user`, in a process group of its own, and ends when this process does.
pub(super) fn command(program: &Path, arguments: &[String], user: Option<User>) -> Command {
    let mut command = match binaries::on_path("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            if let Some(User { uid, gid }) = user {
                command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--init-groups".to_owned()]);
            }
            command.args(["--pdeathsig", "KILL"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    // Its own group: Ctrl-C in a terminal must reach us alone, since we stop the servers after we have drained.
    // The root folder: ours may be closed to the user whom it runs as.
    command.args(arguments).process_group(0).current_dir("/").stdin(Stdio::null());
    command
}

/// A port of loopback that was free a moment ago.
pub(super) fn free_port() -> Result<u16, ServerError> {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(ServerError::io("looking for a free port on", "127.0.0.1"))
}

fn kill(mut child: Child) {
    // The parent first, frozen, so that it starts no further children while we kill those it has.
    drop(send("STOP", &[child.id()]));
    drop(send("KILL", &family(child.id())));
    drop(child.kill());
    drop(child.wait());
}

fn ended(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().ok().flatten()
}

/// Signals by the shell's own `kill`, as the standard library knows only the one that ends everything.
fn send(signal: &str, ids: &[u32]) -> io::Result<()> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "kill -s \"$@\" 2>/dev/null", "sh", signal]);
    command.args(ids.iter().map(u32::to_string)).stdin(Stdio::null()).status().map(drop)
}

/// A process and its children: Postgres has one for each connection.
fn family(id: u32) -> Vec<u32> {
    let mut all = vec![id];
    let Ok(processes) = fs::read_dir("/proc") else {
        return all;
    };
    for process in processes.flatten() {
        let Some(other) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else {
            continue;
        };
        // "pid (name) state parent ...": the name may hold anything, so what counts begins after the last bracket.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if parent.and_then(|parent| parent.parse().ok()) == Some(id) {
            all.push(other);
        }
    }
    all
}
