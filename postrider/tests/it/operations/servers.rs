//! PostgreSQL and Redis as they are in production: servers that become read-only, names that lead elsewhere, databases
//! with defaults of their own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use postrider_runtime::config::SETTINGS;
use postrider_store::{DatabaseConfig, Store, partitions};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_postgres::config::Host;

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;
use crate::support::stack::{Stack, own_servers};
use crate::support::{Bed, eventually};

/// Ends every session of the database, as a failover does.
const CUT_OFF: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()";

#[tokio::test(flavor = "multi_thread")]
async fn services_recover_after_a_read_only_database() {
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let sql = bed.sql().await;
    let read_only =
        |setting: &str| format!("alter database {} {setting} default_transaction_read_only", bed.name);
    sql.batch_execute(&format!("{} = on", read_only("set"))).await.expect("set");
    sql.query_one(CUT_OFF, &[]).await.expect("cut off");
    eventually("an API that cannot write", async || {
        let response = producer.try_publish("first", "user.created", &json!({})).await.ok()?;
        (response.status() == 503 && response.headers().contains_key("retry-after")).then_some(())
    })
    .await;

    sql.batch_execute(&read_only("reset")).await.expect("reset");
    producer.publish_until_accepted("first", "user.created", &json!({})).await;
    receiver.wait_for(1).await;
    for process in [&stack.api, &stack.relay, &stack.deliverer] {
        process.ready().await;
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_left_on_a_server_that_became_read_only_are_replaced() {
    let (_directory, servers) = own_servers().await;
    let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(1).await;
    let sql = bed.sql().await;
    // From now on existing sessions are read-only. New sessions find the new primary.
    for statement in [
        format!("alter database {} set default_transaction_read_only = off", bed.name),
        "alter system set default_transaction_read_only = on".to_owned(),
        "select pg_reload_conf()".to_owned(),
    ] {
        sql.batch_execute(&statement).await.expect("done");
    }
    let failover = sql.query_one("select now()::text", &[]).await.expect("the time").get::<_, String>(0);
    eventually("the old sessions to be read-only", async || {
        let row = sql.query_one("show default_transaction_read_only", &[]).await.expect("a setting");
        (row.get::<_, &str>(0) == "on").then_some(())
    })
    .await;

    producer.publish_until_accepted("second", "user.created", &json!({})).await;
    receiver.wait_for(2).await;
    for process in [&stack.api, &stack.relay, &stack.deliverer] {
        process.ready().await;
    }
    // Sessions that listen or hold a lock are useless on the old server.
    let left = format!(
        "select count(*) from pg_stat_activity a
         where datname = current_database() and backend_start < '{failover}'
           and (query ilike 'listen%' or exists (select from pg_locks l where l.pid = a.pid and locktype = 'advisory'))"
    );
    eventually("the sessions that listen or hold locks to be new ones", async || {
        (bed.count(&left).await == 0).then_some(())
    })
    .await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_type_change_costs_one_request_and_no_restart() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let path = producer.path("");
    producer.get(&path).await;
    bed.sql()
        .await
        .batch_execute("alter table applications alter column name type character varying (300)")
        .await
        .expect("changed");
    eventually("the application", async || {
        let status = producer.request(reqwest::Method::GET, &path).send().await.expect("a response").status();
        assert_ne!(status, 500);
        (status == 200).then_some(())
    })
    .await;
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_the_database_change_nothing() {
    let bed = Bed::empty("").await;
    let sql = bed.sql().await;
    for default in [
        "search_path = '$user'",
        "standard_conforming_strings = off",
        "quote_all_identifiers = on",
        "transform_null_equals = on",
        "array_nulls = off",
        "bytea_output = 'escape'",
        "extra_float_digits = -15",
        "datestyle = 'German, DMY'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Asia/Kolkata'",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "idle_session_timeout = '1s'",
        "synchronous_commit = off",
        "client_encoding = 'LATIN1'",
        "statement_timeout = '1ms'",
    ] {
        sql.batch_execute(&format!("alter database {} set {default}", bed.name)).await.expect(default);
    }
    bed.migrate().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let endpoint = json!({"url": receiver.url("/"), "filter": {"data.text": {"eq": "a\\b'ü€"}}});
    producer.endpoint(endpoint).await;
    let event = producer.publish("user.created", json!({"text": "a\\b'ü€", "price": 0.1})).await;
    let received = receiver.wait_for(1).await;
    assert_eq!(received[0].json()["data"], json!({"text": "a\\b'ü€", "price": 0.1}));
    let delivery = producer.delivery_in(&text(&event["event_id"]), "succeeded").await;
    assert!(text(&delivery["created_at"]).ends_with('Z'));
    let config = bed.source.read(DatabaseConfig::read).expect("a configuration");
    let store = Store::new(&config);
    for (setting, value) in [
        ("synchronous_commit", "on"),
        ("timezone", "UTC"),
        ("default_transaction_isolation", "read committed"),
    ] {
        let session = store.durable().await.expect("a session");
        let row = session.query_one(&format!("show {setting}"), &[]).await.expect("a setting");
        assert_eq!(row.get::<_, &str>(0), value, "{setting}");
    }
    let session = store.durable().await.expect("a session");
    let expired = partitions::expired(&session, 1).await.expect("partitions that can be read");
    assert_eq!(expired.len(), 0);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_utf8_is_refused_with_an_explanation() {
    let bed = Bed::empty("encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0").await;
    for role in ["migrate", "api", "relay", "deliverer"] {
        let output = run(&bed, role).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{role}: {said}");
        assert!(said.contains("has the encoding SQL_ASCII"), "{role}: {said}");
    }
    assert_eq!(bed.count("select count(*) from pg_namespace where nspname = 'postrider'").await, 0);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_a_pooler_drops_are_named_at_startup() {
    let mut bed = Bed::new().await;
    bed.source.set("DATABASE_URL", pooler_that_ignores_options(&bed).await);
    for role in ["migrate", "api", "relay", "deliverer"] {
        let output = run(&bed, role).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{role}: {said}");
        assert!(said.contains("alter role … set search_path = 'postrider'"), "{role}: {said}");
    }
}

/// Starts a pooler that acts like PgBouncer with `ignore_startup_parameters = options`.
async fn pooler_that_ignores_options(bed: &Bed) -> String {
    let database = bed.database();
    let port = database.get_ports().first().copied().unwrap_or(5432);
    let Host::Unix(directory) = database.get_hosts()[0].clone() else { panic!("a test server has a socket") };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let socket = directory.join(format!(".s.PGSQL.{port}"));
            tokio::spawn(async move {
                let mut server = UnixStream::connect(socket).await.expect("the server");
                let length = client.read_u32().await.expect("a length") as usize;
                let mut message = vec![0; length - 4];
                client.read_exact(&mut message).await.expect("a start-up message");
                let (protocol, parameters) = message.split_at(4);
                let parameters: Vec<_> = parameters.split(|&byte| byte == 0).collect();
                let mut passed = protocol.to_vec();
                for pair in parameters.chunks_exact(2).filter(|pair| !matches!(pair[0], b"" | b"options")) {
                    passed.extend([pair[0], b"\0", pair[1], b"\0"].concat());
                }
                passed.push(0);
                server.write_u32(passed.len() as u32 + 4).await.expect("sent");
                server.write_all(&passed).await.expect("sent");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let (user, name) = (database.get_user().expect("a user"), database.get_dbname().expect("a database"));
    format!("host=127.0.0.1 port={} user={user} dbname={name} sslmode=disable", address.port())
}

/// Runs `postrider <role>` until it exits.
async fn run(bed: &Bed, role: &str) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.arg(role).stdin(Stdio::null());
    for setting in SETTINGS {
        if let Some(value) = bed.source.get(setting.env) {
            command.env(setting.env, value);
        }
    }
    for listen in ["API", "RELAY", "DELIVERER"] {
        command.env(format!("POSTRIDER_{listen}_LISTEN"), "127.0.0.1:0");
    }
    command.kill_on_drop(true).output().await.expect("the program of this crate")
}

#[tokio::test(flavor = "multi_thread")]
async fn services_follow_the_redis_name_from_a_replica_to_the_new_primary() {
    let directory = tempfile::tempdir().expect("a directory");
    let (old, new) =
        (OwnRedis::start(directory.path(), "old").await, OwnRedis::start(directory.path(), "new").await);
    let name = Name::leading_to(directory.path().join("name.sock"), &old.socket);
    let mut bed = Bed::new().await;
    bed.source.set("REDIS_URL", format!("redis+unix://{}", name.path.display()));
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(1).await;

    // Connections to the old server stay open. It refuses writes, and a blocking read there waits for nothing.
    name.lead_to(&new.socket);
    old.call(&["REPLICAOF", "127.0.0.1", "1"]).await;
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(2).await;
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(3).await;
    for process in [&stack.relay, &stack.deliverer] {
        process.ready().await;
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_recover_after_redis_demanded_another_password() {
    let directory = tempfile::tempdir().expect("a directory");
    let redis = OwnRedis::start(directory.path(), "redis").await;
    let mut bed = Bed::new().await;
    let mut administrator = redis.connection().await;
    let mut call = async |words: &[&str]| -> redis::Value {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut administrator).await.expect("done")
    };
    call(&["CONFIG", "SET", "requirepass", "right"]).await;
    bed.source.set("REDIS_URL", format!("redis+unix://{}?pass=right", redis.socket.display()));
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    call(&["CONFIG", "SET", "requirepass", "another"]).await;
    call(&["CLIENT", "KILL", "SKIPME", "yes", "TYPE", "normal"]).await;
    producer.publish("user.created", json!({})).await;
    eventually("services that cannot sign in", async || {
        let (status, _) = stack.relay.health("ready").await?;
        (status == 503).then_some(())
    })
    .await;
    call(&["CONFIG", "SET", "requirepass", "right"]).await;
    receiver.wait_for(1).await;
    for process in [&stack.relay, &stack.deliverer] {
        process.ready().await;
    }
    bed.finish().await;
}

/// A Redis for this test, without a TCP port.
struct OwnRedis {
    child: Child,
    socket: PathBuf,
}

impl OwnRedis {
    async fn start(directory: &Path, name: &str) -> Self {
        let socket = directory.join(format!("{name}.sock"));
        let program = ["redis-server", "valkey-server"].into_iter().find_map(|program| {
            Command::new(program)
                .args(["--port", "0", "--save", "", "--appendonly", "no"])
                .arg("--unixsocket")
                .arg(&socket)
                .arg("--dir")
                .arg(directory)
                .stdout(Stdio::null())
                .spawn()
                .ok()
        });
        let redis = Self { child: program.expect("Redis is installed"), socket };
        eventually("a Redis of its own", async || UnixStream::connect(&redis.socket).await.ok()).await;
        redis
    }

    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(format!("redis+unix://{}", self.socket.display())).expect("a URL");
        client.get_multiplexed_async_connection().await.expect("Redis")
    }

    async fn call(&self, words: &[&str]) {
        let () = redis::cmd(words[0])
            .arg(&words[1..])
            .query_async(&mut self.connection().await)
            .await
            .expect("done");
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name that leads to one server now and to another later. Open connections stay with their server.
struct Name {
    path: PathBuf,
    target: Arc<Mutex<PathBuf>>,
}

impl Name {
    fn leading_to(path: PathBuf, target: &Path) -> Self {
        let listener = UnixListener::bind(&path).expect("a socket");
        let target = Arc::new(Mutex::new(target.to_owned()));
        let current = target.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = current.lock().expect("the lock").clone();
                tokio::spawn(async move {
                    let mut server = UnixStream::connect(target).await.expect("the server");
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { path, target }
    }

    fn lead_to(&self, target: &Path) {
        *self.target.lock().expect("the lock") = target.to_owned();
    }
}
