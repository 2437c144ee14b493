//! The statements that PostgreSQL spent its time on, from `pg_stat_statements`.

use anyhow::Context as _;
use serde::Serialize;
use tokio_postgres::{Client, NoTls};

/// Maximum statements in the report.
const SHOWN: i64 = 20;

const TOP: &str = "-- bench.statements
select
    query, calls, total_exec_time, mean_exec_time, rows, shared_blks_hit + shared_blks_read as pages,
    wal_bytes::float8 as wal_bytes, plans, total_plan_time
from pg_stat_statements
where dbid = (select oid from pg_database where datname = current_database()) and query not like '-- bench.%'
order by total_exec_time + total_plan_time desc
limit $1";

/// A statement and its costs.
#[derive(Debug, Clone, Serialize)]
pub struct Statement {
    /// Its name (`noun.verb`), or its beginning if it has no name.
    pub name: String,
    /// Number of executions.
    pub calls: i64,
    /// Total execution time, without planning.
    pub total_ms: f64,
    /// Mean execution time.
    pub mean_ms: f64,
    /// Number of times it was planned: a few times per session, or for every execution.
    pub plans: i64,
    /// Total planning time.
    pub planning_ms: f64,
    /// Mean rows returned or changed per execution.
    pub rows_per_call: f64,
    /// Mean pages accessed per execution.
    pub pages_per_call: f64,
    /// Mean bytes of WAL per execution.
    pub wal_bytes_per_call: f64,
}

/// A session of its own, separate from those that are measured.
pub(crate) struct Statements(Client);

impl Statements {
    /// Connects and prepares to count.
    pub(crate) async fn start(database_url: &str) -> anyhow::Result<Self> {
        let (client, connection) = tokio_postgres::connect(database_url, NoTls).await?;
        tokio::spawn(connection);
        client
            .batch_execute("-- bench.extension\ncreate extension if not exists pg_stat_statements")
            .await
            .context("pg_stat_statements is not installed (Debian: it is part of `postgresql`)")?;
        Ok(Self(client))
    }

    /// Resets the counters.
    pub(crate) async fn reset(&self) -> anyhow::Result<()> {
        Ok(self.0.batch_execute("-- bench.reset\nselect pg_stat_statements_reset()").await?)
    }

    /// Returns the most expensive statements since the last reset.
    pub(crate) async fn top(&self) -> anyhow::Result<Vec<Statement>> {
        let rows = self.0.query(TOP, &[&SHOWN]).await?;
        let per_call = |value: f64, calls: i64| value / calls.max(1) as f64;
        let statement = |row: &tokio_postgres::Row| {
            let calls: i64 = row.get("calls");
            Statement {
                name: name(row.get("query")),
                calls,
                total_ms: row.get("total_exec_time"),
                mean_ms: row.get("mean_exec_time"),
                rows_per_call: per_call(row.get::<_, i64>("rows") as f64, calls),
                pages_per_call: per_call(row.get::<_, i64>("pages") as f64, calls),
                wal_bytes_per_call: per_call(row.get("wal_bytes"), calls),
                plans: row.get("plans"),
                planning_ms: row.get("total_plan_time"),
            }
        };
        Ok(rows.iter().map(statement).collect())
    }
}

/// Returns the name in the first line of a statement, or the beginning of the statement.
fn name(query: &str) -> String {
    const LONGEST: usize = 32;
    let first = query.trim_start().lines().next().unwrap_or_default();
    first.strip_prefix("-- ").unwrap_or(first).trim().chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_statement_is_known_by_its_first_line() {
        assert_eq!(super::name("-- outbox.take\nwith taken as (…)"), "outbox.take");
        assert_eq!(super::name("\n  COMMIT"), "COMMIT");
        assert_eq!(super::name(&"x".repeat(100)).len(), 32);
    }
}
