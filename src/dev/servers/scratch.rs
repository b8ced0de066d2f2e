//! The scratch folder of one server, and who owns it: removed with the server, and by the next start when this process
//! was killed before it could.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::dev::servers::{ServerError, binaries};

const PREFIX: &str = "parallax-private-";
const LOCK: &str = "in-use";

/// Whom a server runs as, when that is not ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// The unprivileged user that a server is run as: nobody in particular unless we are root.
    pub(super) fn unprivileged() -> Result<Option<Self>, ServerError> {
        if !is_root() {
            return Ok(None);
        }
        if binaries::on_path("setpriv").is_none() {
            return Err(ServerError::NobodyToRunAs("`setpriv` (package util-linux) is missing".to_owned()));
        }
        let users = fs::read_to_string("/etc/passwd").map_err(ServerError::io("reading", "/etc/passwd"))?;
        ["postgres", "nobody"].iter().find_map(|name| find_user(&users, name)).map(Some).ok_or_else(|| {
            ServerError::NobodyToRunAs("there is neither a user `postgres` nor a user `nobody`".to_owned())
        })
    }
}

fn find_user(passwd: &str, name: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

fn is_root() -> bool {
    // A folder that we make belongs to us: the one way to learn our user id without unsafe code.
    fs::metadata("/proc/self").map(|own| own.uid() == 0).unwrap_or_else(|_| {
        TempDir::new().ok().and_then(|folder| fs::metadata(folder.path()).ok()).is_some_and(|own| own.uid() == 0)
    })
}

/// A folder for one server. Dropping it removes it.
pub(super) struct Scratch {
    folder: TempDir,
    user: Option<User>,
    // Held while we live; the system lets go of it when we are killed, and then `sweep` may remove the folder.
    _lock: File,
}

impl Scratch {
    /// A new folder, owned by `user` where one is given.
    pub(super) fn new(user: Option<User>) -> Result<Self, ServerError> {
        let parent = parent_for(user);
        sweep(&parent);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&parent)
            .map_err(ServerError::io("making a scratch folder in", &parent))?;
        let lock_path = folder.path().join(LOCK);
        let lock = File::create(&lock_path).map_err(ServerError::io("creating", &lock_path))?;
        lock.lock().map_err(ServerError::io("locking", &lock_path))?;
        let scratch = Self { folder, user, _lock: lock };
        scratch.give(scratch.path())?;
        Ok(scratch)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Whom it belongs to, when that is not ourselves.
    pub(super) fn user(&self) -> Option<User> {
        self.user
    }

    /// Writes a file that only the server may read.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<PathBuf, ServerError> {
        let path = self.path().join(name);
        fs::write(&path, content).map_err(ServerError::io("writing", &path))?;
        let only_owner = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&path, only_owner).map_err(ServerError::io("protecting", &path))?;
        self.give(&path)?;
        Ok(path)
    }

    /// Hands `path` to the user whom the server runs as.
    fn give(&self, path: &Path) -> Result<(), ServerError> {
        match self.user {
            Some(user) => chown(path, Some(user.uid), Some(user.gid)).map_err(ServerError::io("giving away", path)),
            None => Ok(()),
        }
    }
}

/// The system's folder for temporary files, or `/tmp` when that one is closed to `user` (root's own, say).
fn parent_for(user: Option<User>) -> PathBuf {
    let usual = std::env::temp_dir();
    let is_open = |folder: &Path| {
        folder.ancestors().all(|part| fs::metadata(part).is_ok_and(|data| data.permissions().mode() & 0o001 != 0))
    };
    if user.is_none() || is_open(&usual) { usual } else { PathBuf::from("/tmp") }
}

/// Removes what processes that were killed have left behind. Never what somebody still holds, and never loudly.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Another process may be between making its folder and locking it; then there is no lock file yet.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else {
            continue;
        };
        if lock.try_lock().is_ok() && is_aged(&lock) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// Whether the lock file is older than the moment between its creation and its locking can last.
fn is_aged(lock: &File) -> bool {
    let age = lock.metadata().ok().and_then(|data| data.modified().ok()).and_then(|made| made.elapsed().ok());
    age.is_some_and(|age| age.as_secs() >= 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(find_user(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(find_user(passwd, "nobody"), None);
    }

    #[test]
    fn a_folder_goes_with_its_owner() {
        let scratch = Scratch::new(None).unwrap();
        let path = scratch.path().to_owned();
        assert!(path.join(LOCK).is_file());
        drop(scratch);
        assert!(!path.exists());
    }
}
