//! Statements that carry their name, and rows that are read by the names of their columns.

use deadpool_postgres::{Object, Transaction};
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Error, GenericClient, Row, Statement};

use crate::StoreError;

/// A statement. Its first line is a comment that names it, such as `-- deliveries.retry`: `pg_stat_statements` and the
/// logs of PostgreSQL show it.
#[derive(Debug, Clone, Copy)]
pub struct Sql(&'static str);

/// The values of `$1`, `$2` and so on.
pub type Parameters<'a> = [&'a (dyn ToSql + Sync)];

impl Sql {
    /// Makes a statement.
    ///
    /// # Panics
    /// If the text does not begin with its name. In a constant, that is a compile error.
    #[must_use]
    pub const fn named(text: &'static str) -> Self {
        assert!(is_named(text.as_bytes()), "a statement begins with its name, such as `-- deliveries.retry`");
        Self(text)
    }

    /// The statement with its name.
    #[must_use]
    pub const fn text(self) -> &'static str {
        self.0
    }

    /// Prepares the statement. Sessions of a pool keep it.
    ///
    /// # Errors
    /// When PostgreSQL does not answer.
    pub async fn prepare(self, session: &impl Session) -> Result<Statement, StoreError> {
        Ok(session.prepare(self).await?)
    }

    /// Returns all rows.
    ///
    /// # Errors
    /// When PostgreSQL does not answer, or the statement fails.
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
    /// When PostgreSQL does not answer, or the statement fails.
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
    /// When PostgreSQL does not answer, or the statement fails.
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
    /// When PostgreSQL does not answer, or the statement fails.
    pub async fn execute(
        self,
        session: &impl Session,
        parameters: &Parameters<'_>,
    ) -> Result<u64, StoreError> {
        let statement = session.prepare(self).await?;
        Ok(session.client().execute(&statement, parameters).await?)
    }
}

/// True for a text whose first line is `-- <table>.<verb>`.
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

/// Where statements run: a connection of a pool, a transaction on one, or a connection of its own.
pub trait Session: Sync {
    /// What runs prepared statements.
    fn client(&self) -> &(impl GenericClient + Sync);

    /// Prepares a statement, or returns it if this session has it already.
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

/// The columns of a row, by their names.
///
/// A column that is read after the one before it is found by one comparison, so a type that reads its columns in the
/// order of the statement costs the same as one that counts them. Any other column is searched for.
pub struct Columns<'a> {
    row: &'a Row,
    next: usize,
}

impl<'a> Columns<'a> {
    /// Reads a column.
    ///
    /// # Panics
    /// If the statement does not return this column, or not with this type: statements are constants, and each is
    /// covered by a test.
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

/// A type that is made of the columns of a row. See [`from_row!`](crate::from_row).
pub trait FromRow<'a>: Sized {
    /// Reads the columns.
    fn from_row(row: &mut Columns<'a>) -> Self;
}

/// Reads a row.
pub fn read<'a, T: FromRow<'a>>(row: &'a Row) -> T {
    T::from_row(&mut Columns { row, next: 0 })
}

/// Implements [`FromRow`] for a struct each of whose fields is the column of its name. List the fields in the order of
/// the statement. A struct that borrows from the row uses the lifetime `'row`.
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
