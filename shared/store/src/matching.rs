//! Which endpoints an event or a replay goes to.

use postrider_domain::ids::{ApplicationId, EndpointId};

use crate::StoreError;
use crate::sql::{Session, Sql};

/// SQL: what it costs to find those of the endpoints `$e` that an event matches, in deliveries: as many as
/// subscribe to its type, which `$subscribed` tells, and the steps of the filters of these and of the patterns of all, of
/// which forty count as one.
macro_rules! matching_cost {
    ($e:literal, $subscribed:literal) => {
        concat!(
            "(count(*) filter (where ",
            $subscribed,
            ") + (coalesce(sum(",
            $e,
            ".filter_steps) filter (where ",
            $subscribed,
            "), 0) + coalesce(sum(",
            $e,
            ".pattern_steps), 0)) / 40)"
        )
    };
}
pub(crate) use matching_cost;

const UNKNOWN: Sql = Sql::named(
    "-- endpoints.unknown
select i.id
from unnest($2::uuid[]) as i (id)
where not exists (
    select from endpoints e where e.id = i.id and e.application_id = $1 and e.deleted_at is null
)",
);

/// Those of the endpoints that are not the application's, or were deleted.
///
/// # Errors
/// When PostgreSQL does not answer.
pub(crate) async fn unknown_endpoints(
    client: &impl Session,
    application: ApplicationId,
    endpoints: &[EndpointId],
) -> Result<Vec<EndpointId>, StoreError> {
    let rows = UNKNOWN.fetch_all(client, &[&application, &endpoints]).await?;
    Ok(rows.iter().map(|row| row.get("id")).collect())
}
