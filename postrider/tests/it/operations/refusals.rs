//! PostgreSQL is up but refuses, which is not a defect of Postrider.

use serde_json::json;
use tokio_postgres::Client;

use crate::support::producer::Producer;
use crate::support::service::Process;
use crate::support::{Bed, connect, eventually};

/// What is done to the server, how it is undone, and the error that PostgreSQL then reports.
struct Refusal {
    done: String,
    undone: String,
    code: &'static str,
}

impl Refusal {
    fn new(done: impl Into<String>, undone: impl Into<String>, code: &'static str) -> Self {
        Self { done: done.into(), undone: undone.into(), code }
    }
}

async fn execute(client: &Client, statements: &str) {
    // One by one, because some cannot be part of a transaction.
    for statement in statements.split(';') {
        client.batch_execute(statement).await.expect(statement);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_refused_by_postgresql_responds_503_and_says_why() {
    let mut bed = Bed::new().await;
    let (name, role) = (bed.name.clone(), format!("{}_role", bed.name));
    let server = connect(&bed.maintenance().parse().expect("a URL")).await;
    let sql = bed.sql().await;
    execute(
        &sql,
        &format!(
            "create role {role} login;
             grant all on schema postrider to {role};
             grant all on all tables in schema postrider to {role};
             grant all on all sequences in schema postrider to {role};
             grant all on all functions in schema postrider to {role}"
        ),
    )
    .await;
    drop(sql);
    let url =
        bed.source.get("DATABASE_URL").expect("it was set").replace("user=postgres", &format!("user={role}"));
    assert!(url.contains(&role), "{url}");
    bed.source.set("DATABASE_URL", url);
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let producer = Producer::new(api.listen).await;
    // Sessions that are already connected would not be refused.
    let end = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
    let closed = format!("alter database {name} allow_connections false; {end}");
    let opened = |name: &str| format!("alter database {name} allow_connections true");
    for Refusal { done, undone, code } in [
        Refusal::new(
            format!("alter role {role} nologin; {end}"),
            format!("alter role {role} login"),
            "28000",
        ),
        Refusal::new(closed.clone(), opened(&name), "55000"),
        Refusal::new(
            format!("{closed}; select pg_sleep(0.1); alter database {name} rename to {name}_away"),
            format!("alter database {name}_away rename to {name}; {}", opened(&name)),
            "3D000",
        ),
    ] {
        execute(&server, &done).await;
        eventually(&format!("503 for {code}"), async || {
            let response = producer.try_publish(code, "user.created", &json!({})).await.expect("a response");
            let status = response.status().as_u16();
            assert!(matches!(status, 202 | 503), "{code}: {status}");
            (status == 503 && response.headers().contains_key("retry-after")).then_some(())
        })
        .await;
        let (status, answer) = producer.call(reqwest::Method::GET, &producer.path(""), None).await;
        assert_eq!((status.as_u16(), &answer["code"]), (503, &json!("unavailable")), "{code}: {answer}");
        eventually(&format!("the reason {code}"), async || {
            let (status, answer) = api.health("ready").await?;
            let reason = answer["parts"]["api_postgresql"]["reason"].as_str()?;
            (status == 503 && reason.contains(code)).then_some(())
        })
        .await;
        execute(&server, &undone).await;
        producer.publish_until_accepted(code, "user.created", &json!({})).await;
        api.ready().await;
    }
    let sql = bed.sql_as_owner().await;
    for (key, done, undone) in [
        (
            "privilege",
            format!("revoke insert on events from {role}"),
            format!("grant insert on events to {role}"),
        ),
        (
            "table",
            "alter table events rename to events_away".to_owned(),
            "alter table events_away rename to events".to_owned(),
        ),
    ] {
        execute(&sql, &done).await;
        let response = producer.try_publish(key, "user.created", &json!({})).await.expect("a response");
        assert_eq!(response.status().as_u16(), 503, "{done}");
        assert!(response.headers().contains_key("retry-after"), "{done}");
        execute(&sql, &undone).await;
        producer.publish_until_accepted(key, "user.created", &json!({})).await;
    }
    drop((sql, api));
    bed.finish().await;
    execute(&server, &format!("drop role {role}")).await;
}
