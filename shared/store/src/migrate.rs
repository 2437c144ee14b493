//! The schema. refinery applies it under an advisory lock, and every service checks it at its start.

use crate::DatabaseConfig;
use crate::connect::connect_unlimited;
use crate::session_settings::{self, SCHEMA};
use crate::sql::Sql;
use crate::{Store, StoreError};

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// The advisory lock that keeps two migrations from running at the same time.
const MIGRATION_LOCK: i64 = 0x706f_7374_0001;

const LOCK: Sql = Sql::named("-- schema.lock\nselect pg_advisory_lock($1) as locked");

const FIND_SCHEMA: Sql = Sql::named("-- schema.find\nselect oid from pg_namespace where nspname = $1");

const EXISTS: Sql = Sql::named(
    "-- schema.exists
select to_regclass('refinery_schema_history') is not null and to_regclass('schema_compatibility') is not null
       as is_there",
);

const VERSION: Sql = Sql::named(
    "-- schema.version
select (select max(version) from refinery_schema_history) as current,
       (select oldest_compatible_version from schema_compatibility) as oldest",
);

/// A migration that has been applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The number of the migration.
    pub version: i32,
    /// The name of the migration.
    pub name: String,
}

/// Migrates the schema to the version of this program. Returns the migrations that were applied. Services may run at
/// the same time.
///
/// # Errors
/// [`StoreError`] if PostgreSQL cannot be reached, the database is not UTF-8, or a migration fails. Each migration is
/// atomic.
pub async fn migrate(config: &DatabaseConfig) -> Result<Vec<Applied>, StoreError> {
    let mut client = connect_unlimited(config).await?;
    session_settings::check_encoding(&client).await?;
    session_settings::check(&client).await?;
    // The lock ends with the session.
    LOCK.execute(&client, &[&MIGRATION_LOCK]).await?;
    create_schema(&client).await?;
    let report = embedded::migrations::runner()
        .set_abort_missing(false)
        .run_async(&mut client)
        .await
        .map_err(|error| StoreError::Migration(Box::new(error)))?;
    let applied = report.applied_migrations().iter();
    Ok(applied.map(|done| Applied { version: done.version(), name: done.name().to_owned() }).collect())
}

/// Creates the schema only if it is missing, so that a role that may not create schemas can use an existing one.
async fn create_schema(client: &tokio_postgres::Client) -> Result<(), StoreError> {
    if FIND_SCHEMA.fetch_optional(client, &[&SCHEMA]).await?.is_none() {
        client.batch_execute(&format!("-- schema.create\ncreate schema {SCHEMA}")).await?;
    }
    Ok(())
}

/// Returns the schema version that this program was built with.
#[must_use]
pub fn needed_version() -> i32 {
    let migrations = embedded::migrations::runner();
    migrations.get_migrations().iter().map(refinery::Migration::version).max().unwrap_or(0)
}

/// Checks that the database is UTF-8, that the session has the required settings, and that the schema is neither older
/// than this program requires nor a newer one that is marked as incompatible.
///
/// # Errors
/// [`StoreError`] with a sentence that says what to do.
pub async fn check_schema(store: &Store) -> Result<(), StoreError> {
    let client = store.durable().await?;
    session_settings::check_encoding(&client).await?;
    session_settings::check(&client).await?;
    let needed = needed_version();
    if !EXISTS.fetch_one(&client, &[]).await?.get::<_, bool>("is_there") {
        return Err(StoreError::NoSchema);
    }
    let row = VERSION.fetch_one(&client, &[]).await?;
    let current = row.get::<_, Option<i32>>("current").ok_or(StoreError::NoSchema)?;
    let oldest: i32 = row.get("oldest");
    if current < needed {
        return Err(StoreError::SchemaTooOld { current, needed });
    }
    if needed < oldest {
        return Err(StoreError::SchemaTooNew { current, oldest, needed });
    }
    Ok(())
}
