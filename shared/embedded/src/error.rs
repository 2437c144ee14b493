//! What can go wrong with the private servers. Every message is a sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why the private servers do not run.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Another process holds the lock of the data directory.
    #[error(
        "another `postrider up` (process {holder}) is using {directory}: stop it, or choose a different \
         directory with --data-dir or POSTRIDER_DATA_DIR",
        directory = .directory.display()
    )]
    InUse {
        /// The data directory.
        directory: PathBuf,
        /// The id of the process that holds it.
        holder: String,
    },
    /// The directory contains other data.
    #[error(
        "{} is not empty and is not a data directory of Postrider: choose a new or empty directory with \
         --data-dir or POSTRIDER_DATA_DIR",
        .directory.display()
    )]
    NotOurs {
        /// The given directory.
        directory: PathBuf,
    },
    /// A directory that Postrider needs to create already exists, and is not safe to use.
    #[error(
        "{} exists, but it is not a directory owned by the user that the servers run as, or others can \
         write to it: move it away and start again",
        .directory.display()
    )]
    ForeignDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// The servers' user cannot reach the data directory.
    #[error(
        "PostgreSQL and Redis do not run as root but as the user {user}, who cannot access {directory}: \
         choose another directory with --data-dir or POSTRIDER_DATA_DIR, such as /var/lib/postrider",
        directory = .directory.display()
    )]
    CannotEnter {
        /// The user that the servers would run as.
        user: String,
        /// The first directory that the user cannot enter.
        directory: PathBuf,
    },
    /// Neither the user `postgres` nor `nobody` exists.
    #[error(
        "PostgreSQL refuses to run as root, and there is no other user to run it as: create one with \
         `useradd --system postgres`"
    )]
    NoUser,
    /// A file operation failed.
    #[error("cannot {what} {path}; check its permissions, or choose another directory with --data-dir or \
             POSTRIDER_DATA_DIR", path = .path.display())]
    File {
        /// The operation that failed.
        what: &'static str,
        /// The path that it failed on.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// No PostgreSQL is installed.
    #[error(
        "PostgreSQL is not installed: run `script/bootstrap`, or install it (Debian: `apt-get install \
         postgresql`; macOS: `brew install postgresql@17`), or set DATABASE_URL to a running server"
    )]
    PostgresMissing,
    /// The newest installed PostgreSQL is older than Postrider requires.
    #[error(
        "PostgreSQL {major} is installed, but Postrider requires {oldest} or newer: install it, or set \
         DATABASE_URL to a running server"
    )]
    PostgresTooOld {
        /// The newest installed major version.
        major: u32,
        /// The oldest supported major version.
        oldest: u32,
    },
    /// The cluster was created by a major version that is not installed.
    #[error(
        "the data in {cluster} was written by PostgreSQL {major}, but version {installed} is installed: \
         install PostgreSQL {major}, or upgrade the data with pg_upgrade",
        cluster = .cluster.display()
    )]
    WrongMajor {
        /// The cluster.
        cluster: PathBuf,
        /// The major version of the cluster.
        major: String,
        /// The installed versions.
        installed: String,
    },
    /// The directory of the cluster exists, but it is not a complete cluster.
    #[error(
        "{cluster} is not a complete PostgreSQL cluster ({missing} is missing), perhaps because it was only \
         partly copied: restore it, or move it away (`mv {cluster} {cluster}.broken`) to start with an \
         empty one",
        cluster = .cluster.display()
    )]
    Incomplete {
        /// The cluster.
        cluster: PathBuf,
        /// The missing file.
        missing: &'static str,
    },
    /// `initdb` failed.
    #[error(
        "initdb could not create a PostgreSQL cluster. Its output:\n  {output}\nFix the problem and start \
         again; nothing was kept"
    )]
    InitFailed {
        /// The end of its output.
        output: String,
    },
    /// A program could not be started.
    #[error("cannot start {program}; check its installation", program = .program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A server ended during its start.
    #[error(
        "{server} stopped while it was starting: fix the problem that its log shows and start again. \
             {log}"
    )]
    NotStarted {
        /// The name of the server.
        server: &'static str,
        /// The end of its log.
        log: String,
    },
    /// A server did not respond in time.
    #[error(
        "{server} has been starting for {seconds} seconds and does not respond yet. It continues in the \
         background: check its log, and start `postrider up` again later. {log}"
    )]
    NotReady {
        /// The name of the server.
        server: &'static str,
        /// How long the start has taken so far.
        seconds: u64,
        /// The end of its log.
        log: String,
    },
    /// A server ended that should be running.
    #[error(
        "{server} stopped unexpectedly: start `postrider up` again. No acknowledged event is lost. {log}"
    )]
    Ended {
        /// The name of the server.
        server: &'static str,
        /// The end of its log.
        log: String,
    },
    /// A server does not stop.
    #[error("{server} (process {process}) does not stop: check its log, and stop it yourself. {log}")]
    NotStopped {
        /// The name of the server.
        server: &'static str,
        /// Its process id.
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
    /// The installed Redis is older than Postrider requires.
    #[error(
        "Redis {version} is installed, but Postrider requires 7 or newer: install it or Valkey, or set \
         REDIS_URL to a running server"
    )]
    RedisTooOld {
        /// The installed version.
        version: String,
    },
    /// Another program listens on the socket of Redis.
    #[error("another program listens on {socket} instead of the Redis of this directory: stop it (`fuser \
             {socket}` shows which it is) and start again", socket = .socket.display())]
    ForeignRedis {
        /// The socket.
        socket: PathBuf,
    },
}

impl EmbeddedError {
    /// For `map_err`: adds the failed operation and its path.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}
