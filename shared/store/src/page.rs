//! One page of a list: where it begins, how much of it is read, and where the next one begins.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use postrider_domain::ids::DeliveryId;
use tokio_postgres::{GenericClient as _, Row};
use uuid::Uuid;

use crate::StoreError;
use crate::sql::{self, FromRow, Parameters, Session, Sql};

/// The maximum number of rows that one call scans. A filter that matches few of them returns a short page instead of a
/// slow one.
pub const MAX_SCANNED: i64 = 2_000;

/// The maximum size of the items on one page, in bytes as PostgreSQL sends them. A page ends before the item that would
/// exceed this, unless it is the first.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

/// The maximum difference between the time in an id and `created_at`. Ids are drawn while a statement runs,
/// `created_at` is when it started, and no statement runs longer than this.
const CLOCK_MARGIN_MS: i64 = 60_000;

/// A page of items.
#[derive(Debug, Clone)]
pub struct Page<T, P = Uuid> {
    /// The items. There may be none even if others follow.
    pub items: Vec<T>,
    /// Where the next page begins, or `None` if this is the last one.
    pub next: Option<P>,
}

impl<T: for<'row> FromRow<'row>, P> Page<T, P> {
    /// Builds the page of these rows. `place` returns the position of an item, after which the next page begins.
    pub fn of(rows: &Rows, place: impl Fn(&T) -> P) -> Self {
        let items: Vec<T> = rows.rows.iter().map(sql::read).collect();
        let next = items.last().filter(|_| rows.has_more).map(place);
        Self { items, next }
    }
}

impl<T: for<'row> FromRow<'row>> Page<T> {
    /// Builds the page of a bounded scan. Two columns describe the scan: `last_id` is the last row that was scanned,
    /// and `is_bounded` is true if the scan ended there because of a bound. The columns of the item follow. Its `id` is
    /// null if nothing matched.
    pub fn of_scan(rows: &Rows, id: impl Fn(&T) -> Uuid) -> Self {
        let Some(first) = rows.rows.first() else {
            return Self { items: Vec::new(), next: None };
        };
        let last_scanned: Option<Uuid> = first.get("last_id");
        let is_bounded: bool = first.get("is_bounded");
        let matches = rows.rows.iter().filter(|row| row.get::<_, Option<Uuid>>("id").is_some());
        let items: Vec<T> = matches.map(sql::read).collect();
        let next = match items.last() {
            Some(last) if rows.has_more => Some(id(last)),
            _ => last_scanned.filter(|_| is_bounded),
        };
        Self { items, next }
    }
}

/// The rows of one page.
pub struct Rows {
    pub(super) rows: Vec<Row>,
    /// True if more rows follow.
    has_more: bool,
}

/// Reads the rows of one page, up to `limit` and [`MAX_PAGE_BYTES`]. The statement must return one row more than
/// `limit` if there is one.
pub async fn read(
    session: &impl Session,
    sql: Sql,
    parameters: &Parameters<'_>,
    limit: u32,
) -> Result<Rows, StoreError> {
    read_weighed(session, sql, parameters, limit, Row::raw_size_bytes).await
}

/// Like [`read`], for items that may be larger in a response than in PostgreSQL. `weigh` returns their size in bytes.
pub async fn read_weighed(
    session: &impl Session,
    sql: Sql,
    parameters: &Parameters<'_>,
    limit: u32,
    weigh: impl Fn(&Row) -> usize,
) -> Result<Rows, StoreError> {
    let statement = sql.prepare(session).await?;
    let rows = session.client().query_raw(&statement, parameters.iter().copied()).await?;
    let mut stream = std::pin::pin!(rows);
    let mut room = Room { items: limit as usize, bytes: MAX_PAGE_BYTES };
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await? {
        if !room.take(weigh(&row), rows.is_empty()) {
            // The remaining rows are discarded as they arrive.
            return Ok(Rows { rows, has_more: true });
        }
        rows.push(row);
    }
    Ok(Rows { rows, has_more: false })
}

/// The space that is left on a page.
struct Room {
    items: usize,
    bytes: usize,
}

impl Room {
    /// Returns false if there is no room for an item of this size. The first item is accepted whatever its size.
    fn take(&mut self, bytes: usize, is_first: bool) -> bool {
        let fits = self.items > 0 && (is_first || bytes <= self.bytes);
        if fits {
            self.items -= 1;
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        fits
    }
}

/// The range of ids of everything that was created in a range of time. It is slightly wider, so that the scan starts
/// and ends near the right place. The statement compares the time itself as well.
#[derive(Debug, Clone, Copy)]
pub struct IdRange {
    /// Ids are greater than this.
    pub(super) above: Uuid,
    /// Ids are less than this.
    pub(super) below: Uuid,
}

impl IdRange {
    /// Returns the ids after the page that ended at `cursor`, created in `[created_after, created_before)`.
    pub fn new(
        cursor: Option<Uuid>,
        created_after: Option<DateTime<Utc>>,
        created_before: Option<DateTime<Utc>>,
    ) -> Self {
        let above = created_after.map_or(Uuid::nil(), |at| first_id(at.timestamp_millis() - CLOCK_MARGIN_MS));
        let end = created_before.map_or(Uuid::max(), |at| first_id(at.timestamp_millis() + CLOCK_MARGIN_MS));
        Self { above, below: cursor.map_or(end, |cursor| cursor.min(end)) }
    }

    /// Excludes ids that are much older than `cause`.
    pub fn not_before(self, cause: Uuid) -> Self {
        let milliseconds = i64::try_from(cause.as_u128() >> 80).unwrap_or(i64::MAX);
        Self { above: self.above.max(first_id(milliseconds - CLOCK_MARGIN_MS)), ..self }
    }
}

/// Returns the smallest and the largest of some ids. A statement with these bounds only reads the partitions between
/// them. With `id = any (…)` alone it would read all.
pub fn id_bounds(ids: &[DeliveryId]) -> (DeliveryId, DeliveryId) {
    let none = DeliveryId(Uuid::nil());
    (ids.iter().min().copied().unwrap_or(none), ids.iter().max().copied().unwrap_or(none))
}

/// Returns the smallest id with this time, in milliseconds since 1970.
fn first_id(milliseconds: i64) -> Uuid {
    let milliseconds = milliseconds.clamp(0, (1 << 48) - 1).unsigned_abs();
    Uuid::from_u128(u128::from(milliseconds) << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_at_its_limit_or_before_the_item_that_exceeds_its_bytes() {
        let taken = |sizes: &[usize]| {
            let mut room = Room { items: 3, bytes: 100 };
            sizes.iter().enumerate().take_while(|&(place, &bytes)| room.take(bytes, place == 0)).count()
        };
        assert_eq!(taken(&[1, 1]), 2);
        assert_eq!(taken(&[1, 1, 1, 1]), 3);
        assert_eq!(taken(&[60, 40, 1]), 2);
        assert_eq!(taken(&[60, 41]), 1);
        assert_eq!(taken(&[101, 1]), 1);
    }

    #[test]
    fn the_range_of_ids_holds_what_was_created_in_the_range_of_time() {
        let id = Uuid::now_v7();
        let now = Utc::now();
        let minute = chrono::TimeDelta::minutes(1);
        let range = IdRange::new(None, Some(now), Some(now));
        assert!(range.above < id && id < range.below);
        let range = IdRange::new(None, Some(now + minute * 3), None);
        assert!(id < range.above);
        assert_eq!(IdRange::new(Some(id), None, Some(now)).below, id);
        let since = IdRange::new(None, None, None).not_before(id);
        assert!(since.above < id && first_id((now - minute * 2).timestamp_millis()) < since.above);
    }
}
