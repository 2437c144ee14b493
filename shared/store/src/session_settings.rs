//! What statements mean, whatever the role's or the database's own defaults say.

use tokio_postgres::Client;

use crate::StoreError;
use crate::sql::Sql;

/// Where all tables are, whoever connects and whatever else is in the database: PostgreSQL's own default looks first
/// into a schema of the role's name, which might be this one or not.
pub(super) const SCHEMA: &str = "postrider";

/// Settings that change what a statement does, or how PostgreSQL writes a value. (`client_encoding` is set by the
/// client library; whether writes are allowed is the operator's to say.)
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
    // Sessions that listen are silent for long.
    ("idle_session_timeout", "0"),
];

/// The settings as start-up options, where a space within a value is escaped.
pub(super) fn options() -> String {
    let option = |(name, value): &(&str, &str)| format!("-c {name}={}", value.replace(' ', "\\ "));
    SETTINGS.iter().map(option).collect::<Vec<_>>().join(" ")
}

/// A value as PostgreSQL shows it may say more: `ISO, MDY`, `Etc/UTC`. (A backslash might mean itself here, or not.)
const DIFFERENT: Sql = Sql::named(
    "-- session.different_settings
select s.name, s.value as needed, current_setting(s.name) as current
from unnest($1::text[], $2::text[]) with ordinality as s (name, value, position)
where current_setting(s.name) !~* ('(^|[^a-z0-9_-])' || s.value || '($|[^a-z0-9_-])')
order by s.position
limit 1",
);

/// Refuses a session in which a setting is another: a pooler has not passed it on.
///
/// # Errors
/// With a sentence that says what to do, or when PostgreSQL does not answer.
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

/// Refuses a database that cannot hold every character.
///
/// # Errors
/// With a sentence that says what to do, or when PostgreSQL does not answer.
pub(super) async fn check_encoding(client: &Client) -> Result<(), StoreError> {
    let row = ENCODING.fetch_one(client, &[]).await?;
    match row.get("encoding") {
        "UTF8" => Ok(()),
        encoding => {
            Err(StoreError::WrongEncoding { database: row.get("database"), encoding: encoding.to_owned() })
        }
    }
}
