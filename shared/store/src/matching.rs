//! The endpoints that an event or a replay goes to.

use postrider_domain::ids::{ApplicationId, EndpointId};

use crate::StoreError;
use crate::sql::{Session, Sql};

/// SQL: the cost of finding those of the endpoints `$e` that an event matches, expressed in deliveries. It is the
/// number of endpoints that subscribe to the type, according to `$subscribed`, plus a fortieth of the steps of their
/// filters and of all patterns.
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

/// Returns those of the endpoints that do not belong to the application or were deleted.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub(crate) async fn unknown_endpoints(
    client: &impl Session,
    application: ApplicationId,
    endpoints: &[EndpointId],
) -> Result<Vec<EndpointId>, StoreError> {
    let rows = UNKNOWN.fetch_all(client, &[&application, &endpoints]).await?;
    Ok(rows.iter().map(|row| row.get("id")).collect())
}
