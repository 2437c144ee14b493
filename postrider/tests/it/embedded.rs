//! The private servers of `postrider up`, with real processes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use postrider_embedded::{Embedded, EmbeddedError, Options, Stop};
use rustix::process::{Pid, getpgid, getpgrp};
use tempfile::TempDir;

const FAST: Options = Options { fsync: false, end_on_drop: true, track_statements: false };
const DATA_DIR: &str = "POSTRIDER_EMBEDDED_TEST_DATA_DIR";

/// A directory that the servers' user can enter, and a data directory in it that does not exist yet.
fn new_data_directory() -> (TempDir, PathBuf) {
    let place = tempfile::Builder::new().prefix("postrider-test-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let data_dir = place.path().join("data");
    (place, data_dir)
}

async fn query(url: &str, statement: &str) -> String {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = client.simple_query(statement).await.unwrap();
    rows.iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .unwrap_or_default()
}

async fn redis(url: &str, words: &[&str]) -> Option<String> {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.unwrap()
}

fn postmaster(data_dir: &Path) -> Pid {
    let text = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).unwrap();
    Pid::from_raw(text.lines().next().unwrap().trim().parse().unwrap()).unwrap()
}

async fn refusal(data_dir: &Path) -> EmbeddedError {
    let error = Embedded::start(data_dir, FAST).await.expect_err("a refusal");
    eprintln!("{error}");
    error
}

#[tokio::test]
async fn data_survives_a_stop_and_a_start() {
    let (_place, data_dir) = new_data_directory();
    let embedded = Embedded::start(&data_dir, FAST).await.unwrap();
    query(embedded.database_url(), "create table kept (text text)").await;
    query(embedded.database_url(), "insert into kept values ('ünchanged')").await;
    assert_eq!(query(embedded.database_url(), "show server_encoding").await, "UTF8");
    assert_eq!(query(embedded.database_url(), "show listen_addresses").await, "");
    assert_eq!(query(embedded.database_url(), "show synchronous_commit").await, "on");
    assert_eq!(redis(embedded.redis_url(), &["PING"]).await.as_deref(), Some("PONG"));
    embedded.stop().await.unwrap();
    assert!(!data_dir.join("postgres/postmaster.pid").exists());

    let embedded = Embedded::start(&data_dir, FAST).await.unwrap();
    assert_eq!(query(embedded.database_url(), "select text from kept").await, "ünchanged");
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn only_the_owner_can_open_the_sockets_and_ctrl_c_does_not_reach_the_servers() {
    let (_place, data_dir) = new_data_directory();
    let embedded = Embedded::start(&data_dir, FAST).await.unwrap();
    let mode = std::fs::metadata(data_dir.join("run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let postmaster = postmaster(&data_dir);
    assert_ne!(getpgid(Some(postmaster)).unwrap(), getpgrp());
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_start_in_the_same_directory_is_refused() {
    let (_place, data_dir) = new_data_directory();
    let embedded = Embedded::start(&data_dir, FAST).await.unwrap();
    let error = refusal(&data_dir).await;
    assert!(matches!(error, EmbeddedError::InUse { .. }));
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    assert_eq!(query(embedded.database_url(), "select 1").await, "1");
    embedded.stop().await.unwrap();
}

/// The next test starts this in its own process and kills that process.
#[tokio::test]
#[ignore = "a part of the next test"]
async fn a_process_that_will_be_killed() {
    let Some(data_dir) = std::env::var_os(DATA_DIR) else { return };
    let embedded =
        Embedded::start(Path::new(&data_dir), Options { end_on_drop: false, ..FAST }).await.unwrap();
    eprintln!("ready: {}", embedded.database_url());
    std::future::pending::<()>().await;
}

/// Starts the servers from a separate process with these variables, and kills that process.
fn start_and_kill(data_dir: &Path, environment: &[(&str, &str)]) {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::a_process_that_will_be_killed", "--ignored", "--nocapture"])
        .env(DATA_DIR, data_dir)
        .envs(environment.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stderr.take().unwrap()).lines();
    let is_ready = lines.map_while(Result::ok).any(|line| line.starts_with("ready: "));
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(is_ready, "it did not start");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_servers_inherit_no_secrets() {
    let (_place, data_dir) = new_data_directory();
    let secrets = [
        ("POSTRIDER_ADMIN_TOKEN", "a-secret-of-this-test"),
        ("DATABASE_URL", "postgres://user:a-secret-of-this-test@host/database"),
        ("AWS_SECRET_ACCESS_KEY", "a-secret-of-this-test"),
        ("PGPASSWORD", "a-secret-of-this-test"),
    ];
    start_and_kill(&data_dir, &secrets);
    let embedded = Embedded::start(&data_dir, FAST).await.unwrap();
    let (postgres, redis) = embedded.process_ids();
    for pid in [postgres.unwrap(), redis.unwrap()] {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment);
        assert!(!environment.contains("secret"), "{environment}");
        // Redis overwrites its environment with the title of its process.
        if Some(pid) == postgres {
            assert!(environment.contains("LC_ALL=C") && environment.contains("PATH="), "{environment}");
        }
    }
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn the_servers_of_a_killed_process_are_adopted() {
    let (_place, data_dir) = new_data_directory();
    start_and_kill(&data_dir, &[]);
    let before = postmaster(&data_dir);
    redis(&format!("redis+unix://{}/run/redis.sock", data_dir.display()), &["SET", "kept", "here"]).await;

    let mut embedded = Embedded::start(&data_dir, FAST).await.unwrap();
    assert_eq!(postmaster(&data_dir), before);
    assert_eq!(redis(embedded.redis_url(), &["GET", "kept"]).await.as_deref(), Some("here"));
    embedded.stop_postgres(Stop::Fast).await.unwrap();
    embedded.start_postgres().await.unwrap();
    assert_ne!(postmaster(&data_dir), before);
    assert_eq!(query(embedded.database_url(), "select 1").await, "1");
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_dies_is_reported_and_can_be_started_again() {
    let (_place, data_dir) = new_data_directory();
    let mut embedded = Embedded::start(&data_dir, FAST).await.unwrap();
    query(embedded.database_url(), "create table kept (number int)").await;

    rustix::process::kill_process(postmaster(&data_dir), rustix::process::Signal::KILL).unwrap();
    let failure = tokio::time::timeout(Duration::from_secs(300), embedded.wait_failure()).await.unwrap();
    assert!(matches!(failure, EmbeddedError::Ended { server: "PostgreSQL", .. }), "{failure}");
    embedded.start_postgres().await.unwrap();
    assert_eq!(query(embedded.database_url(), "select count(*) from kept").await, "0");

    for how in [Stop::Immediate, Stop::Kill] {
        embedded.stop_postgres(how).await.unwrap();
        embedded.start_postgres().await.unwrap();
        assert_eq!(query(embedded.database_url(), "select count(*) from kept").await, "0");
    }
    redis(embedded.redis_url(), &["SET", "gone", "soon"]).await;
    embedded.stop_redis(Stop::Kill).await.unwrap();
    embedded.start_redis().await.unwrap();
    assert_eq!(redis(embedded.redis_url(), &["GET", "gone"]).await, None);
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn a_half_initialised_directory_is_explained_and_left_alone() {
    let (_place, data_dir) = new_data_directory();
    std::fs::create_dir_all(data_dir.join("postgres/base")).unwrap();
    std::fs::write(data_dir.join("lock"), "").unwrap();
    std::fs::write(data_dir.join("postgres/base/1"), "precious").unwrap();
    let error = refusal(&data_dir).await;
    assert!(matches!(error, EmbeddedError::Incomplete { missing: "PG_VERSION", .. }), "{error}");
    assert!(error.to_string().contains("move it away"), "{error}");
    assert_eq!(std::fs::read_to_string(data_dir.join("postgres/base/1")).unwrap(), "precious");
}

#[tokio::test]
async fn leftovers_of_an_interrupted_initdb_are_not_in_the_way() {
    let (_place, data_dir) = new_data_directory();
    std::fs::create_dir_all(data_dir.join("postgres.initdb-1/base")).unwrap();
    std::fs::write(data_dir.join("lock"), "").unwrap();
    if rustix::process::geteuid().is_root() {
        // As a first start would have left it.
        std::fs::set_permissions(&data_dir, Permissions::from_mode(0o755)).unwrap();
    }
    let embedded = Embedded::start(&data_dir, FAST).await.unwrap();
    assert!(!data_dir.join("postgres.initdb-1").exists());
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_of_a_missing_version_is_explained() {
    let (_place, data_dir) = new_data_directory();
    std::fs::create_dir_all(data_dir.join("postgres/global")).unwrap();
    for (file, text) in [
        ("lock", ""),
        ("postgres/PG_VERSION", "9\n"),
        ("postgres/global/pg_control", ""),
        ("postgres/postgresql.conf", ""),
    ] {
        std::fs::write(data_dir.join(file), text).unwrap();
    }
    let error = refusal(&data_dir).await;
    assert!(matches!(&error, EmbeddedError::WrongMajor { major, .. } if major == "9"), "{error}");
}

#[tokio::test]
async fn the_output_of_a_server_that_cannot_start_is_quoted() {
    let (_place, data_dir) = new_data_directory();
    Embedded::start(&data_dir, FAST).await.unwrap().stop().await.unwrap();
    let conf = data_dir.join("postgres/postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, text + "\nno_such_setting = 1\n").unwrap();
    let error = refusal(&data_dir).await;
    assert!(matches!(error, EmbeddedError::NotStarted { server: "PostgreSQL", .. }), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn a_directory_with_other_content_is_refused() {
    let (_place, data_dir) = new_data_directory();
    std::fs::create_dir(&data_dir).unwrap();
    std::fs::write(data_dir.join("thesis.tex"), "precious").unwrap();
    assert!(matches!(refusal(&data_dir).await, EmbeddedError::NotOurs { .. }));
}

#[tokio::test]
async fn a_directory_the_servers_cannot_enter_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // There is no other user then.
    }
    let (place, data_dir) = new_data_directory();
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o700)).unwrap();
    let error = refusal(&data_dir).await;
    let is_named =
        matches!(&error, EmbeddedError::CannotEnter { directory, .. } if directory == place.path());
    assert!(is_named, "{error}");
}

#[tokio::test]
async fn a_path_too_long_or_too_odd_for_a_socket_works() {
    for name in ["x".repeat(120), "two words, one comma".to_owned()] {
        let (place, _) = new_data_directory();
        let data_dir = place.path().join(name);
        let embedded = Embedded::start(&data_dir, FAST).await.unwrap();
        assert_eq!(query(embedded.database_url(), "select 1").await, "1");
        assert_eq!(redis(embedded.redis_url(), &["PING"]).await.as_deref(), Some("PONG"));
        let sockets = PathBuf::from(embedded.redis_url().trim_start_matches("redis+unix://"));
        embedded.stop().await.unwrap();
        std::fs::remove_dir_all(sockets.parent().unwrap()).unwrap();
    }
}
