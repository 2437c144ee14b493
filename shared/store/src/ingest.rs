//! The limit on what an application may publish. All API processes share one budget, from which each draws a little in
//! advance.

use std::time::Duration;

use deadpool_postgres::Transaction;
use postrider_domain::ids::ApplicationId;

use crate::sql::Sql;
use crate::{Store, StoreError};

/// The result of drawing from the budget of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// This many events may be published: at most what a tenth of a second allows.
    Granted(u32),
    /// None may be published. There will be budget for one after this time.
    Denied(Duration),
    /// The application has no limit.
    Unlimited,
}

/// The theoretical arrival time of the rate limit (GCRA). The bucket holds what one second allows.
const DRAW: Sql = Sql::named(
    "-- ingest_budgets.draw
with budget as materialized (
    select b.application_id, a.ingest_rate_limit as rate, greatest(b.drawn_until, clock_timestamp()) as base
    from ingest_budgets b
    join applications a on a.id = b.application_id
    where b.application_id = $1 and a.ingest_rate_limit is not null
    for no key update of b
),
judged as materialized (
    select application_id, rate, base,
           least(
               greatest(rate / 10, 1),
               floor(extract(epoch from clock_timestamp() + interval '1 second' - base) * rate)
           )::integer as count
    from budget
),
drawn as (
    update ingest_budgets b
    set drawn_until = j.base + j.count * interval '1 second' / j.rate
    from judged j
    where b.application_id = j.application_id and j.count > 0
)
select count,
       extract(epoch from base + interval '1 second' / rate - interval '1 second' - clock_timestamp())::float8 as wait_seconds
from judged",
);

/// Draws from the budget of an application.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn draw(store: &Store, application: ApplicationId) -> Result<Draw, StoreError> {
    let client = store.relaxed().await?;
    let Some(row) = DRAW.fetch_optional(&client, &[&application]).await? else {
        return Ok(Draw::Unlimited);
    };
    Ok(match u32::try_from(row.get::<_, i32>("count")) {
        Ok(count) if count > 0 => Draw::Granted(count),
        _ => Draw::Denied(Duration::try_from_secs_f64(row.get("wait_seconds")).unwrap_or_default()),
    })
}

const OPEN: Sql = Sql::named(
    "-- ingest_budgets.open
insert into ingest_budgets (application_id) values ($1) on conflict do nothing",
);

/// Creates the budget of an application if it does not exist.
pub(super) async fn open(
    transaction: &Transaction<'_>,
    application: ApplicationId,
) -> Result<(), StoreError> {
    OPEN.execute(transaction, &[&application]).await?;
    Ok(())
}
