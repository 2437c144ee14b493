//! What can be wrong with the private servers. Every message is a sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why the private servers do not run.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The lock of the data directory is held.
    #[error(
        "another `postrider up` (process {holder}) is using {directory}: stop it, or choose a different \
         directory with --data-dir or POSTRIDER_DATA_DIR",
        directory = .directory.display()
    )]
    InUse {
        /// The data directory.
        directory: PathBuf,
        /// The number of the process that holds it.
        holder: String,
    },
    /// The directory holds something else.
    #[error(
        "{} is not empty and is not a data directory of Postrider: choose a new or empty directory with \
         --data-dir or POSTRIDER_DATA_DIR",
        .directory.display()
    )]
    NotOurs {
        /// The directory that was named.
        directory: PathBuf,
    },
    /// A directory that Postrider would create exists already, and is another user's.
    #[error(
        "{} exists, but it is not a directory owned by the user that the servers run as, or others can \
         write to it: move it away and start again",
        .directory.display()
    )]
    ForeignDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// The servers' user cannot come as far as the data directory.
    #[error(
        "PostgreSQL and Redis do not run as root but as the user {user}, who cannot access {directory}: \
         choose another directory with --data-dir or POSTRIDER_DATA_DIR, such as /var/lib/postrider",
        directory = .directory.display()
    )]
    CannotEnter {
        /// As whom the servers would run.
        user: String,
        /// The first directory that is closed to it.
        directory: PathBuf,
    },
    /// Neither `postgres` nor `nobody` is known.
    #[error(
        "PostgreSQL refuses to run as root, and there is no other user to run it as: create one with \
         `useradd --system postgres`"
    )]
    NoUser,
    /// A file operation failed.
    #[error("cannot {what} {path}; check its permissions, or choose another directory with --data-dir or \
             POSTRIDER_DATA_DIR", path = .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No PostgreSQL is installed.
    #[error(
        "PostgreSQL is not installed: run `script/bootstrap`, or install it (Debian: `apt-get install \
         postgresql`; macOS: `brew install postgresql@17`), or set DATABASE_URL to a running server"
    )]
    PostgresMissing,
    /// What is installed is older than Postrider can use.
    #[error(
        "PostgreSQL {major} is installed, but Postrider requires {oldest} or newer: install it, or set \
         DATABASE_URL to a running server"
    )]
    PostgresTooOld {
        /// The newest that is installed.
        major: u32,
        /// The oldest that would do.
        oldest: u32,
    },
    /// The cluster was made by a version whose programs are not here.
    #[error(
        "the data in {cluster} was written by PostgreSQL {major}, but version {installed} is installed: \
         install PostgreSQL {major}, or upgrade the data with pg_upgrade",
        cluster = .cluster.display()
    )]
    WrongMajor {
        /// The cluster.
        cluster: PathBuf,
        /// Its major version.
        major: String,
        /// What is installed.
        installed: String,
    },
    /// The cluster's directory is there, but it is no cluster.
    #[error(
        "{cluster} is not a complete PostgreSQL cluster ({missing} is missing), perhaps because it was only \
         partly copied: restore it, or move it away (`mv {cluster} {cluster}.broken`) to start with an \
         empty one",
        cluster = .cluster.display()
    )]
    Incomplete {
        /// The cluster.
        cluster: PathBuf,
        /// The file that it lacks.
        missing: &'static str,
    },
    /// `initdb` failed.
    #[error(
        "initdb could not create a PostgreSQL cluster. Its output:\n  {output}\nFix the problem and start \
         again; nothing was kept"
    )]
    InitFailed {
        /// What it said last.
        output: String,
    },
    /// A program could not be started at all.
    #[error("cannot start {program}; check its installation", program = .program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A server ended while it was starting.
    #[error(
        "{server} stopped while it was starting: fix the problem that its log shows and start again. \
             {log}"
    )]
    NotStarted {
        /// Which one.
        server: &'static str,
        /// The end of its log.
        log: String,
    },
    /// A server has not answered for long.
    #[error(
        "{server} has been starting for {seconds} seconds and does not respond yet. It continues in the \
         background: check its log, and start `postrider up` again later. {log}"
    )]
    NotReady {
        /// Which one.
        server: &'static str,
        /// How long was waited.
        seconds: u64,
        /// The end of its log.
        log: String,
    },
    /// A server ended that should run.
    #[error(
        "{server} stopped unexpectedly: start `postrider up` again. No acknowledged event is lost. {log}"
    )]
    Ended {
        /// Which one.
        server: &'static str,
        /// The end of its log.
        log: String,
    },
    /// A server does not end.
    #[error("{server} (process {process}) does not stop: check its log, and stop it yourself. {log}")]
    NotStopped {
        /// Which one.
        server: &'static str,
        /// Its number.
        process: String,
        /// The end of its log.
        log: String,
    },
    /// The database could not be created.
    #[error("cannot create the database in the private PostgreSQL; check postgres.log in the data directory")]
    Database(#[source] tokio_postgres::Error),
    /// No Redis is installed.
    #[error(
        "Redis is not installed: run `script/bootstrap`, or install it (Debian: `apt-get install \
         redis-server`; macOS: `brew install redis`), or set REDIS_URL to a running server"
    )]
    RedisMissing,
    /// What is installed is older than Postrider can use.
    #[error(
        "Redis {version} is installed, but Postrider requires 7 or newer: install it or Valkey, or set \
         REDIS_URL to a running server"
    )]
    RedisTooOld {
        /// The version.
        version: String,
    },
    /// Something else listens at the socket of Redis.
    #[error("another program listens on {socket} instead of the Redis of this directory: stop it (`fuser \
             {socket}` shows which it is) and start again", socket = .socket.display())]
    ForeignRedis {
        /// The socket.
        socket: PathBuf,
    },
}

impl EmbeddedError {
    /// For `map_err`: what was tried with which file.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}
