//! One page of a list: where it begins, how much of it is read, and where the next one goes on.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use postrider_domain::ids::DeliveryId;
use tokio_postgres::{GenericClient as _, Row};
use uuid::Uuid;

use crate::StoreError;
use crate::sql::{self, FromRow, Parameters, Session, Sql};

/// Rows that one call looks at, at most. A filter that matches few of them answers a short page, not a
/// slow one.
pub const MAX_SCANNED: i64 = 2_000;

/// Bytes of the items on one page, as PostgreSQL sends them. A page ends before the item that exceeds this, unless that
/// is its only one.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

/// How far the time in an id may be from `created_at`: ids are drawn while a statement runs, `created_at`
/// is when it began, and no statement runs longer than this.
const CLOCK_MARGIN_MS: i64 = 60_000;

/// A page of items.
#[derive(Debug, Clone)]
pub struct Page<T, P = Uuid> {
    /// The items; perhaps none, although others follow.
    pub items: Vec<T>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<P>,
}

impl<T: for<'row> FromRow<'row>, P> Page<T, P> {
    /// The page of these rows. `place` is where the next page begins after an item.
    pub fn of(rows: &Rows, place: impl Fn(&T) -> P) -> Self {
        let items: Vec<T> = rows.rows.iter().map(sql::read).collect();
        let next = items.last().filter(|_| rows.has_more).map(place);
        Self { items, next }
    }
}

impl<T: for<'row> FromRow<'row>> Page<T> {
    /// The page of a bounded scan. Two columns say how the scan went: `last_id` is the last row that it looked at, and
    /// `is_bounded` is true if it ended there because of a bound. The columns of the item follow; its `id` is null if
    /// nothing matched.
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
    /// Others follow.
    has_more: bool,
}

/// Reads the rows of one page: `limit` and [`MAX_PAGE_BYTES`] at most. The statement must return one row more than
/// `limit` where there is one.
pub async fn read(
    session: &impl Session,
    sql: Sql,
    parameters: &Parameters<'_>,
    limit: u32,
) -> Result<Rows, StoreError> {
    read_weighed(session, sql, parameters, limit, Row::raw_size_bytes).await
}

/// The same, where an item may be larger in a response than in PostgreSQL: `weigh` returns its bytes.
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
            // The rest is thrown away as it arrives.
            return Ok(Rows { rows, has_more: true });
        }
        rows.push(row);
    }
    Ok(Rows { rows, has_more: false })
}

/// What a page has room for.
struct Room {
    items: usize,
    bytes: usize,
}

impl Room {
    /// False where there is no room for an item of this size. The first one is taken whatever its size is.
    fn take(&mut self, bytes: usize, is_first: bool) -> bool {
        let fits = self.items > 0 && (is_first || bytes <= self.bytes);
        if fits {
            self.items -= 1;
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        fits
    }
}

/// The range of ids in which everything lies that was created in a range of time: a little wider than it,
/// so that the scan begins and ends near the right place and the time itself is still compared.
#[derive(Debug, Clone, Copy)]
pub struct IdRange {
    /// Ids are greater than this.
    pub(super) above: Uuid,
    /// Ids are smaller than this.
    pub(super) below: Uuid,
}

impl IdRange {
    /// The ids after the page that ended at `cursor`, created in `[created_after, created_before)`.
    pub fn new(
        cursor: Option<Uuid>,
        created_after: Option<DateTime<Utc>>,
        created_before: Option<DateTime<Utc>>,
    ) -> Self {
        let above = created_after.map_or(Uuid::nil(), |at| first_id(at.timestamp_millis() - CLOCK_MARGIN_MS));
        let end = created_before.map_or(Uuid::max(), |at| first_id(at.timestamp_millis() + CLOCK_MARGIN_MS));
        Self { above, below: cursor.map_or(end, |cursor| cursor.min(end)) }
    }

    /// The same without what is much older than the id of a cause.
    pub fn not_before(self, cause: Uuid) -> Self {
        let milliseconds = i64::try_from(cause.as_u128() >> 80).unwrap_or(i64::MAX);
        Self { above: self.above.max(first_id(milliseconds - CLOCK_MARGIN_MS)), ..self }
    }
}

/// The smallest and the largest of some ids: a statement that names them looks at their partitions only,
/// which it would not for `id = any (…)` alone.
pub fn id_bounds(ids: &[DeliveryId]) -> (DeliveryId, DeliveryId) {
    let none = DeliveryId(Uuid::nil());
    (ids.iter().min().copied().unwrap_or(none), ids.iter().max().copied().unwrap_or(none))
}

/// The smallest id that begins with this time, in milliseconds since 1970.
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
