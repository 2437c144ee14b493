//! The private PostgreSQL.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio_postgres::{Client, NoTls};

use crate::data_dir::{DataDir, fits_a_socket};
use crate::process::{Log, POLL, Process, command, is_alive};
use crate::programs::{self, PostgresPrograms};
use crate::{EmbeddedError, Options, Stop};

const SERVER: &str = "PostgreSQL";
/// The superuser of the cluster and the owner of the database.
const USER: &str = "postrider";
/// Part of the socket's name. Nothing listens on a network.
const PORT: u16 = 5432;

/// How long a start may take, including recovery after a crash.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// A server whose socket has been dead for this long is not running, whatever its pid file says.
const SOCKET_DEADLINE: Duration = Duration::from_secs(5);
/// The timeout of a query that checks the server.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// How long a fast stop may take before it becomes an immediate one.
const FAST_STOP_DEADLINE: Duration = Duration::from_secs(60);
const IMMEDIATE_STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Settings of every start. They suit a single developer's machine. Users who need more can run their own server and
/// set `DATABASE_URL`.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=200",
    "shared_buffers=256MB",
    "synchronous_commit=on",
    "max_wal_size=2GB",
    "wal_compression=on",
    "autovacuum_naptime=10s",
    "autovacuum_vacuum_scale_factor=0.05",
    "jit=off",
    "random_page_cost=1.1",
    "timezone=UTC",
    "log_timezone=UTC",
    "log_destination=stderr",
    "logging_collector=off",
    "log_checkpoints=off",
    "log_line_prefix=%m [%p] ",
    "log_min_messages=warning",
    // The text of a failed statement may contain an event's payload, which must not be in a log.
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
];

/// A server that is running, or that has been stopped and can be started again.
#[derive(Debug)]
pub(crate) struct Postgres {
    sockets: PathBuf,
    options: Options,
    process: Option<Process>,
    log: Log,
}

/// The result of asking whether a server serves this cluster.
enum Ping {
    Yes,
    /// It listens, but is starting, stopping or busy.
    NotYet,
    /// Nothing listens, or it serves another cluster.
    Dead,
}

impl Postgres {
    /// Adopts the server of the data directory, or starts it. Creates the cluster if there is none.
    pub(crate) async fn start(data_dir: &DataDir, options: Options) -> Result<Self, EmbeddedError> {
        let log = Log::existing(data_dir.log("postgres"));
        let mut postgres = match find_running(&data_dir.cluster(), &log).await? {
            Some((pid, sockets)) => {
                tracing::info!(pid = pid.as_raw_nonzero(), "adopting the PostgreSQL that is already running");
                Self { sockets, options, process: Some(Process::Adopted(pid)), log }
            }
            None => {
                let mut postgres = Self { sockets: data_dir.sockets()?, options, process: None, log };
                if !data_dir.cluster().exists() {
                    create_cluster(data_dir, options.fsync).await?;
                }
                postgres.launch(data_dir).await?;
                postgres
            }
        };
        if let Err(error) = postgres.create_database().await {
            let _ = postgres.stop(Stop::Fast).await;
            return Err(EmbeddedError::Database(error));
        }
        Ok(postgres)
    }

    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    pub(crate) fn url(&self, database: &str) -> String {
        url(&self.sockets, database)
    }

    /// Starts the server of an existing cluster.
    pub(crate) async fn launch(&mut self, data_dir: &DataDir) -> Result<(), EmbeddedError> {
        let cluster = data_dir.cluster();
        let programs = programs_for(&cluster)?;
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let (log, file) = Log::open(data_dir.log("postgres"))?;
            let mut server = command(&programs.postgres(), data_dir);
            server.arg("-D").arg(&cluster);
            server.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
            server.arg("-c").arg(format!("port={PORT}"));
            server.arg("-c").arg(format!("unix_socket_directories={}", self.sockets.display()));
            if !self.options.fsync {
                server.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
            }
            if self.options.track_statements {
                server.args(["-c", "shared_preload_libraries=pg_stat_statements"]);
                server.args(["-c", "pg_stat_statements.track_planning=on"]);
            }
            let process = Process::spawn(server, &file)
                .map_err(|source| EmbeddedError::Spawn { program: programs.postgres(), source })?;
            self.log = log;
            let process = self.process.insert(process);
            if wait_ready(process, &self.sockets, &cluster, deadline, &self.log).await? {
                return Ok(());
            }
            self.process = None;
            // A postmaster was killed a moment ago, and its sessions have not noticed yet.
            let is_passing = self.log.text().contains("pre-existing shared memory block");
            if !is_passing || Instant::now() >= deadline {
                return Err(EmbeddedError::NotStarted { server: SERVER, log: self.log.last_lines() });
            }
            tokio::time::sleep(10 * POLL).await;
        }
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        self.process.as_ref()?.pid()?.as_raw_nonzero().get().try_into().ok()
    }

    /// Waits until the server ends, if it is running.
    pub(crate) async fn failure(&mut self) -> EmbeddedError {
        match &mut self.process {
            Some(process) => process.ended().await,
            None => std::future::pending().await,
        }
        EmbeddedError::Ended { server: SERVER, log: self.log.last_lines() }
    }

    /// Sends the signal for this kind of stop, if the server is running.
    pub(crate) fn send(&self, how: Stop) {
        if let Some(process) = &self.process {
            process.signal(match how {
                Stop::Fast => Signal::INT,
                Stop::Immediate => Signal::QUIT,
                Stop::Kill => Signal::KILL,
            });
        }
    }

    /// Stops the server. A fast stop that takes too long becomes an immediate one.
    pub(crate) async fn stop(&mut self, how: Stop) -> Result<(), EmbeddedError> {
        self.send(how);
        let Some(process) = &mut self.process else { return Ok(()) };
        let patience = if how == Stop::Fast { FAST_STOP_DEADLINE } else { IMMEDIATE_STOP_DEADLINE };
        let mut has_ended = process.ended_before(Instant::now() + patience).await;
        if !has_ended {
            process.signal(Signal::QUIT);
            has_ended = process.ended_before(Instant::now() + IMMEDIATE_STOP_DEADLINE).await;
        }
        if !has_ended {
            let process = process.pid().map(|pid| pid.to_string()).unwrap_or_default();
            return Err(EmbeddedError::NotStopped { server: SERVER, process, log: self.log.last_lines() });
        }
        self.process = None;
        Ok(())
    }

    async fn create_database(&self) -> Result<(), tokio_postgres::Error> {
        let client = connect(&self.sockets).await?;
        let found = client.query_opt("select 1 from pg_database where datname = $1", &[&USER]).await?;
        if found.is_none() {
            let create = "create database postrider template template0 encoding 'UTF8' locale 'C'";
            client.batch_execute(create).await?;
        }
        Ok(())
    }
}

/// Returns the server that the cluster's pid file names, if it is running and serves this cluster.
async fn find_running(cluster: &Path, log: &Log) -> Result<Option<(Pid, PathBuf)>, EmbeddedError> {
    let Some((pid, sockets)) = read_pid_file(cluster) else { return Ok(None) };
    let start = Instant::now();
    while is_alive(pid) {
        match ask(&sockets, cluster).await {
            Ping::Yes => return Ok(Some((pid, sockets))),
            // The process id belongs to another process by now. PostgreSQL will judge for itself.
            Ping::Dead if start.elapsed() > SOCKET_DEADLINE => break,
            Ping::NotYet if start.elapsed() > START_DEADLINE => {
                let (seconds, log) = (START_DEADLINE.as_secs(), log.last_lines());
                return Err(EmbeddedError::NotReady { server: SERVER, seconds, log });
            }
            Ping::Dead | Ping::NotYet => tokio::time::sleep(POLL).await,
        }
    }
    Ok(None)
}

/// Reads the process id and the socket directory from lines 1 and 5 of `postmaster.pid`.
fn read_pid_file(cluster: &Path) -> Option<(Pid, PathBuf)> {
    let text = std::fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = Pid::from_raw(lines.next()?.trim().parse().ok()?)?;
    let sockets = PathBuf::from(lines.nth(3)?.trim());
    fits_a_socket(&sockets).then_some((pid, sockets))
}

/// Returns the programs that can run the cluster.
fn programs_for(cluster: &Path) -> Result<PostgresPrograms, EmbeddedError> {
    for missing in ["PG_VERSION", "global/pg_control", "postgresql.conf"] {
        if !cluster.join(missing).is_file() {
            return Err(EmbeddedError::Incomplete { cluster: cluster.to_owned(), missing });
        }
    }
    let path = cluster.join("PG_VERSION");
    let version = std::fs::read_to_string(&path).map_err(EmbeddedError::io("read", &path))?;
    programs::postgres_of_cluster(cluster, version.trim())
}

/// Runs `initdb` in a temporary directory and renames the result in one step, so that a directory at the final path is
/// always a complete cluster.
async fn create_cluster(data_dir: &DataDir, fsync: bool) -> Result<(), EmbeddedError> {
    let programs = programs::newest_postgres()?;
    tracing::info!(version = programs.major, directory = %data_dir.path().display(), "creating a PostgreSQL cluster");
    discard_unfinished(data_dir);
    let unfinished = data_dir.path().join(format!("{UNFINISHED}{}", std::process::id()));
    data_dir.own_directory(&unfinished)?;
    let mut initdb = command(&programs.initdb(), data_dir);
    initdb.arg("-D").arg(&unfinished).args(["-U", USER, "-E", "UTF8", "--locale=C", "--data-checksums"]);
    initdb.args(["--auth-local=trust", "--auth-host=reject"]);
    if !fsync {
        initdb.arg("--no-sync");
    }
    let output = tokio::process::Command::from(initdb)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| EmbeddedError::Spawn { program: programs.initdb(), source })?;
    if !output.status.success() {
        discard_unfinished(data_dir);
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "\n  ");
        return Err(EmbeddedError::InitFailed { output: said });
    }
    let cluster = data_dir.cluster();
    std::fs::rename(&unfinished, &cluster).map_err(EmbeddedError::io("create", &cluster))?;
    let sync = |path: &Path| std::fs::File::open(path)?.sync_all();
    sync(data_dir.path()).map_err(EmbeddedError::io("write", data_dir.path()))
}

/// The prefix of directories in which `initdb` is running or was interrupted.
const UNFINISHED: &str = "postgres.initdb-";

/// Removes what an interrupted `initdb` left behind. No server has ever run on it.
fn discard_unfinished(data_dir: &DataDir) {
    let Ok(entries) = std::fs::read_dir(data_dir.path()) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            tracing::info!(directory = %entry.path().display(), "removing the files of an interrupted initdb");
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Waits until the server responds (true) or has ended (false).
async fn wait_ready(
    process: &mut Process,
    sockets: &Path,
    cluster: &Path,
    deadline: Instant,
    log: &Log,
) -> Result<bool, EmbeddedError> {
    loop {
        if process.has_ended() {
            return Ok(false);
        }
        if matches!(ask(sockets, cluster).await, Ping::Yes) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            let (seconds, log) = (START_DEADLINE.as_secs(), log.last_lines());
            return Err(EmbeddedError::NotReady { server: SERVER, seconds, log });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Asks the server that listens on the socket whether it serves this cluster.
async fn ask(sockets: &Path, cluster: &Path) -> Ping {
    let question = async {
        let row = connect(sockets).await?.query_one("show data_directory", &[]).await?;
        row.try_get::<_, String>("data_directory")
    };
    match tokio::time::timeout(PROBE_DEADLINE, question).await {
        Ok(Ok(directory)) if is_same(Path::new(&directory), cluster) => Ping::Yes,
        Ok(Ok(_)) => Ping::Dead,
        Ok(Err(error)) if is_dead(&error) => Ping::Dead,
        Ok(Err(_)) | Err(_) => Ping::NotYet,
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn is_dead(error: &tokio_postgres::Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| {
        matches!(cause.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
    })
}

async fn connect(sockets: &Path) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(&url(sockets, "postgres"), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn url(sockets: &Path, database: &str) -> String {
    format!("host={} port={PORT} user={USER} dbname={database}", sockets.display())
}
