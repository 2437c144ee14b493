//! Errors of PostgreSQL, classified by what to do about them.

use deadpool_postgres::PoolError;
use postrider_domain::ids::EndpointId;
use tokio_postgres::error::SqlState;

use crate::sessions;

/// A failed statement, or a database that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection was available: the server is unreachable or too busy. Try again later.
    #[error("PostgreSQL cannot be reached: {}", why(.0))]
    Pool(#[source] Box<PoolError>),
    /// The statement failed.
    #[error("database error: {}", describe(.0))]
    Database(#[source] tokio_postgres::Error),
    /// The server did not respond to a check in time.
    #[error("PostgreSQL does not respond")]
    NoResponse,
    /// An idempotency key expired between two statements.
    #[error("an idempotency key expired while it was being checked; try again")]
    KeyExpired,
    /// A stored value is not one that this program can have written.
    #[error("PostgreSQL returned a value that cannot be read: {what}: {reason}")]
    Unreadable {
        /// Which value it is.
        what: String,
        /// What is wrong with it.
        reason: Cause,
    },
    /// The database has no schema.
    #[error("the database does not have a Postrider schema yet: run `postrider migrate`")]
    NoSchema,
    /// The schema is for an older program.
    #[error(
        "the database has schema version {current}, but this program requires version {needed}: run \
         `postrider migrate`"
    )]
    SchemaTooOld {
        /// The version of the schema.
        current: i32,
        /// The version that this program was built with.
        needed: i32,
    },
    /// The schema is for a newer program.
    #[error(
        "the database has schema version {current}, which only supports programs for version {oldest} or newer; \
         this program is for version {needed}: use a newer program"
    )]
    SchemaTooNew {
        /// The version of the schema.
        current: i32,
        /// The oldest version whose programs can use the schema.
        oldest: i32,
        /// The version that this program was built with.
        needed: i32,
    },
    /// A migration failed.
    #[error("the migration failed")]
    Migration(#[source] Box<refinery::Error>),
    /// A session setting differs from the one that the statements rely on.
    #[error(
        "the database session has `{name}` = `{current}`, but Postrider requires `{needed}`. A connection pooler \
         does not pass the setting on: run `alter role … set {name} = '{needed}'`"
    )]
    WrongSetting {
        /// The name of the setting.
        name: String,
        /// The value that Postrider requires.
        needed: String,
        /// The value that the session has.
        current: String,
    },
    /// The database cannot store every character.
    #[error(
        "the database `{database}` has the encoding {encoding}, which cannot store every character: create a \
         database with `create database … encoding 'UTF8' template template0` and use that"
    )]
    WrongEncoding {
        /// The name of the database.
        database: String,
        /// Its encoding.
        encoding: String,
    },
    /// Secrets are encrypted with a master key that this program does not have.
    #[error(
        "secrets are encrypted with the master key `{0}`, which is not in POSTRIDER_MASTER_KEY: add it after the \
         other keys, and run `postrider rekey` if you want to remove it"
    )]
    MissingMasterKey(String),
    /// No master key is configured to encrypt with.
    #[error("there is no master key to encrypt with: set POSTRIDER_MASTER_KEY")]
    NoMasterKey,
    /// A secret of an endpoint cannot be read.
    #[error("endpoint {endpoint}: {reason}")]
    Secret {
        /// The endpoint.
        endpoint: EndpointId,
        /// Why it cannot be read.
        reason: Cause,
    },
}

/// The error of another crate about a value.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        sessions::note(&error);
        Self::Database(error)
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            // The server responded with an error.
            PoolError::Backend(error) if error.code().is_some() => error.into(),
            other => Self::Pool(Box::new(other)),
        }
    }
}

impl StoreError {
    /// Creates an error for a value that PostgreSQL returned and that this program cannot read.
    pub(crate) fn unreadable(what: String, reason: impl Into<Cause>) -> Self {
        Self::Unreadable { what, reason: reason.into() }
    }

    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Database(error) => error.code(),
            _ => None,
        }
    }

    /// Returns true if the data of an item is at fault (SQLSTATE classes 22, 23, 53 and 54). Which item it is can be
    /// found by trying the items of a batch one by one.
    #[must_use]
    pub fn is_data_error(&self) -> bool {
        // In class 53, a full disk and too many connections are not the item's fault. Neither is a missing partition,
        // in class 23.
        self.code().is_some_and(|code| {
            let class = &code.code()[..2];
            matches!(class, "22" | "23" | "54") || *code == SqlState::OUT_OF_MEMORY
        }) && !self.is_missing_partition()
    }

    /// Returns true if another transaction held a row lock for too long, or there was a deadlock. The statement may
    /// succeed if it is retried, or without the blocked item.
    #[must_use]
    pub fn is_contention(&self) -> bool {
        self.code().is_some_and(|code| {
            [
                SqlState::LOCK_NOT_AVAILABLE,
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
            ]
            .contains(code)
        })
    }

    /// Returns true if another transaction held an idempotency key for too long. Only the item with this key is at
    /// fault.
    #[must_use]
    pub fn is_contention_for_key(&self) -> bool {
        let Self::Database(error) = self else { return false };
        // The context is "while inserting index tuple … in relation "idempotency_keys"", in the server's language. A
        // lock on the whole table is waited for before that.
        let context = error.as_db_error().and_then(|error| error.where_());
        self.is_contention() && context.is_some_and(|context| context.contains("idempotency_keys"))
    }

    /// Returns true if the statement exceeded its timeout: PostgreSQL is slow, or an item of the batch costs too much.
    /// Which item it is can be found by trying the items one by one.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.code() == Some(&SqlState::QUERY_CANCELED)
    }

    /// Returns true if PostgreSQL is unreachable, starting, stopping, out of resources or too slow, if it
    /// [refuses](Self::is_refusal) this program, or if the session is outdated. The statement is not at fault, and can
    /// be retried later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match (self, self.code()) {
            (Self::Pool(_) | Self::NoResponse | Self::KeyExpired, _) | (Self::Database(_), None) => true,
            (Self::Database(error), _) if sessions::is_stale_statement(error) => true,
            // A primary that has become a standby is read-only.
            (_, Some(code)) => {
                matches!(&code.code()[..2], "08" | "53" | "57" | "58")
                    || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                    || self.is_refusal()
                    || self.is_missing_partition()
            }
            (_, None) => false,
        }
    }

    /// Returns true if every statement would fail now: PostgreSQL is unavailable or out of resources, or does not
    /// permit the role what it needs. Any other error may be the fault of one item of a batch, but not of the others.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match (self, self.code()) {
            (Self::Pool(_) | Self::NoResponse, _) | (Self::Database(_), None) => true,
            (_, None) => self.is_misconfigured(),
            (_, Some(code)) => {
                let is_general = matches!(&code.code()[..2], "08" | "42" | "53" | "57")
                    || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                    || self.is_refusal();
                // A single item may need more memory or time than is available.
                is_general && ![SqlState::OUT_OF_MEMORY, SqlState::QUERY_CANCELED].contains(code)
            }
        }
    }

    /// Returns true if the server refuses this role, accepts no connections for this database or does not know it, if
    /// the role may not use a table, or if the table does not exist. An administrator has changed this, and can correct
    /// it while the services run.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.code().is_some_and(|code| {
            matches!(&code.code()[..2], "28" | "3D")
                || [
                    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    SqlState::INSUFFICIENT_PRIVILEGE,
                    SqlState::UNDEFINED_TABLE,
                ]
                .contains(code)
        })
    }

    /// Returns true if waiting does not help: the database is not in the required state, or the server refuses the role
    /// or does not know the database.
    #[must_use]
    pub fn is_misconfigured(&self) -> bool {
        match self {
            Self::NoSchema
            | Self::SchemaTooOld { .. }
            | Self::SchemaTooNew { .. }
            | Self::WrongSetting { .. }
            | Self::WrongEncoding { .. }
            | Self::MissingMasterKey(_)
            | Self::NoMasterKey => true,
            Self::Database(_) => self
                .code()
                .is_some_and(|code| code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME),
            Self::Pool(_)
            | Self::NoResponse
            | Self::KeyExpired
            | Self::Unreadable { .. }
            | Self::Migration(_)
            | Self::Secret { .. } => false,
        }
    }

    /// Returns true if the partition of `delivery_attempts` for an attempt no longer exists.
    #[must_use]
    pub fn has_no_place_for_attempt(&self) -> bool {
        let Self::Database(error) = self else { return false };
        self.is_missing_partition()
            && error.as_db_error().and_then(|error| error.table()) == Some("delivery_attempts")
    }

    /// Returns true if there is no partition for a row, for example because no relay has run for a week.
    fn is_missing_partition(&self) -> bool {
        let Self::Database(error) = self else { return false };
        error.as_db_error().is_some_and(|error| {
            // The code is that of a violated check constraint, but all other violations name their constraint.
            *error.code() == SqlState::CHECK_VIOLATION && error.constraint().is_none()
        })
    }

    /// Returns true if a unique constraint was violated.
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        self.code() == Some(&SqlState::UNIQUE_VIOLATION)
    }
}

/// Returns the cause of a pool error, if it has one.
fn why(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// Returns the server's message without the statement and its parameters, which may contain payloads.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(database) => format!("{} ({})", database.message(), database.code().code()),
        None => error.to_string(),
    }
}
