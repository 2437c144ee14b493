//! One page of a list: where it begins, how much of it is read, and where the next one goes on.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::ids::DeliveryId;

/// Rows that one call looks at, at most. A filter that matches few of them answers a short page, not a
/// slow one.
pub const MAX_SCANNED: i64 = 2_000;

/// How far the time in an id may be from `created_at`: ids are drawn while a statement runs, `created_at`
/// is when it began, and no statement runs longer than this.
const CLOCK_MARGIN_MS: i64 = 60_000;

/// A page of items, newest first.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The items; perhaps none, although others follow.
    pub items: Vec<T>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<Uuid>,
}

impl<T> Page<T> {
    /// A page of `limit` items out of a result that was asked for one more.
    pub(super) fn of_one_more(mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> Uuid) -> Self {
        let has_more = items.len() > limit;
        items.truncate(limit);
        let next = if has_more { items.last().map(id) } else { None };
        Self { items, next }
    }

    /// A page out of rows whose first columns say how the scan went: the last id it looked at, and whether it
    /// ended there because of a bound. The item's columns follow, its id first; null where nothing matched.
    pub(super) fn of_scan(
        rows: &[Row],
        limit: usize,
        parse: impl Fn(&Row) -> T,
        id: impl Fn(&T) -> Uuid,
    ) -> Self {
        let Some(first) = rows.first() else {
            return Self { items: Vec::new(), next: None };
        };
        let last_scanned: Option<Uuid> = first.get(0);
        let is_bounded: bool = first.get(1);
        let matches = rows.iter().filter(|row| row.get::<_, Option<Uuid>>(2).is_some());
        let page = Self::of_one_more(matches.map(parse).collect(), limit, id);
        Self { next: page.next.or(last_scanned.filter(|_| is_bounded)), ..page }
    }
}

/// The range of ids in which everything lies that was created in a range of time: a little wider than it,
/// so that the scan begins and ends near the right place and the time itself is still compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct IdRange {
    /// Ids are greater than this.
    pub(super) above: Uuid,
    /// Ids are smaller than this.
    pub(super) below: Uuid,
}

impl IdRange {
    /// The ids after the page that ended at `cursor`, created in `[created_after, created_before)`.
    pub(super) fn new(
        cursor: Option<Uuid>,
        created_after: Option<DateTime<Utc>>,
        created_before: Option<DateTime<Utc>>,
    ) -> Self {
        let above = created_after.map_or(Uuid::nil(), |at| first_id(at.timestamp_millis() - CLOCK_MARGIN_MS));
        let end = created_before.map_or(Uuid::max(), |at| first_id(at.timestamp_millis() + CLOCK_MARGIN_MS));
        Self { above, below: cursor.map_or(end, |cursor| cursor.min(end)) }
    }

    /// The same without what is much older than the id of a cause.
    pub(super) fn not_before(self, cause: Uuid) -> Self {
        let milliseconds = i64::try_from(cause.as_u128() >> 80).unwrap_or(i64::MAX);
        Self { above: self.above.max(first_id(milliseconds - CLOCK_MARGIN_MS)), ..self }
    }
}

/// The smallest and the largest of some ids: a statement that names them looks at their partitions only,
/// which it would not for `id = any (…)` alone.
pub(super) fn id_bounds(ids: &[DeliveryId]) -> (DeliveryId, DeliveryId) {
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
    fn a_page_says_whether_others_follow() {
        let ids: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
        let page = Page::of_one_more(ids.clone(), 2, |id| *id);
        assert_eq!((page.items.len(), page.next), (2, Some(ids[1])));
        let page = Page::of_one_more(ids, 3, |id| *id);
        assert_eq!((page.items.len(), page.next), (3, None));
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
