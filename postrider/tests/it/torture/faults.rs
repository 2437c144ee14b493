//! Random faults, one after another. Each is undone before the next.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use postrider_embedded::Stop;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::installation::{Installation, Log};
use super::proxy::Mode;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillService,
    FreezeService,
    TerminateService,
    UnwritableLog,
    FullDisk,
    KillPostgres,
    RestartPostgres,
    ReadOnlyPostgres,
    LockedRows,
    LockedTable,
    TerminatedSessions,
    KillRedis,
    FlushRedis,
    OldSnapshot,
    RedisReplica,
    RedisFull,
    LostKeys,
    Delay,
    Cut,
    Swallow,
    ClockStep,
}

const ALL: [Fault; 21] = [
    Fault::KillService,
    Fault::FreezeService,
    Fault::TerminateService,
    Fault::UnwritableLog,
    Fault::FullDisk,
    Fault::KillPostgres,
    Fault::RestartPostgres,
    Fault::ReadOnlyPostgres,
    Fault::LockedRows,
    Fault::LockedTable,
    Fault::TerminatedSessions,
    Fault::KillRedis,
    Fault::FlushRedis,
    Fault::OldSnapshot,
    Fault::RedisReplica,
    Fault::RedisFull,
    Fault::LostKeys,
    Fault::Delay,
    Fault::Cut,
    Fault::Swallow,
    Fault::ClockStep,
];

/// The faults that were injected.
pub(crate) struct Faults {
    possible: Vec<Fault>,
    counts: BTreeMap<Fault, u32>,
}

impl Faults {
    pub(crate) fn new(installation: &Installation) -> Self {
        let mut possible = ALL.to_vec();
        if let Ok(only) = std::env::var("POSTRIDER_TORTURE_ONLY") {
            possible.retain(|fault| only.split(',').any(|name| name == format!("{fault:?}")));
        }
        if installation.clock.is_none() {
            println!("torture: libfaketime is not installed: no clock steps");
            possible.retain(|fault| *fault != Fault::ClockStep);
        }
        Self { possible, counts: BTreeMap::new() }
    }

    pub(crate) async fn inject(&mut self, installation: &mut Installation, random: &mut StdRng) {
        sleep(Duration::from_millis(random.random_range(200..1_500))).await;
        let fault = self.possible[random.random_range(0..self.possible.len())];
        *self.counts.entry(fault).or_default() += 1;
        println!("torture: {fault:?}");
        let lasts = Duration::from_millis(random.random_range(500..4_000));
        let victim = random.random_range(0..installation.services.len());
        match fault {
            Fault::KillService => installation.restart(victim, Log::File),
            Fault::FreezeService => {
                let id = installation.services[victim].id();
                signal(id, "STOP");
                sleep(lasts * 3).await;
                signal(id, "CONT");
            }
            Fault::TerminateService => {
                signal(installation.services[victim].id(), "TERM");
                let status = installation.services[victim].died().await;
                assert!(status.success(), "a service that was stopped exits with {status}");
                installation.restart(victim, Log::File);
            }
            Fault::UnwritableLog => {
                let log = [Log::FullDisk, Log::ClosedPipe, Log::FullPipe][random.random_range(0..3)];
                installation.restart(victim, log);
                sleep(lasts).await;
                assert!(
                    !installation.services[victim].has_died(),
                    "a log that cannot be written harms nothing"
                );
            }
            Fault::FullDisk => {
                installation.limit_postgres(random.random_range(1..4) << 20).await;
                sleep(lasts).await;
                // If PostgreSQL could not write its WAL, it has stopped.
                installation.servers.stop_postgres(Stop::Kill).await.expect("killed");
                installation.start_postgres().await;
            }
            Fault::KillPostgres => {
                installation.servers.stop_postgres(Stop::Kill).await.expect("killed");
                sleep(lasts).await;
                installation.start_postgres().await;
            }
            Fault::RestartPostgres => {
                installation.servers.stop_postgres(Stop::Fast).await.expect("stopped");
                installation.start_postgres().await;
            }
            Fault::ReadOnlyPostgres => {
                let sql = installation.bed.sql().await;
                let set = |value: &str| {
                    format!(
                        "set default_transaction_read_only = off; alter system set default_transaction_read_only = {value}"
                    )
                };
                for (value, pause) in [("on", lasts), ("off", Duration::ZERO)] {
                    for statement in set(value).split(';') {
                        sql.batch_execute(statement).await.expect("set");
                    }
                    sql.batch_execute("select pg_reload_conf()").await.expect("reloaded");
                    sleep(pause).await;
                }
            }
            Fault::LockedRows | Fault::LockedTable => {
                let mut sql = installation.bed.sql().await;
                let open = sql.transaction().await.expect("a transaction");
                let lock = if fault == Fault::LockedRows {
                    "select id from deliveries where completed_at is null order by id limit 20 for update skip locked"
                } else {
                    "lock table endpoints in share row exclusive mode"
                };
                open.batch_execute(lock).await.expect("locked");
                sleep(lasts * 3).await;
                open.rollback().await.expect("undone");
            }
            Fault::TerminatedSessions => {
                let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
                                 where datname = current_database() and pid <> pg_backend_pid()";
                installation.bed.sql().await.batch_execute(terminate).await.expect("terminated");
            }
            Fault::KillRedis => {
                installation.servers.stop_redis(Stop::Kill).await.expect("killed");
                sleep(lasts).await;
                installation.servers.start_redis().await.expect("started");
            }
            Fault::FlushRedis => redis(installation, &["FLUSHALL"]).await,
            Fault::OldSnapshot => {
                redis(installation, &["SAVE"]).await;
                sleep(lasts).await;
                installation.restart_redis().await;
            }
            Fault::RedisReplica => {
                redis(installation, &["REPLICAOF", "127.0.0.1", "1"]).await;
                sleep(lasts).await;
                redis(installation, &["REPLICAOF", "NO", "ONE"]).await;
            }
            Fault::RedisFull => {
                redis(installation, &["CONFIG", "SET", "maxmemory", "1mb"]).await;
                sleep(lasts).await;
                redis(installation, &["CONFIG", "SET", "maxmemory", "512mb"]).await;
            }
            Fault::LostKeys => {
                for _ in 0..random.random_range(1..4) {
                    let script = "local key = redis.call('RANDOMKEY') if key then redis.call('DEL', key) end";
                    redis(installation, &["EVAL", script, "0"]).await;
                }
            }
            Fault::Delay | Fault::Cut | Fault::Swallow => {
                let proxy = if random.random() { &installation.postgres } else { &installation.redis };
                match fault {
                    Fault::Delay => {
                        proxy.set(Mode::Delay(Duration::from_millis(random.random_range(5..200))))
                    }
                    Fault::Swallow => proxy.set(Mode::Swallow),
                    _ => proxy.cut(),
                }
                sleep(lasts).await;
                proxy.set(Mode::Pass);
                if fault == Fault::Swallow {
                    proxy.cut();
                }
            }
            Fault::ClockStep => {
                // Receivers tolerate five minutes.
                let clock =
                    installation.clock.as_ref().expect("this fault is drawn only if there is a clock");
                clock.set(["+60", "-60", "+120", "+0"][random.random_range(0..4)]);
                sleep(lasts).await;
                clock.set("+0");
            }
        }
    }

    /// How often PostgreSQL crashed, and lost what it had committed without waiting for the disk.
    pub(crate) fn postgres_crashes(&self) -> u32 {
        [Fault::KillPostgres, Fault::FullDisk].iter().filter_map(|fault| self.counts.get(fault)).sum()
    }

    pub(crate) fn table(&self) -> String {
        let mut table = format!("{:<44} {:>6}", "fault", "times");
        for (fault, count) in &self.counts {
            let _ = write!(table, "\n{:<44} {count:>6}", format!("{fault:?}"));
        }
        table + "\n"
    }
}

/// Sends a signal to one of our processes.
fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), id.to_string()]).status().expect("kill");
    assert!(status.success(), "{id} is gone");
}

async fn redis(installation: &Installation, words: &[&str]) {
    let mut connection = installation.bed.redis().await;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async::<()>(&mut connection).await.expect("Redis obeys");
}
