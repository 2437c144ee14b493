//! A queue for each test, and functions to look into it.

use std::collections::{BTreeSet, HashMap};

use postrider_domain::endpoint::{Feedback, Limits};
use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId};
use postrider_queue::{Allotment, Group, Queue, QueueConfig, QueueError, Reservation, Reserved};
use uuid::Uuid;

use crate::support::Bed;

pub(crate) const EPOCH: i64 = 7;

/// The application of endpoints in tests where the application does not matter.
pub(crate) const ACME: ApplicationId = ApplicationId(Uuid::from_u128(1));

pub(crate) async fn members(redis: &mut redis::aio::MultiplexedConnection, key: &[u8]) -> Vec<Vec<u8>> {
    command("ZRANGE", key).arg(0).arg(-1).query_async(redis).await.expect("a sorted set")
}

/// How many more ids fit in for each endpoint.
pub(crate) async fn room(queue: &Queue, endpoints: &[EndpointId]) -> Vec<i64> {
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| (ACME, *endpoint)).collect();
    queue.space(&endpoints).await.expect("Redis").iter().map(|space| space.room).collect()
}

pub(crate) async fn queue(bed: &Bed) -> Queue {
    let queue = Queue::new(&bed.source.read(QueueConfig::read).expect("the configuration")).expect("a queue");
    queue.install_epoch(EPOCH).await.expect("Redis");
    queue
}

pub(crate) async fn push(queue: &Queue, endpoint: EndpointId, limits: Limits, ids: &[DeliveryId]) -> usize {
    push_for(queue, ACME, endpoint, limits, ids).await
}

pub(crate) async fn push_for(
    queue: &Queue,
    application_id: ApplicationId,
    endpoint_id: EndpointId,
    limits: Limits,
    ids: &[DeliveryId],
) -> usize {
    let group = Group { endpoint_id, application_id, limits, deliveries: ids.to_vec() };
    queue.push(EPOCH, &[group]).await.expect("Redis")[0]
}

/// Reserves without limits on any application.
pub(crate) async fn reserve(queue: &Queue, count: usize) -> Result<Reserved, QueueError> {
    queue.reserve(count, &Allotment { named: Vec::new(), others: count }).await
}

pub(crate) fn unlimited() -> Limits {
    Limits { concurrency: 1_000, rate: None, is_breaker_open: false }
}

/// A new endpoint. Redis knows nothing of it, so it may have one exchange at once, whatever its limits.
pub(crate) fn endpoint() -> EndpointId {
    EndpointId(Uuid::now_v7())
}

/// An endpoint with so many successes that only its own limit counts.
pub(crate) async fn known(bed: &Bed) -> EndpointId {
    let endpoint = endpoint();
    let hash = [key(bed, "e:"), endpoint.0.as_bytes().to_vec()].concat();
    let mut set = command("HSET", &hash);
    let _: () = set.arg("window").arg(1_000).query_async(&mut bed.redis().await).await.expect("Redis");
    endpoint
}

/// Reservations that end without feedback about their endpoints.
pub(crate) fn ended(reservations: &[Reservation]) -> Vec<(Reservation, Feedback)> {
    with_feedback(reservations, Feedback::None)
}

pub(crate) fn with_feedback(
    reservations: &[Reservation],
    feedback: Feedback,
) -> Vec<(Reservation, Feedback)> {
    reservations.iter().map(|reservation| (*reservation, feedback)).collect()
}

pub(crate) fn ids(count: usize) -> Vec<DeliveryId> {
    (0..count).map(|_| DeliveryId(Uuid::now_v7())).collect()
}

pub(crate) fn shares(reservations: &[Reservation]) -> HashMap<EndpointId, usize> {
    let mut shares = HashMap::new();
    for reservation in reservations {
        *shares.entry(reservation.endpoint_id).or_default() += 1;
    }
    shares
}

pub(crate) fn key(bed: &Bed, name: &str) -> Vec<u8> {
    format!("{{{}:0}}:{name}", bed.name).into_bytes()
}

pub(crate) fn command(name: &str, key: &[u8]) -> redis::Cmd {
    let mut command = redis::cmd(name);
    command.arg(key);
    command
}

/// The reservations of an endpoint, with their deadlines.
pub(crate) async fn reservations(bed: &Bed, endpoint: EndpointId) -> Vec<(Vec<u8>, u64)> {
    let reservations = [key(bed, "r:"), endpoint.0.as_bytes().to_vec()].concat();
    let mut range = command("ZRANGE", &reservations);
    range.arg(0).arg(-1).arg("WITHSCORES").query_async(&mut bed.redis().await).await.expect("reservations")
}

/// The keys that begin with `kind`.
pub(crate) async fn keys(bed: &Bed, kind: &str) -> Vec<Vec<u8>> {
    let pattern = [key(bed, kind), b"*".to_vec()].concat();
    command("KEYS", &pattern).query_async(&mut bed.redis().await).await.expect("keys")
}

/// The kinds of keys that exist.
pub(crate) async fn kinds(bed: &Bed) -> BTreeSet<String> {
    let start = key(bed, "").len();
    let kind = |key: Vec<u8>| key[start..].split(|byte| *byte == b':').next().unwrap_or_default().to_vec();
    keys(bed, "").await.into_iter().map(|key| String::from_utf8_lossy(&kind(key)).into_owned()).collect()
}
