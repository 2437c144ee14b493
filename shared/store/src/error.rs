//! What can go wrong with PostgreSQL, sorted by what to do about it.

use deadpool_postgres::PoolError;
use postrider_domain::ids::EndpointId;
use tokio_postgres::error::SqlState;

use crate::sessions;

/// A statement that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection could be had: the server is away or too busy. Try again later.
    #[error("PostgreSQL cannot be reached: {}", why(.0))]
    Pool(#[source] Box<PoolError>),
    /// The statement failed.
    #[error("database error: {}", describe(.0))]
    Database(#[source] tokio_postgres::Error),
    /// The server has not responded within the time that a sign of life may take.
    #[error("PostgreSQL does not respond")]
    NoResponse,
    /// An idempotency key expired between two statements.
    #[error("an idempotency key expired while it was looked at; try again")]
    KeyExpired,
    /// A stored value is not what this program can have written.
    #[error("PostgreSQL returned a value that cannot be read: {what}: {reason}")]
    Unreadable {
        /// The value.
        what: String,
        /// What is wrong with it.
        reason: Cause,
    },
    /// There is no schema.
    #[error("the database does not have a Postrider schema yet: run `postrider migrate`")]
    NoSchema,
    /// The schema was made for an older program.
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
    /// The schema was made for a newer program.
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
    /// A setting of the session is not what the statements rely on.
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
    /// There is nothing to encrypt with.
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

/// What another crate found wrong with a value.
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
            // The server has answered.
            PoolError::Backend(error) if error.code().is_some() => error.into(),
            other => Self::Pool(Box::new(other)),
        }
    }
}

impl StoreError {
    /// A value that PostgreSQL returned and that this program cannot read.
    pub(crate) fn unreadable(what: String, reason: impl Into<Cause>) -> Self {
        Self::Unreadable { what, reason: reason.into() }
    }

    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Database(error) => error.code(),
            _ => None,
        }
    }

    /// True when the data of an item is at fault (SQLSTATE classes 22, 23, 53 and 54): found by trying
    /// the items of a batch one by one.
    #[must_use]
    pub fn is_data_error(&self) -> bool {
        // Of class 53, a full disk and too many connections are not the item's fault, nor of class 23 a
        // partition that nobody has made.
        self.code().is_some_and(|code| {
            let class = &code.code()[..2];
            matches!(class, "22" | "23" | "54") || *code == SqlState::OUT_OF_MEMORY
        }) && !self.is_missing_partition()
    }

    /// True when another transaction held a row for too long, or both waited for each other: it may
    /// succeed when it is tried again, or without the item that is blocked.
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

    /// True when what another transaction held for too long is an idempotency key: the item that has this key is to
    /// blame, and no other.
    #[must_use]
    pub fn is_contention_for_key(&self) -> bool {
        let Self::Database(error) = self else { return false };
        // "while inserting index tuple … in relation "idempotency_keys"", in the server's language. A lock of the whole
        // table is waited for before that.
        let context = error.as_db_error().and_then(|error| error.where_());
        self.is_contention() && context.is_some_and(|context| context.contains("idempotency_keys"))
    }

    /// True when the statement took longer than a statement may: PostgreSQL is slow, or an item of a batch costs too
    /// much, which is found by trying them one by one.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.code() == Some(&SqlState::QUERY_CANCELED)
    }

    /// True when PostgreSQL is away, starting, stopping, out of room or too slow, [refuses](Self::is_refusal) this
    /// program, or the session is outdated: not the statement's fault, and worth another try later.
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

    /// True when any statement would fail now: PostgreSQL is away or out of room, or does not let this role do what
    /// it has to. Every other error may be the fault of one item of a batch, and is none of the other items.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match (self, self.code()) {
            (Self::Pool(_) | Self::NoResponse, _) | (Self::Database(_), None) => true,
            (_, None) => self.is_misconfigured(),
            (_, Some(code)) => {
                let is_general = matches!(&code.code()[..2], "08" | "42" | "53" | "57")
                    || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                    || self.is_refusal();
                // An item may need more memory or time than there is.
                is_general && ![SqlState::OUT_OF_MEMORY, SqlState::QUERY_CANCELED].contains(code)
            }
        }
    }

    /// True when the server does not let this role in, takes no connections for this database or does not know it, or
    /// the role may not use a table, or there is no such table. Somebody has changed that, and will change it again.
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

    /// True when no waiting helps: the database is not as it must be, or the server refuses the role or knows no such
    /// database.
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

    /// True when there is no partition of `delivery_attempts` for an attempt any more.
    #[must_use]
    pub fn has_no_place_for_attempt(&self) -> bool {
        let Self::Database(error) = self else { return false };
        self.is_missing_partition()
            && error.as_db_error().and_then(|error| error.table()) == Some("delivery_attempts")
    }

    /// True when no partition is there for a row: the relay has not run for a week.
    fn is_missing_partition(&self) -> bool {
        let Self::Database(error) = self else { return false };
        error.as_db_error().is_some_and(|error| {
            // The code is that of a failed check, of which every other one has a name.
            *error.code() == SqlState::CHECK_VIOLATION && error.constraint().is_none()
        })
    }

    /// True when a unique constraint was violated.
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        self.code() == Some(&SqlState::UNIQUE_VIOLATION)
    }
}

/// What lies behind the pool's own words, where something does.
fn why(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// The server's words without the statement or its parameters, which may hold payloads.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(database) => format!("{} ({})", database.message(), database.code().code()),
        None => error.to_string(),
    }
}
