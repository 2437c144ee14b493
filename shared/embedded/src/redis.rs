//! The private Redis. It stores nothing on disk, because its contents can be rebuilt from PostgreSQL.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::net::UnixStream;

use crate::data_dir::DataDir;
use crate::process::{Log, POLL, Process, command};
use crate::programs;
use crate::{EmbeddedError, Stop};

const SERVER: &str = "Redis";
/// The oldest supported Redis.
const OLDEST: u32 = 7;
/// Only a queue of millions of ids reaches it. Then writes are refused and no ids are evicted.
const MAX_MEMORY: &str = "512mb";

const START_DEADLINE: Duration = Duration::from_secs(30);
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// A server that is running, or that has been stopped and can be started again.
#[derive(Debug)]
pub(crate) struct Redis {
    socket: PathBuf,
    process: Option<Process>,
    log: Log,
}

/// What a server reports about itself.
struct Identity {
    pid: Pid,
    version: String,
    directory: PathBuf,
}

impl Redis {
    /// Adopts the server that responds at the socket, or starts one.
    pub(crate) async fn start(data_dir: &DataDir, sockets: &Path) -> Result<Self, EmbeddedError> {
        let socket = sockets.join("redis.sock");
        let mut redis = Self { socket, process: None, log: Log::existing(data_dir.log("redis")) };
        if is_listening(&redis.socket).await {
            let pid = redis.adoptable(data_dir).await?;
            tracing::info!(pid = pid.as_raw_nonzero(), "adopting the Redis that is already running");
            redis.process = Some(Process::Adopted(pid));
        } else {
            redis.launch(data_dir).await?;
        }
        Ok(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    /// Starts a server. It replaces a dead socket, but no other server may be listening on it.
    pub(crate) async fn launch(&mut self, data_dir: &DataDir) -> Result<(), EmbeddedError> {
        let program = programs::redis_server()?;
        let (log, file) = Log::open(data_dir.log("redis"))?;
        let mut server = command(&program, data_dir);
        server.args(["--port", "0", "--unixsocketperm", "700", "--save", "", "--appendonly", "no"]);
        server.args(["--maxmemory", MAX_MEMORY, "--maxmemory-policy", "noeviction", "--daemonize", "no"]);
        server.arg("--unixsocket").arg(&self.socket).arg("--dir").arg(data_dir.redis());
        let process =
            Process::spawn(server, &file).map_err(|source| EmbeddedError::Spawn { program, source })?;
        self.log = log;
        self.process = Some(process);
        let identity = self.wait_ready().await?;
        let major = identity.version.split('.').next().and_then(|major| major.parse().ok());
        if major.is_some_and(|major: u32| major < OLDEST) {
            self.stop(Stop::Fast).await?;
            return Err(EmbeddedError::RedisTooOld { version: identity.version });
        }
        Ok(())
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
                Stop::Fast => Signal::TERM,
                Stop::Immediate | Stop::Kill => Signal::KILL,
            });
        }
    }

    /// Stops the server. If that takes too long it is killed, because it has nothing to lose.
    pub(crate) async fn stop(&mut self, how: Stop) -> Result<(), EmbeddedError> {
        self.send(how);
        let Some(process) = &mut self.process else { return Ok(()) };
        if !process.ended_before(Instant::now() + STOP_DEADLINE).await {
            process.signal(Signal::KILL);
            if !process.ended_before(Instant::now() + STOP_DEADLINE).await {
                let process = process.pid().map(|pid| pid.to_string()).unwrap_or_default();
                return Err(EmbeddedError::NotStopped {
                    server: SERVER,
                    process,
                    log: self.log.last_lines(),
                });
            }
        }
        self.process = None;
        Ok(())
    }

    /// Returns the id of the process that listens at the socket, if it is the Redis of this data directory.
    async fn adoptable(&self, data_dir: &DataDir) -> Result<Pid, EmbeddedError> {
        let expected = data_dir.redis().canonicalize().ok();
        match identify(&self.url()).await {
            Some(identity) if identity.directory.canonicalize().ok() == expected => Ok(identity.pid),
            _ => Err(EmbeddedError::ForeignRedis { socket: self.socket.clone() }),
        }
    }

    async fn wait_ready(&mut self) -> Result<Identity, EmbeddedError> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if self.process.as_mut().is_none_or(Process::has_ended) {
                self.process = None;
                return Err(EmbeddedError::NotStarted { server: SERVER, log: self.log.last_lines() });
            }
            if is_listening(&self.socket).await
                && let Some(identity) = identify(&self.url()).await
            {
                return Ok(identity);
            }
            if Instant::now() >= deadline {
                self.send(Stop::Kill);
                let (seconds, log) = (START_DEADLINE.as_secs(), self.log.last_lines());
                return Err(EmbeddedError::NotReady { server: SERVER, seconds, log });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Returns true if a server listens at the socket, even if it is too busy to accept the connection.
async fn is_listening(socket: &Path) -> bool {
    match UnixStream::connect(socket).await {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
    }
}

/// Asks a server to identify itself. Returns `None` if there is no usable response in time.
async fn identify(url: &str) -> Option<Identity> {
    let question = async {
        let client = redis::Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
        let config: Vec<String> =
            redis::cmd("CONFIG").arg("GET").arg("dir").query_async(&mut connection).await?;
        Ok::<_, redis::RedisError>((info, config))
    };
    let (info, config) = tokio::time::timeout(PROBE_DEADLINE, question).await.ok()?.ok()?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Some(Identity {
        pid: Pid::from_raw(field("process_id")?.trim().parse().ok()?)?,
        version: field("redis_version")?.trim().to_owned(),
        directory: config.get(1)?.into(),
    })
}
