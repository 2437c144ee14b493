//! Parked rows: which applications and endpoints have some, and which rows are parked because the relay's line is too
//! long.

use chrono::{DateTime, Utc};
use deadpool_postgres::Object;
use postrider_domain::ids::{ApplicationId, EndpointId};

use crate::outbox::has_parked;
use crate::sql::{Sql, read};
use crate::{StoreError, from_row};

const APPLICATIONS: Sql = Sql::named(
    "-- outbox.parked_applications
with recursive walk as (
    (
        select application_id from outbox
        where parked and ($1::uuid is null or application_id > $1)
        order by application_id
        limit 1
    )
    union all
    select (
        select o.application_id from outbox o
        where o.parked and o.application_id > w.application_id
        order by o.application_id
        limit 1
    )
    from walk w
    where w.application_id is not null
)
select application_id from walk where application_id is not null limit $2",
);

/// Returns the next applications after `after` that have parked rows. It walks the index and reads one entry per
/// application.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn applications(
    client: &Object,
    after: Option<ApplicationId>,
    limit: i64,
) -> Result<Vec<ApplicationId>, StoreError> {
    let rows = APPLICATIONS.fetch_all(client, &[&after, &limit]).await?;
    Ok(rows.iter().map(|row| row.get("application_id")).collect())
}

/// An endpoint that has parked rows.
#[derive(Debug, Clone)]
pub struct ParkedEndpoint {
    /// The application of the endpoint.
    pub application_id: ApplicationId,
    /// The id of the endpoint.
    pub endpoint_id: EndpointId,
    /// False if the endpoint is disabled. Its rows then stay parked.
    pub is_open: bool,
    /// True if a bulk replay created some of the rows.
    pub has_bulk: bool,
}

from_row!(ParkedEndpoint { application_id, endpoint_id, is_open, has_bulk });

const ENDPOINTS: Sql = Sql::named(concat!(
    "-- outbox.parked_endpoints
select w.application_id, w.endpoint_id, e.id is null or e.deleted_at is not null or e.is_active as is_open,
       ",
    has_parked!("w.application_id", "w.endpoint_id", "true"),
    " as has_bulk
from unnest($1::uuid[], $2::uuid[]) as a (application_id, after)
cross join lateral (
    with recursive walk as (
        (
            select o.endpoint_id from outbox o
            where o.parked and o.application_id = a.application_id and (a.after is null or o.endpoint_id > a.after)
            order by o.endpoint_id
            limit 1
        )
        union all
        select (
            select o.endpoint_id from outbox o
            where o.parked and o.application_id = a.application_id and o.endpoint_id > w.endpoint_id
            order by o.endpoint_id
            limit 1
        )
        from walk w
        where w.endpoint_id is not null
    )
    select a.application_id, endpoint_id from walk where endpoint_id is not null limit $3
) w
left join lateral (
    select e.id, e.deleted_at, e.is_active from endpoints e where e.id = w.endpoint_id limit 1
) e on true"
));

/// Returns for each application the next `limit` endpoints with parked rows, after the endpoint that is given with it.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn endpoints(
    client: &Object,
    applications: &[(ApplicationId, Option<EndpointId>)],
    limit: i64,
) -> Result<Vec<ParkedEndpoint>, StoreError> {
    let (applications, after): (Vec<_>, Vec<_>) = applications.iter().copied().unzip();
    let rows = ENDPOINTS.fetch_all(client, &[&applications, &after, &limit]).await?;
    Ok(rows.iter().map(read).collect())
}

/// Rows of one application that stay in the relay's line while other applications wait behind them: two takes.
const IN_LINE: i64 = 512;

/// The number of rows that one look ahead sees. If all of them belong to one application, others may be waiting behind
/// them.
const LOOK_AHEAD: i64 = 20_000;

const SET_ASIDE: Sql = Sql::named(
    "-- outbox.set_aside
with ahead as materialized (
    select id, application_id, delivery_id is not null as may_wait,
           row_number() over (partition by application_id order by due_at, id) as place
    from (
        select id, application_id, delivery_id, due_at
        from outbox
        where not parked and due_at <= now() and due_at >= coalesce($1::timestamptz, '-infinity')
        order by due_at
        limit $2
    ) o
),
congested as (
    select from ahead having count(distinct application_id) > 1 or count(*) = $2
),
locked as materialized (
    select id from outbox
    where id = any (array(select id from ahead where place > $3 and may_wait and exists (select from congested)))
      and not parked
    order by id
    for update skip locked
)
update outbox o set parked = true from locked l where o.id = l.id",
);

/// Parks the rows of one application beyond the first few hundred in the relay's line if other applications are in it
/// too, or if the line is very long. This way no application waits behind all of another one's rows. Parked rows are
/// brought back application by application. Returns the number of rows that were parked.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn set_aside(client: &Object, since: Option<DateTime<Utc>>) -> Result<u64, StoreError> {
    SET_ASIDE.execute(client, &[&since, &LOOK_AHEAD, &IN_LINE]).await
}
