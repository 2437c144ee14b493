//! The data directory: who may use it, who owns it, and where its sockets are.
//!
//! ```text
//! <data directory>/
//!   lock           held by the `postrider up` that is running
//!   postgres/      the cluster
//!   postgres.log   the log of PostgreSQL
//!   redis/         the working directory of Redis, which stores nothing there
//!   redis.log      the log of Redis
//!   run/           the sockets; only the owner can enter
//! ```

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest as _, Sha256};

use crate::EmbeddedError;
use crate::process::{RunUser, bare};

/// The longest socket path that every system accepts (Linux: 107 bytes, macOS: 103).
const SOCKET_PATH_BYTES: usize = 103;
/// The longest name of a socket in the socket directory.
const LONGEST_SOCKET_NAME: &str = "/.s.PGSQL.5432";

/// A data directory. It is locked as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// The user that the servers run as, if it is not the current user.
    pub(crate) user: Option<RunUser>,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if it does not exist, and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, EmbeddedError> {
        let path = std::path::absolute(path).map_err(EmbeddedError::io("resolve", path))?;
        let is_new = !path.exists();
        if is_new {
            std::fs::create_dir_all(&path).map_err(EmbeddedError::io("create", &path))?;
        }
        let path = path.canonicalize().map_err(EmbeddedError::io("enter", &path))?;
        let is_empty = is_empty(&path)?;
        if !is_empty && !path.join("lock").exists() {
            return Err(EmbeddedError::NotOurs { directory: path });
        }
        let user = RunUser::for_directory(&path)?;
        if is_empty {
            take_over(&path, user.as_ref())?;
        }
        if let Some(user) = &user {
            check_entry(&path, user)?;
        }
        let lock = lock(&path)?;
        let data_dir = Self { path, user, _lock: lock };
        data_dir.own_directory(&data_dir.redis())?;
        Ok(data_dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory of the PostgreSQL cluster.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.path.join("postgres")
    }

    /// Returns the working directory of Redis.
    pub(crate) fn redis(&self) -> PathBuf {
        self.path.join("redis")
    }

    /// Returns the log file of a server.
    pub(crate) fn log(&self, server: &str) -> PathBuf {
        self.path.join(format!("{server}.log"))
    }

    /// Returns the directory of the sockets. It is `run` within the data directory. If that path is too long for a
    /// socket or contains characters that would need quoting, it is a short path that is the same at every start.
    pub(crate) fn sockets(&self) -> Result<PathBuf, EmbeddedError> {
        let inside = self.path.join("run");
        let directory = if fits_a_socket(&inside) { inside } else { short_directory(&self.path) };
        self.own_directory(&directory)?;
        Ok(directory)
    }

    /// Creates a directory that only the servers' user can enter, or checks that an existing one is safe.
    pub(crate) fn own_directory(&self, directory: &Path) -> Result<(), EmbeddedError> {
        match std::fs::create_dir(directory) {
            Ok(()) => take_over(directory, self.user.as_ref()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let owner =
                    self.user.as_ref().map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
                // Symbolic links are not followed, because another user could have put one in a directory that everyone
                // can write to.
                let metadata = std::fs::symlink_metadata(directory)
                    .map_err(EmbeddedError::io("read the metadata of", directory))?;
                if metadata.is_dir() && metadata.uid() == owner && metadata.mode() & 0o022 == 0 {
                    Ok(())
                } else {
                    Err(EmbeddedError::ForeignDirectory { directory: directory.to_owned() })
                }
            }
            Err(error) => Err(EmbeddedError::io("create", directory)(error)),
        }
    }
}

/// Returns the directory in which `up` keeps its servers by default. For root it is not in the home directory:
/// PostgreSQL, which refuses to run as root, could not enter it.
#[must_use]
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/postrider");
    }
    let data_home = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || Some(std::env::home_dir()?.join(".local/share"));
    data_home.or_else(home).unwrap_or_else(|| PathBuf::from("/var/tmp")).join("postrider")
}

fn is_empty(path: &Path) -> Result<bool, EmbeddedError> {
    let mut entries = std::fs::read_dir(path).map_err(EmbeddedError::io("read", path))?;
    Ok(entries.next().is_none())
}

/// Makes the servers' user the only one with access to a directory that was found empty.
fn take_over(directory: &Path, user: Option<&RunUser>) -> Result<(), EmbeddedError> {
    if let Some(user) = user {
        chown(directory, Some(user.uid), Some(user.gid))
            .map_err(EmbeddedError::io("change the owner of", directory))?;
    }
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))
        .map_err(EmbeddedError::io("set the permissions of", directory))
}

/// Checks that the servers' user can enter the directory.
fn check_entry(directory: &Path, user: &RunUser) -> Result<(), EmbeddedError> {
    let can_enter = |path: &Path| {
        let mut command = bare("/bin/sh");
        command.args(["-c", "cd \"$0\""]).arg(path).current_dir("/");
        user.apply(&mut command);
        command.stdin(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if can_enter(directory) {
        return Ok(());
    }
    let mut ancestors: Vec<_> = directory.ancestors().collect();
    ancestors.reverse();
    let closed = ancestors.into_iter().find(|path| !can_enter(path)).unwrap_or(directory);
    Err(EmbeddedError::CannotEnter { user: user.name.clone(), directory: closed.to_owned() })
}

/// Takes the lock, and writes the process id into the file so that a second process can report it.
fn lock(directory: &Path) -> Result<File, EmbeddedError> {
    let path = directory.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(EmbeddedError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(EmbeddedError::InUse {
                directory: directory.to_owned(),
                holder: holder.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(EmbeddedError::io("lock", &path)(error)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(EmbeddedError::io("write", &path))?;
    Ok(file)
}

/// Returns true if a socket in the directory has a path that is short enough, and that needs no quoting in PostgreSQL's
/// list of directories, in connection strings and in URLs.
pub(crate) fn fits_a_socket(directory: &Path) -> bool {
    let Some(text) = directory.to_str() else { return false };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@".contains(&byte);
    text.len() + LONGEST_SOCKET_NAME.len() <= SOCKET_PATH_BYTES && text.bytes().all(is_plain)
}

fn short_directory(data_dir: &Path) -> PathBuf {
    let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let name: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    PathBuf::from(format!("/tmp/postrider-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_or_unusual_path_gets_a_short_place_for_its_sockets() {
        assert!(fits_a_socket(Path::new("/var/lib/postrider/run")));
        for path in
            [format!("/tmp/{}/run", "x".repeat(90)), "/tmp/two words/run".into(), "/tmp/a,b/run".into()]
        {
            let path = Path::new(&path);
            assert!(!fits_a_socket(path), "{}", path.display());
            assert!(fits_a_socket(&short_directory(path)));
            assert_eq!(short_directory(path), short_directory(path));
        }
    }
}
