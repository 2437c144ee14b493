//! The schedule: takes rows that are due, parks rows for which there is no room, and finds when the next row is due.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::{Object, Transaction};
use postrider_domain::endpoint::Limits;
use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId};
use tokio_postgres::Row;

use crate::StoreError;
use crate::sql::{Columns, FromRow, Parameters, Sql, read};

/// The channel on which writers of outbox rows notify.
pub const CHANNEL: &str = "postrider_outbox";

/// SQL: if an event has more deliveries than this, they are parked from the start, so that others do not wait behind
/// them in the relay's line.
macro_rules! most_in_line {
    () => {
        "200"
    };
}
pub(super) use most_in_line;

/// The payload of a notification that parked rows might fit, so that the relay's refill should look.
pub const PARKED: &str = "parked";

/// The advisory lock that every take holds shared, and that a change of the epoch holds exclusively.
pub(super) const EPOCH_LOCK: i64 = 0x706f_7374_0002;

/// A row of a take.
#[derive(Debug, Clone)]
pub struct DueRow {
    /// The delivery to look at, or `None` if the endpoint has changed.
    pub delivery_id: Option<DeliveryId>,
    /// The endpoint of the delivery, or the one that has changed.
    pub endpoint_id: EndpointId,
    /// The application of the endpoint.
    pub application_id: ApplicationId,
    /// The limits of the endpoint.
    pub limits: Limits,
    /// False if the endpoint is disabled. Its rows are then parked.
    pub is_open: bool,
    /// True if older rows of the endpoint are parked. Newer ones queue up behind them.
    pub has_parked: bool,
    /// True if a bulk replay created the row.
    pub is_bulk: bool,
}

/// A row that must wait for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parked {
    /// The delivery of the row.
    pub delivery_id: DeliveryId,
    /// The endpoint of the delivery.
    pub endpoint_id: EndpointId,
    /// The application of the endpoint.
    pub application_id: ApplicationId,
    /// True if a bulk replay created the row.
    pub is_bulk: bool,
}

/// How many parked rows of an endpoint may be brought back.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// The application of the endpoint.
    pub application_id: ApplicationId,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// The number of ordinary rows.
    pub ordinary: i64,
    /// The number of rows of bulk replays.
    pub bulk: i64,
}

/// Rows that an open transaction has deleted from the outbox. If this is dropped, the transaction rolls back and the
/// rows are still there.
pub struct Take<'a> {
    transaction: Transaction<'a>,
    /// The epoch of the Redis contents that they are meant for.
    pub epoch: i64,
    /// The rows, in the order in which they are due.
    pub rows: Vec<DueRow>,
    /// When the last of them fell due, by PostgreSQL's clock. `None` for parked rows.
    pub due_until: Option<DateTime<Utc>>,
    /// How long the row that waited longest had been due. `None` for parked rows.
    pub late_by: Option<Duration>,
}

const LOCK: Sql = Sql::named(
    "-- queue_epoch.share
select pg_advisory_xact_lock_shared($1) as locked",
);

const READ_EPOCH: Sql = Sql::named(
    "-- queue_epoch.read
select epoch from queue_epoch where shard = 0",
);

/// SQL: whether an endpoint has parked rows, of bulk replays or ordinary ones. Not `exists`, because PostgreSQL may
/// evaluate that by hashing all parked rows. The order makes it use the index instead of scanning the table for the
/// first of very many rows.
macro_rules! has_parked {
    ($application:literal, $endpoint:literal, $bulk:literal) => {
        concat!(
            "(select true from outbox o where o.parked and o.application_id = ",
            $application,
            " and o.endpoint_id = ",
            $endpoint,
            " and o.bulk = ",
            $bulk,
            " order by o.delivery_id limit 1) is not null"
        )
    };
}
pub(super) use has_parked;

/// SQL: whether a delivery is not parked. Not `exists`, for the same reason as in `has_parked!`.
#[macro_export]
macro_rules! is_not_parked {
    ($application:literal, $endpoint:literal, $delivery:literal) => {
        concat!(
            "(select true from outbox o where o.parked and o.application_id = ",
            $application,
            " and o.endpoint_id = ",
            $endpoint,
            " and o.bulk = any ('{f,t}') and o.delivery_id = ",
            $delivery,
            " limit 1) is null"
        )
    };
}

/// SQL: the endpoints of the taken rows with their limits. Each is looked up once, however many rows it has.
macro_rules! endpoints_of_taken {
    () => {
        "endpoint as materialized (
    select t.endpoint_id, t.application_id, case when e.ordered then 1 else e.concurrency_limit end as concurrency_limit,
           e.rate_limit, h.state = 'open' as is_breaker_open,
           -- A deleted endpoint counts as open: the claim cancels its deliveries.
           e.id is null or e.deleted_at is not null or e.is_active as is_open
    from (select distinct endpoint_id, application_id from taken) t
    left join lateral (
        select e.id, e.ordered, e.concurrency_limit, e.rate_limit, e.deleted_at, e.is_active
        from endpoints e
        where e.id = t.endpoint_id
        limit 1
    ) e on true
    left join lateral (
        select h.state from endpoint_health h where h.endpoint_id = t.endpoint_id limit 1
    ) h on true
)"
    };
}

const TAKE: Sql = Sql::named(concat!(
    "-- outbox.take
with taken as (
    delete from outbox
    where id = any (array(
        select id from outbox
        where not parked and due_at <= now() and due_at >= coalesce($2::timestamptz, '-infinity')
        order by due_at
        limit $1
        for update skip locked
    ))
    returning id, delivery_id, endpoint_id, application_id, due_at
),
",
    endpoints_of_taken!(),
    ",
backlog as materialized (
    select e.endpoint_id, ",
    has_parked!("e.application_id", "e.endpoint_id", "false"),
    " as has_parked
    from endpoint e
)
select t.delivery_id, t.endpoint_id, t.application_id, e.concurrency_limit, e.rate_limit, e.is_breaker_open,
       e.is_open, b.has_parked, false as is_bulk, t.due_at,
       extract(epoch from clock_timestamp() - t.due_at)::float8 as late_by
from taken t join endpoint e using (endpoint_id) join backlog b using (endpoint_id)
order by t.id"
));

const UNPARK: Sql = Sql::named(concat!(
    "-- outbox.unpark
with taken as (
    delete from outbox
    where id = any (array(
        select p.id
        from unnest($4::uuid[], $1::uuid[], $2::bigint[]) as w (application_id, endpoint_id, room)
        cross join lateral (
            select o.id from outbox o
            where o.parked and o.application_id = w.application_id and o.endpoint_id = w.endpoint_id and not o.bulk
            order by o.delivery_id
            limit w.room
            for update skip locked
        ) p
    ) || array(
        select p.id
        from unnest($4::uuid[], $1::uuid[], $3::bigint[]) as w (application_id, endpoint_id, room)
        cross join lateral (
            select o.id from outbox o
            where o.parked and o.application_id = w.application_id and o.endpoint_id = w.endpoint_id and o.bulk
            order by o.delivery_id
            limit w.room
            for update skip locked
        ) p
    ))
    returning id, delivery_id, endpoint_id, application_id, bulk
),
",
    endpoints_of_taken!(),
    "
select t.delivery_id, t.endpoint_id, t.application_id, e.concurrency_limit, e.rate_limit, e.is_breaker_open,
       e.is_open, false as has_parked, t.bulk as is_bulk
from taken t join endpoint e using (endpoint_id)
order by t.bulk, t.delivery_id"
));

const PARK: Sql = Sql::named(
    "-- outbox.park
insert into outbox (delivery_id, endpoint_id, application_id, parked, bulk)
select delivery_id, endpoint_id, application_id, true, bulk
from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::boolean[]) as r (delivery_id, endpoint_id, application_id, bulk)",
);

/// Takes up to `limit` rows that are due, oldest first, but none that fell due before `since`. `client` must be a
/// connection from [`Store::relaxed`](super::Store::relaxed).
///
/// # Errors
/// [`StoreError`] if a statement fails, or the epoch is being changed.
pub async fn take(
    client: &mut Object,
    limit: i64,
    since: Option<DateTime<Utc>>,
) -> Result<Take<'_>, StoreError> {
    let (transaction, epoch, rows) = take_by(client, TAKE, &[&limit, &since]).await?;
    let due_until = rows.iter().map(|row| row.get("due_at")).max();
    let late_by = rows.iter().map(|row| row.get("late_by")).fold(0.0, f64::max);
    let late_by = Some(Duration::try_from_secs_f64(late_by).unwrap_or_default());
    Ok(Take { transaction, epoch, rows: rows.iter().map(read).collect(), due_until, late_by })
}

/// Takes parked rows, as many of each endpoint as its room allows. Those of bulk replays are last.
///
/// # Errors
/// [`StoreError`] if a statement fails, or the epoch is being changed.
pub async fn unpark<'a>(client: &'a mut Object, rooms: &[Room]) -> Result<Take<'a>, StoreError> {
    let endpoints: Vec<_> = rooms.iter().map(|room| room.endpoint_id).collect();
    let applications: Vec<_> = rooms.iter().map(|room| room.application_id).collect();
    let ordinary: Vec<_> = rooms.iter().map(|room| room.ordinary).collect();
    let bulk: Vec<_> = rooms.iter().map(|room| room.bulk).collect();
    let (transaction, epoch, rows) =
        take_by(client, UNPARK, &[&endpoints, &ordinary, &bulk, &applications]).await?;
    Ok(Take { transaction, epoch, rows: rows.iter().map(read).collect(), due_until: None, late_by: None })
}

async fn take_by<'a>(
    client: &'a mut Object,
    sql: Sql,
    parameters: &Parameters<'_>,
) -> Result<(Transaction<'a>, i64, Vec<Row>), StoreError> {
    let transaction = client.transaction().await?;
    let lock = LOCK.prepare(&transaction).await?;
    let read_epoch = READ_EPOCH.prepare(&transaction).await?;
    let take = sql.prepare(&transaction).await?;
    // Sent together but executed in order: the epoch is read and the rows are taken under the lock.
    let (locked, epoch, rows) = tokio::join!(
        transaction.execute(&lock, &[&EPOCH_LOCK]),
        transaction.query_one(&read_epoch, &[]),
        transaction.query(&take, parameters),
    );
    // Checked in this order: statements after a failed one only report that the transaction is aborted.
    locked?;
    let (epoch, rows) = (epoch?, rows?);
    Ok((transaction, epoch.get("epoch"), rows))
}

impl Take<'_> {
    /// Commits the take: pushed rows are gone from the outbox, and the `parked` ones are in it again, waiting for room.
    ///
    /// # Errors
    /// [`StoreError`] if PostgreSQL does not confirm the commit. The rows may then be in the outbox again, and their
    /// ids be pushed twice.
    pub async fn commit(self, parked: &[Parked]) -> Result<(), StoreError> {
        if !parked.is_empty() {
            let deliveries: Vec<_> = parked.iter().map(|row| row.delivery_id).collect();
            let endpoints: Vec<_> = parked.iter().map(|row| row.endpoint_id).collect();
            let applications: Vec<_> = parked.iter().map(|row| row.application_id).collect();
            let bulk: Vec<_> = parked.iter().map(|row| row.is_bulk).collect();
            PARK.execute(&self.transaction, &[&deliveries, &endpoints, &applications, &bulk]).await?;
        }
        Ok(self.transaction.commit().await?)
    }
}

impl FromRow<'_> for DueRow {
    fn from_row(row: &mut Columns<'_>) -> Self {
        Self {
            delivery_id: row.get("delivery_id"),
            endpoint_id: row.get("endpoint_id"),
            application_id: row.get("application_id"),
            limits: limits(row),
            is_open: row.get("is_open"),
            has_parked: row.get("has_parked"),
            is_bulk: row.get("is_bulk"),
        }
    }
}

/// Reads the limits of an endpoint. A deleted one gets the lowest limits, because its deliveries are only cancelled.
fn limits(row: &mut Columns<'_>) -> Limits {
    match row.get("concurrency_limit") {
        Some(concurrency) => Limits {
            concurrency,
            rate: row.get("rate_limit"),
            is_breaker_open: row.get::<Option<bool>>("is_breaker_open").unwrap_or(false),
        },
        None => Limits { concurrency: 1, rate: None, is_breaker_open: false },
    }
}

const NEXT_DUE: Sql = Sql::named(
    "-- outbox.next_due
select (extract(epoch from due_at - now()) * 1000)::bigint as milliseconds
from outbox
where not parked and due_at > now()
order by due_at
limit 1",
);

/// Returns the time until the earliest row that is not due yet. Rows that are already due but were not taken belong to
/// another relay.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn next_due(client: &Object) -> Result<Option<Duration>, StoreError> {
    let row = NEXT_DUE.fetch_optional(client, &[]).await?;
    Ok(row.map(|row| Duration::from_millis(row.get::<_, i64>("milliseconds").max(1).unsigned_abs())))
}

/// Opens a connection that listens for new outbox rows.
///
/// # Errors
/// [`StoreError`] if PostgreSQL cannot be reached.
pub async fn listen(config: &crate::config::DatabaseConfig) -> Result<super::Dedicated, StoreError> {
    let connection = super::connect_dedicated(config).await?;
    connection.client.batch_execute(&format!("-- outbox.listen\nlisten {CHANNEL}")).await?;
    Ok(connection)
}
