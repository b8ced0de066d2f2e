//! Where the servers' programs are: a folder that was named, then `PATH`, then where distributions hide them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dev::servers::ServerError;

/// Postgres below this is not what Parallax is tested with.
const POSTGRES_MAJOR_MIN: u32 = 15;

/// Folders whose subfolders are versions of Postgres: Debian, Red Hat, Homebrew.
const POSTGRES_HOMES: [&str; 4] = ["/usr/lib/postgresql", "/usr", "/opt/homebrew/opt", "/usr/local/opt"];

/// The programs of one Postgres.
#[derive(Clone, Debug)]
pub(super) struct PostgresBinaries {
    pub(super) initdb: PathBuf,
    pub(super) postgres: PathBuf,
    pub(super) major: u32,
}

/// The programs of the newest Postgres that will do.
pub(super) fn postgres() -> Result<PostgresBinaries, ServerError> {
    if let Some(folder) = variable("PARALLAX_POSTGRES_BIN") {
        let folder = PathBuf::from(folder);
        return postgres_in(&folder).ok_or_else(|| ServerError::Missing {
            program: "PostgreSQL 15 or newer",
            remedy: format!(
                "PARALLAX_POSTGRES_BIN names {}, which holds no `initdb` and `postgres` of it",
                folder.display()
            ),
        });
    }
    path_folders()
        .iter()
        .find_map(|folder| postgres_in(folder))
        .or_else(|| POSTGRES_HOMES.iter().flat_map(|home| versions_in(Path::new(home))).max_by_key(|found| found.major))
        .ok_or_else(|| ServerError::Missing {
            program: "PostgreSQL 15 or newer",
            remedy:
                "install it (Debian, Ubuntu: `apt-get install postgresql`; Fedora: `dnf install postgresql-server`; \
                     macOS: `brew install postgresql@17`) or name its folder of programs in PARALLAX_POSTGRES_BIN"
                    .to_owned(),
        })
}

/// The path of `redis-server`, or of `valkey-server`, which speaks the same.
pub(super) fn redis() -> Result<PathBuf, ServerError> {
    if let Some(named) = variable("PARALLAX_REDIS_BIN") {
        let named = PathBuf::from(named);
        let found = if named.is_dir() { redis_in(&named) } else { Some(named.clone()).filter(|path| path.is_file()) };
        return found.ok_or_else(|| ServerError::Missing {
            program: "redis-server",
            remedy: format!(
                "PARALLAX_REDIS_BIN names {}, which is neither a server nor a folder with one",
                named.display()
            ),
        });
    }
    path_folders().iter().find_map(|folder| redis_in(folder)).ok_or_else(|| ServerError::Missing {
        program: "redis-server",
        remedy: "install it (Debian, Ubuntu: `apt-get install redis-server`; Fedora: `dnf install valkey`; \
                 macOS: `brew install redis`) or name it in PARALLAX_REDIS_BIN"
            .to_owned(),
    })
}

/// A program on `PATH`.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    path_folders().into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// What `postgres --version` says of the Postgres that would be started.
///
/// # Errors
/// When there is none.
pub fn postgres_version() -> Result<String, ServerError> {
    version_of(&postgres()?.postgres)
}

/// What `redis-server --version` says of the Redis that would be started.
///
/// # Errors
/// When there is none.
pub fn redis_version() -> Result<String, ServerError> {
    version_of(&redis()?)
}

fn version_of(program: &Path) -> Result<String, ServerError> {
    let output = Command::new(program).arg("--version").output().map_err(ServerError::io("running", program))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn redis_in(folder: &Path) -> Option<PathBuf> {
    ["redis-server", "valkey-server"].iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

fn postgres_in(folder: &Path) -> Option<PostgresBinaries> {
    let (initdb, postgres) = (folder.join("initdb"), folder.join("postgres"));
    if !initdb.is_file() || !postgres.is_file() {
        return None;
    }
    let major = major_of(&version_of(&postgres).ok()?)?;
    (major >= POSTGRES_MAJOR_MIN).then_some(PostgresBinaries { initdb, postgres, major })
}

fn versions_in(home: &Path) -> Vec<PostgresBinaries> {
    let Ok(entries) = fs::read_dir(home) else {
        return Vec::new();
    };
    entries.flatten().filter_map(|entry| postgres_in(&entry.path().join("bin"))).collect()
}

/// The first number in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_of(version: &str) -> Option<u32> {
    let after = version.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn path_folders() -> Vec<PathBuf> {
    variable("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

// The environment is read here and not in settings: where the machine keeps its programs is no setting of the
// sidecar, and the tests start servers without any settings.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_postgres_prints() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("redis v=7"), None);
    }
}
