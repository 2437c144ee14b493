//! The schema: applied by refinery under an advisory lock, and checked by every service at its start.

use crate::DatabaseConfig;
use crate::connect::connect_unlimited;
use crate::session_settings::{self, SCHEMA};
use crate::{Store, StoreError};

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// Keeps two migrations from running at once.
const MIGRATION_LOCK: i64 = 0x706f_7374_0001;

/// A migration that has been applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Its number.
    pub version: i32,
    /// Its name.
    pub name: String,
}

/// Brings the schema to the version of this program, and says what was done. Services may run meanwhile.
///
/// # Errors
/// When PostgreSQL cannot be reached, the database is not UTF-8, or a migration fails; each is applied wholly or not at
/// all.
pub async fn migrate(config: &DatabaseConfig) -> Result<Vec<Applied>, StoreError> {
    let mut client = connect_unlimited(config).await?;
    session_settings::check_encoding(&client).await?;
    session_settings::check(&client).await?;
    // The lock ends with the session.
    client.execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    create_schema(&client).await?;
    let report = embedded::migrations::runner()
        .set_abort_missing(false)
        .run_async(&mut client)
        .await
        .map_err(|error| StoreError::Schema(format!("the migration failed: {}", with_causes(&error))))?;
    let applied = report.applied_migrations().iter();
    Ok(applied.map(|done| Applied { version: done.version(), name: done.name().to_owned() }).collect())
}

/// Whoever may not create schemas can be given one.
async fn create_schema(client: &tokio_postgres::Client) -> Result<(), StoreError> {
    let find = "select from pg_namespace where nspname = $1";
    if client.query_opt(find, &[&SCHEMA]).await?.is_none() {
        client.batch_execute(&format!("create schema {SCHEMA}")).await?;
    }
    Ok(())
}

/// An error and what caused it: PostgreSQL's own words come last.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The schema version that this program was built with.
#[must_use]
pub fn needed_version() -> i32 {
    let migrations = embedded::migrations::runner();
    migrations.get_migrations().iter().map(refinery::Migration::version).max().unwrap_or(0)
}

/// Refuses a database that is not UTF-8, a session that is not as it must be, a schema older than this program needs,
/// and a newer one that says it would break it.
///
/// # Errors
/// With a sentence that says what to do.
pub async fn check_schema(store: &Store) -> Result<(), StoreError> {
    let client = store.durable().await?;
    session_settings::check_encoding(&client).await?;
    session_settings::check(&client).await?;
    let needed = needed_version();
    let missing = || {
        StoreError::Schema(
            "the database does not have a Postrider schema yet: run `postrider migrate`".to_owned(),
        )
    };
    let exists = client
        .query_one(
            "select to_regclass('refinery_schema_history') is not null and \
                    to_regclass('schema_compatibility') is not null",
            &[],
        )
        .await?;
    if !exists.get::<_, bool>(0) {
        return Err(missing());
    }
    let row = client
        .query_one(
            "-- schema.version
             select (select max(version) from refinery_schema_history),
                    (select oldest_compatible_version from schema_compatibility)",
            &[],
        )
        .await?;
    let current = row.get::<_, Option<i32>>(0).ok_or_else(missing)?;
    let oldest: i32 = row.get(1);
    if current < needed {
        return Err(StoreError::Schema(format!(
            "the database has schema version {current}, but this program requires version {needed}: run \
             `postrider migrate`"
        )));
    }
    if needed < oldest {
        return Err(StoreError::Schema(format!(
            "the database has schema version {current}, which only supports programs for version {oldest} \
             or newer; this program is for version {needed}: use a newer program"
        )));
    }
    Ok(())
}
