//! Everything in Redis: one queue of delivery ids per endpoint. Applications are served in turn, and within each
//! application its endpoints.
//!
//! Nothing in Redis is the truth. An id means "look now". Losing one id, or all of them, costs time but never a
//! delivery. The scripts are run by `EVALSHA` and loaded if Redis does not know them. All keys of a shard have the same
//! hash tag.

mod breaker;
mod config;
mod connection;
mod damage;
mod inspect;
mod scripts;
mod waker;

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::endpoint::{BreakerChange, Feedback, Limits};
use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId};
use postrider_domain::share;
use postrider_runtime::tls_roots;
use redis::{AsyncCommands, Client, ConnectionAddr, ErrorKind, RedisError, TlsCertificates};
use uuid::Uuid;

pub use config::QueueConfig;
use connection::Connection;
use damage::Failures;
pub use inspect::{QueueStatistics, Space};
use scripts::Scripts;
pub use waker::Waker;

/// The timeout for a response from Redis.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a reservation lasts unless it is extended.
pub const RESERVATION: Duration = Duration::from_secs(6);

/// An endpoint with an empty queue gets this many ids in, however full Redis is.
const FEW: i64 = 8;

/// Why an operation on Redis failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Redis holds a different epoch, or none. It has lost its memory since the ids were taken from the outbox.
    #[error("Redis has lost its memory")]
    EpochChanged,
    /// Redis cannot be reached, or it returned an error.
    #[error("Redis: {0}")]
    Redis(#[source] RedisError),
}

impl From<RedisError> for QueueError {
    fn from(error: RedisError) -> Self {
        if error.code() == Some("EPOCH") { Self::EpochChanged } else { Self::Redis(error) }
    }
}

/// Ids to queue for one endpoint, and the limits of the endpoint.
#[derive(Debug, Clone)]
pub struct Group {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// The application of the endpoint.
    pub application_id: ApplicationId,
    /// The current limits of the endpoint.
    pub limits: Limits,
    /// The ids to queue. May be empty: then the push only updates the limits, and restores the endpoint's entries that
    /// Redis has lost.
    pub deliveries: Vec<DeliveryId>,
}

/// An id that this deliverer holds for [`RESERVATION`], or longer if it extends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reservation {
    /// The application of the delivery.
    pub application_id: ApplicationId,
    /// The endpoint of the delivery.
    pub endpoint_id: EndpointId,
    /// The reserved id.
    pub delivery_id: DeliveryId,
    /// Distinguishes this reservation from an earlier one of the same id.
    token: [u8; 8],
}

/// The most ids that each application may get from one reserve.
#[derive(Debug, Clone)]
pub struct Allotment {
    /// Applications with a smaller limit than the others.
    pub named: Vec<(ApplicationId, usize)>,
    /// The limit for any other application.
    pub others: usize,
}

/// The result of a reserve.
#[derive(Debug, Default)]
pub struct Reserved {
    /// The reserved ids, to be claimed.
    pub reservations: Vec<Reservation>,
    /// True if more ids were available, but only of applications that have reached their limit.
    pub is_held_back: bool,
    /// The delay until a blocked endpoint may be served, or `None` if no endpoint is blocked.
    pub next_unblocked: Option<Duration>,
}

/// A client of Redis. Cheap to clone. Reconnects automatically.
#[derive(Clone)]
pub struct Queue {
    connection: Connection,
    scripts: Scripts,
    failures: Arc<Failures>,
    base: String,
    window: u32,
    capacity: u32,
}

impl Queue {
    /// Prepares a connection. It is established on first use.
    ///
    /// # Errors
    /// [`QueueError::Redis`] if the address is not valid, or the certificates cannot be used.
    pub fn new(config: &QueueConfig) -> Result<Self, QueueError> {
        Ok(Self {
            connection: Connection::new(client(config)?)?,
            scripts: Scripts::load(),
            failures: Arc::default(),
            base: format!("{{{}:0}}", config.prefix),
            window: config.window,
            capacity: config.capacity,
        })
    }

    /// Queues ids. Returns how many ids of each group fitted. They are the first ones of the group.
    ///
    /// # Errors
    /// [`QueueError::EpochChanged`] if Redis does not hold `epoch`; then nothing was queued. After
    /// [`QueueError::Redis`], some ids may have been queued.
    pub async fn push(&self, epoch: i64, groups: &[Group]) -> Result<Vec<usize>, QueueError> {
        let mut push = self.scripts.push.prepare_invoke();
        push.key(&self.base).arg(epoch).arg(self.window).arg(self.capacity).arg(FEW).arg(share::FACTOR);
        for group in groups {
            let ids: Vec<u8> = group.deliveries.iter().flat_map(|id| *id.0.as_bytes()).collect();
            push.arg(group.endpoint_id.0.as_bytes())
                .arg(group.application_id.0.as_bytes())
                .arg(group.limits.concurrency)
                .arg(group.limits.rate.unwrap_or(0))
                .arg(i32::from(group.limits.is_breaker_open))
                .arg(ids);
        }
        Ok(push.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Reserves up to `count` ids. Each application gets a fair share, up to its allotment, and within an application
    /// each endpoint does.
    ///
    /// # Errors
    /// [`QueueError`] if the command fails. Ids that it may have reserved return to the queue when their reservation
    /// expires.
    pub async fn reserve(&self, count: usize, allotment: &Allotment) -> Result<Reserved, QueueError> {
        let token: [u8; 8] = rand::random();
        let mut reserve = self.scripts.reserve.prepare_invoke();
        reserve.key(&self.base).arg(count).arg(&token).arg(milliseconds(RESERVATION)).arg(allotment.others);
        for (application, most) in &allotment.named {
            reserve.arg(application.0.as_bytes()).arg(most);
        }
        let answer: Vec<redis::Value> = reserve.invoke_async(&mut self.connection.clone()).await?;
        let mut values = answer.into_iter();
        let mut number = || -> Result<i64, QueueError> {
            let value = values.next().ok_or_else(malformed)?;
            Ok(redis::from_redis_value(value).map_err(RedisError::from)?)
        };
        let (wait, is_held_back) = (number()?, number()? == 1);
        let mut reserved = Reserved {
            reservations: Vec::with_capacity(values.len() / 3),
            is_held_back,
            next_unblocked: u64::try_from(wait).ok().map(Duration::from_micros),
        };
        while let (Some(application), Some(endpoint), Some(delivery)) =
            (values.next(), values.next(), values.next())
        {
            reserved.reservations.push(Reservation {
                application_id: ApplicationId(uuid(application)?),
                endpoint_id: EndpointId(uuid(endpoint)?),
                delivery_id: DeliveryId(uuid(delivery)?),
                token,
            });
        }
        Ok(reserved)
    }

    /// Ends reservations of ids that have nothing left to do, and adapts the number of exchanges that their endpoints
    /// may have in flight. Returns the breakers that this has opened or closed.
    ///
    /// # Errors
    /// [`QueueError`] if the command fails. The ids then return to the queue, and a later claim finds that there is
    /// nothing left to do.
    pub async fn acknowledge(
        &self,
        done: impl IntoIterator<Item = (Reservation, Feedback)>,
    ) -> Result<Vec<BreakerChange>, QueueError> {
        let mut acknowledge = self.scripts.acknowledge.prepare_invoke();
        acknowledge.key(&self.base);
        let mut is_empty = true;
        for (reservation, feedback) in done {
            is_empty = false;
            let (sign, took) = breaker::encode(feedback);
            acknowledge
                .arg(reservation.endpoint_id.0.as_bytes())
                .arg(&reservation.member()[..])
                .arg(sign)
                .arg(milliseconds(took));
        }
        if is_empty {
            return Ok(Vec::new());
        }
        let answer: Vec<redis::Value> = acknowledge.invoke_async(&mut self.connection.clone()).await?;
        breaker::changes(answer)
    }

    /// Extends reservations to the full [`RESERVATION`] from now.
    ///
    /// # Errors
    /// [`QueueError`] if the command fails.
    pub async fn extend(&self, reservations: &[Reservation]) -> Result<(), QueueError> {
        if reservations.is_empty() {
            return Ok(());
        }
        let mut extend = self.scripts.extend.prepare_invoke();
        extend.key(&self.base).arg(milliseconds(RESERVATION));
        for reservation in reservations {
            extend.arg(reservation.endpoint_id.0.as_bytes()).arg(&reservation.member()[..]);
        }
        Ok(extend.invoke_async::<()>(&mut self.connection.clone()).await?)
    }

    /// Opens a connection for [`Waker::wait`], which blocks it.
    ///
    /// # Errors
    /// [`QueueError`] if Redis cannot be reached.
    pub async fn waker(&self) -> Result<Waker, QueueError> {
        Waker::connect(&self.connection, self.key("wake")).await
    }

    /// Installs an epoch. From now on, only pushes with this epoch are accepted.
    ///
    /// # Errors
    /// [`QueueError`] if the command fails.
    pub async fn install_epoch(&self, epoch: i64) -> Result<(), QueueError> {
        Ok(self.connection.clone().set(self.key("epoch"), epoch).await?)
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.base)
    }

    fn endpoint_key(&self, kind: &str, endpoint: EndpointId) -> Vec<u8> {
        let mut key = format!("{}:{kind}:", self.base).into_bytes();
        key.extend_from_slice(endpoint.0.as_bytes());
        key
    }
}

impl Reservation {
    fn member(&self) -> [u8; 24] {
        let mut member = [0; 24];
        member[..16].copy_from_slice(self.delivery_id.0.as_bytes());
        member[16..].copy_from_slice(&self.token);
        member
    }
}

fn client(config: &QueueConfig) -> Result<Client, QueueError> {
    if config.extra_certificates.is_empty() || !matches!(config.url.addr(), ConnectionAddr::TcpTls { .. }) {
        return Ok(Client::open(config.url.clone())?);
    }
    let root_cert = Some(tls_roots::roots_as_pem(&config.extra_certificates));
    Ok(Client::build_with_tls(config.url.clone(), TlsCertificates { client_tls: None, root_cert })?)
}

fn uuid(value: redis::Value) -> Result<Uuid, QueueError> {
    let bytes: Vec<u8> = redis::from_redis_value(value).map_err(RedisError::from)?;
    Uuid::from_slice(&bytes).map_err(|_| malformed())
}

fn malformed() -> QueueError {
    QueueError::Redis((ErrorKind::UnexpectedReturnType, "an id in the queue does not have 16 bytes").into())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
