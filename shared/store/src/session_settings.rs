//! Session settings that determine what statements mean, whatever the defaults of the role or the database are.

use tokio_postgres::Client;

use crate::StoreError;
use crate::sql::Sql;

/// The schema of all tables. It is fixed, because PostgreSQL's default looks first in a schema with the name of the
/// role, which may or may not be this one.
pub(super) const SCHEMA: &str = "postrider";

/// Settings that change what a statement does, or how PostgreSQL formats a value. `client_encoding` is set by the
/// client library. Whether writes are allowed is up to the operator.
const SETTINGS: [(&str, &str); 13] = [
    ("search_path", SCHEMA),
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // Sessions that listen are silent for a long time.
    ("idle_session_timeout", "0"),
];

/// Formats the settings as start-up options. A space within a value is escaped.
pub(super) fn options() -> String {
    let option = |(name, value): &(&str, &str)| format!("-c {name}={}", value.replace(' ', "\\ "));
    SETTINGS.iter().map(option).collect::<Vec<_>>().join(" ")
}

/// PostgreSQL may show more than the value that was set: `ISO, MDY`, `Etc/UTC`. The pattern uses no backslash, because
/// its meaning depends on a setting.
const DIFFERENT: Sql = Sql::named(
    "-- session.different_settings
select s.name, s.value as needed, current_setting(s.name) as current
from unnest($1::text[], $2::text[]) with ordinality as s (name, value, position)
where current_setting(s.name) !~* ('(^|[^a-z0-9_-])' || s.value || '($|[^a-z0-9_-])')
order by s.position
limit 1",
);

/// Checks that the session has these settings. A pooler may not have passed them on.
///
/// # Errors
/// [`StoreError::WrongSetting`] with a sentence that says what to do, or another [`StoreError`] if the statement fails.
pub(super) async fn check(client: &Client) -> Result<(), StoreError> {
    let (names, values): (Vec<_>, Vec<_>) = SETTINGS.into_iter().unzip();
    match DIFFERENT.fetch_optional(client, &[&names, &values]).await? {
        None => Ok(()),
        Some(row) => Err(StoreError::WrongSetting {
            name: row.get("name"),
            needed: row.get("needed"),
            current: row.get("current"),
        }),
    }
}

const ENCODING: Sql = Sql::named(
    "-- database.encoding
select current_database()::text as database, pg_encoding_to_char(encoding)::text as encoding
from pg_database where datname = current_database()",
);

/// Checks that the database can store every character.
///
/// # Errors
/// [`StoreError::WrongEncoding`] with a sentence that says what to do, or another [`StoreError`] if the statement
/// fails.
pub(super) async fn check_encoding(client: &Client) -> Result<(), StoreError> {
    let row = ENCODING.fetch_one(client, &[]).await?;
    match row.get("encoding") {
        "UTF8" => Ok(()),
        encoding => {
            Err(StoreError::WrongEncoding { database: row.get("database"), encoding: encoding.to_owned() })
        }
    }
}
