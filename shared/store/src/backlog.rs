//! What is parked: whose it is, and what has to join it because the line of the relay has become too long.

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

/// The next applications after `after` that have parked rows, by a walk over the index that touches one entry for
/// each.
///
/// # Errors
/// When PostgreSQL does not answer.
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
    /// Its application.
    pub application_id: ApplicationId,
    /// Its id.
    pub endpoint_id: EndpointId,
    /// False where it is disabled: what is parked stays.
    pub is_open: bool,
    /// True where some of it was put there by a bulk replay.
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

/// Of each application the next `limit` endpoints that have parked rows, after the one that is given with it.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn endpoints(
    client: &Object,
    applications: &[(ApplicationId, Option<EndpointId>)],
    limit: i64,
) -> Result<Vec<ParkedEndpoint>, StoreError> {
    let (applications, after): (Vec<_>, Vec<_>) = applications.iter().copied().unzip();
    let rows = ENDPOINTS.fetch_all(client, &[&applications, &after, &limit]).await?;
    Ok(rows.iter().map(read).collect())
}

/// Rows of one application that stay in the line of the relay while another waits behind them: two takes.
const IN_LINE: i64 = 512;

/// Rows that one look ahead sees. Where all of them are of one application, somebody may wait behind them.
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

/// Parks what one application has in the line of the relay beyond a few hundred rows, where others are in it too or it
/// is very long, so that nobody waits behind all of it. What is parked is brought back application after application.
/// Returns how many rows were parked.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn set_aside(client: &Object, since: Option<DateTime<Utc>>) -> Result<u64, StoreError> {
    SET_ASIDE.execute(client, &[&since, &LOOK_AHEAD, &IN_LINE]).await
}
