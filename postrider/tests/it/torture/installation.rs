//! The installation under test: its own servers behind proxies, and two of each service.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use postrider_embedded::{Embedded, Stop};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::proxy::{Mode, Proxy};
use crate::support::service::{Clock, Process, free_port};
use crate::support::{Bed, eventually, stack};

pub(crate) const ROLES: [&str; 6] = ["api", "api", "relay", "relay", "deliverer", "deliverer"];

/// Where the log of a service goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Log {
    File,
    FullDisk,
    /// A pipe whose reader is gone.
    ClosedPipe,
    /// A full pipe that is never read.
    FullPipe,
}

pub(crate) struct Installation {
    /// Connected to the servers directly.
    pub(crate) bed: Bed,
    /// The settings of the services, which connect through the proxies.
    proxied: Bed,
    pub(crate) servers: Embedded,
    pub(crate) postgres: Proxy,
    pub(crate) redis: Proxy,
    pub(crate) services: Vec<Process>,
    /// The clock of the deliverers, if libfaketime is installed.
    pub(crate) clock: Option<Clock>,
    pub(crate) logs: PathBuf,
    /// The reading ends of pipes that are never read.
    unread: Mutex<Vec<PipeReader>>,
    _directory: tempfile::TempDir,
}

impl Installation {
    pub(crate) async fn start() -> Self {
        let (directory, servers) = stack::own_servers().await;
        let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
        let sql = bed.sql().await;
        // What is committed without waiting stays in memory for a long time, so that a crash loses it.
        for setting in ["wal_writer_delay = '10s'", "log_min_messages = warning"] {
            sql.batch_execute(&format!("alter system set {setting}")).await.expect("set");
        }
        sql.batch_execute("select pg_reload_conf()").await.expect("reloaded");
        let database = bed.database();
        let tokio_postgres::config::Host::Unix(socket) = &database.get_hosts()[0] else {
            panic!("private servers are reached by sockets")
        };
        let socket = socket.join(format!(".s.PGSQL.{}", database.get_ports()[0]));
        let postgres = Proxy::to(socket).await;
        let redis_socket = servers.redis_url().trim_start_matches("redis+unix://").to_owned();
        let redis = Proxy::to(redis_socket.into()).await;
        let mut proxied = bed.clone();
        let (user, name) = (database.get_user().expect("a user"), database.get_dbname().expect("a database"));
        let url = format!("host=127.0.0.1 port={} user={user} dbname={name}", postgres.address.port());
        proxied.source.set("DATABASE_URL", url);
        proxied.source.set("REDIS_URL", format!("redis://{}", redis.address));
        let logs = std::env::temp_dir().join(format!("postrider-torture-{}", std::process::id()));
        std::fs::create_dir_all(&logs).expect("a directory for logs");
        let mut installation = Self {
            bed,
            proxied,
            servers,
            postgres,
            redis,
            services: Vec::new(),
            clock: Clock::new("+0"),
            logs,
            unread: Mutex::default(),
            _directory: directory,
        };
        for index in 0..ROLES.len() {
            let service = installation.launch(index, free_port(), Log::File);
            installation.services.push(service);
        }
        for service in &installation.services {
            service.ready().await;
        }
        installation
    }

    pub(crate) fn apis(&self) -> [SocketAddr; 2] {
        [self.services[0].listen, self.services[1].listen]
    }

    /// The configuration of a connection through the proxy.
    pub(crate) fn proxied_database(&self) -> tokio_postgres::Config {
        self.proxied.database()
    }

    fn launch(&self, index: usize, listen: SocketAddr, log: Log) -> Process {
        let role = ROLES[index];
        let stderr: Stdio = match log {
            Log::File => {
                let path = self.logs.join(format!("{role}-{index}.log"));
                File::options().append(true).create(true).open(path).expect("a log").into()
            }
            Log::FullDisk => File::options().write(true).open("/dev/full").expect("a full disk").into(),
            Log::ClosedPipe => std::io::pipe().expect("a pipe").1.into(),
            Log::FullPipe => self.full_pipe().into(),
        };
        let mut environment = vec![("POSTRIDER_LOG", "info")];
        if role == "deliverer"
            && let Some(clock) = &self.clock
        {
            environment.extend(clock.environment());
        }
        Process::start_logging(&self.proxied, role, listen, &environment, stderr)
    }

    fn full_pipe(&self) -> PipeWriter {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&writer, true).expect("a mode");
        while writer.write(&[b'.'; 512]).is_ok() {}
        rustix::io::ioctl_fionbio(&writer, false).expect("a mode");
        self.unread.lock().expect("the lock").push(reader);
        writer
    }

    /// Lets no file of PostgreSQL grow beyond this size until PostgreSQL is restarted. This has the effect of a full
    /// disk, on PostgreSQL alone.
    pub(crate) async fn limit_postgres(&self, bytes: u64) {
        let limit = Rlimit { current: Some(bytes), maximum: None };
        let sql = self.bed.sql().await;
        let postmaster = "select split_part(pg_read_file('postmaster.pid'), E'\n', 1)::integer";
        let others = "select pid from pg_stat_activity";
        let mut pids = Vec::new();
        for query in [postmaster, others] {
            pids.extend(sql.query(query, &[]).await.into_iter().flatten().map(|row| row.get::<_, i32>(0)));
        }
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            // A process that has ended by now needs no limit.
            let _ = prlimit(Some(pid), Resource::Fsize, limit);
        }
    }

    /// Restarts a service at its address. It must have ended.
    pub(crate) fn restart(&mut self, index: usize, log: Log) {
        let listen = self.services[index].listen;
        self.services[index].kill();
        self.services[index] = self.launch(index, listen, log);
    }

    pub(crate) async fn start_postgres(&mut self) {
        // The processes of a killed server may hold its memory for a moment.
        for _ in 0..50 {
            if self.servers.start_postgres().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("PostgreSQL does not start again");
    }

    pub(crate) async fn restart_redis(&mut self) {
        self.servers.stop_redis(Stop::Kill).await.expect("killed");
        self.servers.start_redis().await.expect("started");
    }

    /// Undoes every fault that is still active. A service that stopped by itself is an error.
    pub(crate) async fn heal(&mut self) {
        self.postgres.set(Mode::Pass);
        self.redis.set(Mode::Pass);
        for service in &mut self.services {
            assert!(!service.has_died(), "a service has stopped by itself: see {}", self.logs.display());
        }
        for (role, service) in ROLES.iter().zip(&self.services) {
            eventually(&format!("a {role} that is ready"), async || {
                (service.health("ready").await?.0 == 200).then_some(())
            })
            .await;
        }
    }

    pub(crate) async fn stop(self) {
        for service in self.services {
            assert!(service.terminate().await, "a service stops cleanly");
        }
        self.servers.stop().await.expect("stopped");
        let _ = std::fs::remove_dir_all(&self.logs);
    }
}
