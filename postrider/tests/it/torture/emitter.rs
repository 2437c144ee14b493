//! A producer that emits in its own transactions, and repeats each one until its commit is confirmed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

use super::traffic::{Acknowledged, ORDERED_PACE};
use crate::support::{Bed, eventually};

/// Events in one transaction.
const TOGETHER: u64 = 3;
/// How long one try may take, because the proxy may swallow what is sent.
const PATIENCE: Duration = Duration::from_secs(5);

/// An event whose transaction was committed.
pub(crate) struct Emitted {
    key: String,
    number: u64,
    at: Instant,
}

pub(crate) struct Emitter {
    pub(crate) config: tokio_postgres::Config,
    pub(crate) application: String,
    pub(crate) kind: &'static str,
}

impl Emitter {
    pub(crate) async fn emit(self, stop: CancellationToken) -> Vec<Emitted> {
        let mut emitted = Vec::new();
        for first in (0..).step_by(TOGETHER as usize) {
            if stop.run_until_cancelled(tokio::time::sleep(ORDERED_PACE * TOGETHER as u32)).await.is_none() {
                break;
            }
            let began = Instant::now();
            while !matches!(tokio::time::timeout(PATIENCE, self.transaction(first)).await, Ok(Ok(()))) {
                assert!(began.elapsed() < Duration::from_secs(120), "{first} is not committed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let at = Instant::now();
            emitted.extend((first..first + TOGETHER).map(|number| Emitted {
                key: self.key(number),
                number,
                at,
            }));
        }
        emitted
    }

    /// If the connection breaks during the commit, it is unknown whether the transaction was committed.
    async fn transaction(&self, first: u64) -> Result<(), tokio_postgres::Error> {
        let (mut sql, connection) = self.config.connect(NoTls).await?;
        tokio::spawn(connection);
        let transaction = sql.transaction().await?;
        for number in first..first + TOGETHER {
            let event_type = format!("{}.happened", self.kind);
            let statement = "select postrider.emit($1, $2, jsonb_build_object('n', $3::bigint), $4)";
            let key = self.key(number);
            transaction
                .execute(
                    statement,
                    &[&self.application, &event_type, &i64::try_from(number).expect("few"), &key],
                )
                .await?;
        }
        transaction.commit().await
    }

    fn key(&self, number: u64) -> String {
        format!("{}-{number}", self.kind)
    }
}

/// Waits until everything emitted has left the inbox. Returns the events that were made.
pub(crate) async fn accepted(bed: &Bed, emitted: Vec<Emitted>) -> Vec<Acknowledged> {
    eventually("an empty inbox", async || (bed.count("select count(*) from inbox").await == 0).then_some(()))
        .await;
    let keys: Vec<_> = emitted.iter().map(|event| event.key.as_str()).collect();
    let query = "select idempotency_key, id::text from events where idempotency_key = any ($1)";
    let rows = bed.sql().await.query(query, &[&keys]).await.expect("events");
    let mut ids: HashMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let event = |Emitted { key, number, at }| Acknowledged {
        event_id: ids.remove(&key).unwrap_or_else(|| panic!("{key} was committed but is not an event")),
        number,
        at,
    };
    emitted.into_iter().map(event).collect()
}
