//! Statements that have names, and rows whose columns are read by name.

use deadpool_postgres::{Object, Transaction};
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Error, GenericClient, Row, Statement};

use crate::StoreError;

/// A statement. Its first line is a comment that names it, such as `-- deliveries.retry`. `pg_stat_statements` and the
/// logs of PostgreSQL show the name.
#[derive(Debug, Clone, Copy)]
pub struct Sql(&'static str);

/// The values of `$1`, `$2` and so on.
pub type Parameters<'a> = [&'a (dyn ToSql + Sync)];

impl Sql {
    /// Creates a statement.
    ///
    /// # Panics
    /// If the text does not begin with its name. In a constant, that is a compile error.
    #[must_use]
    pub const fn named(text: &'static str) -> Self {
        assert!(is_named(text.as_bytes()), "a statement begins with its name, such as `-- deliveries.retry`");
        Self(text)
    }

    /// Returns the statement, including its name.
    #[must_use]
    pub const fn text(self) -> &'static str {
        self.0
    }

    /// Prepares the statement. Sessions of a pool cache it.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be prepared.
    pub async fn prepare(self, session: &impl Session) -> Result<Statement, StoreError> {
        Ok(session.prepare(self).await?)
    }

    /// Returns all rows.
    ///
    /// # Errors
    /// [`StoreError`] if the statement fails.
    pub async fn fetch_all(
        self,
        session: &impl Session,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let statement = session.prepare(self).await?;
        Ok(session.client().query(&statement, parameters).await?)
    }

    /// Returns the only row.
    ///
    /// # Errors
    /// [`StoreError`] if the statement fails.
    pub async fn fetch_one(
        self,
        session: &impl Session,
        parameters: &Parameters<'_>,
    ) -> Result<Row, StoreError> {
        let statement = session.prepare(self).await?;
        Ok(session.client().query_one(&statement, parameters).await?)
    }

    /// Returns the row, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] if the statement fails.
    pub async fn fetch_optional(
        self,
        session: &impl Session,
        parameters: &Parameters<'_>,
    ) -> Result<Option<Row>, StoreError> {
        let statement = session.prepare(self).await?;
        Ok(session.client().query_opt(&statement, parameters).await?)
    }

    /// Returns the number of rows that were changed.
    ///
    /// # Errors
    /// [`StoreError`] if the statement fails.
    pub async fn execute(
        self,
        session: &impl Session,
        parameters: &Parameters<'_>,
    ) -> Result<u64, StoreError> {
        let statement = session.prepare(self).await?;
        Ok(session.client().execute(&statement, parameters).await?)
    }
}

/// Returns true for a text whose first line is `-- <table>.<verb>`.
const fn is_named(text: &[u8]) -> bool {
    let (mut at, mut dots) = (3, 0);
    if !matches!(text, [b'-', b'-', b' ', b'a'..=b'z', ..]) {
        return false;
    }
    while at < text.len() && text[at] != b'\n' {
        match text[at] {
            b'a'..=b'z' | b'_' => {}
            b'.' => dots += 1,
            _ => return false,
        }
        at += 1;
    }
    dots == 1 && text[at - 1] != b'.'
}

/// Where statements run: a pooled connection, a transaction on one, or a dedicated connection.
pub trait Session: Sync {
    /// Returns the client that runs prepared statements.
    fn client(&self) -> &(impl GenericClient + Sync);

    /// Prepares a statement, or returns it if this session already has it.
    fn prepare(&self, sql: Sql) -> impl Future<Output = Result<Statement, Error>> + Send;
}

impl Session for Object {
    fn client(&self) -> &(impl GenericClient + Sync) {
        &***self
    }

    async fn prepare(&self, sql: Sql) -> Result<Statement, Error> {
        self.prepare_cached(sql.0).await
    }
}

impl Session for Transaction<'_> {
    fn client(&self) -> &(impl GenericClient + Sync) {
        &**self
    }

    async fn prepare(&self, sql: Sql) -> Result<Statement, Error> {
        self.prepare_cached(sql.0).await
    }
}

impl Session for Client {
    fn client(&self) -> &(impl GenericClient + Sync) {
        self
    }

    async fn prepare(&self, sql: Sql) -> Result<Statement, Error> {
        Client::prepare(self, sql.0).await
    }
}

/// The columns of a row, by name.
///
/// Reading the column after the previous one takes a single comparison. A type that reads its columns in the order of
/// the statement therefore costs the same as one that uses their positions. Any other column is searched for.
pub struct Columns<'a> {
    row: &'a Row,
    next: usize,
}

impl<'a> Columns<'a> {
    /// Reads a column.
    ///
    /// # Panics
    /// If the statement does not return this column, or not with this type. Statements are constants, and a test covers
    /// each of them.
    pub fn get<T: FromSql<'a>>(&mut self, name: &str) -> T {
        let columns = self.row.columns();
        let at = match columns.get(self.next) {
            Some(column) if column.name() == name => self.next,
            _ => {
                let found = columns.iter().position(|column| column.name() == name);
                found.unwrap_or_else(|| panic!("the statement returns no column `{name}`"))
            }
        };
        self.next = at + 1;
        self.row.get(at)
    }
}

/// A type that can be read from the columns of a row. See [`from_row!`](crate::from_row).
pub trait FromRow<'a>: Sized {
    /// Reads the columns.
    fn from_row(row: &mut Columns<'a>) -> Self;
}

/// Reads a row.
pub fn read<'a, T: FromRow<'a>>(row: &'a Row) -> T {
    T::from_row(&mut Columns { row, next: 0 })
}

/// Implements [`FromRow`] for a struct whose fields have the names of the columns. List the fields in the order of the
/// statement. A struct that borrows from the row uses the lifetime `'row`.
#[macro_export]
macro_rules! from_row {
    ($type:ty { $($field:ident),+ $(,)? }) => {
        impl<'row> $crate::sql::FromRow<'row> for $type {
            fn from_row(row: &mut $crate::sql::Columns<'row>) -> Self {
                Self { $($field: row.get(stringify!($field))),+ }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_has_the_name_of_a_table_and_a_verb() {
        for text in ["-- a.b\nselect 1", "-- delivery_attempts.find_all\n", "-- a.b"] {
            assert!(is_named(text.as_bytes()), "{text}");
        }
        for text in
            ["select 1", "--a.b\n", "-- a\n", "-- a.\n", "-- .b\n", "-- a.b.c\n", "-- A.b\n", "-- a.b c\n"]
        {
            assert!(!is_named(text.as_bytes()), "{text}");
        }
    }
}
