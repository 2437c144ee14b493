//! All Redis: one queue of delivery ids for each endpoint. Applications are served in turn, and within each its
//! endpoints.
//!
//! Nothing here is the truth. An id means "look now"; losing one, or all, costs time and never a delivery.
//! The scripts are plain `EVALSHA`, loaded when Redis does not know them, and every key of a shard has the
//! same hash tag.

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

/// How long Redis may take to answer anything.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a reservation lasts unless it is extended.
pub const RESERVATION: Duration = Duration::from_secs(6);

/// However full the queue is, an endpoint with nothing waiting gets this many ids in.
const FEW: i64 = 8;

/// What went wrong with Redis.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Redis holds another epoch, or none: it has lost its memory since the ids were taken.
    #[error("Redis has lost its memory")]
    EpochChanged,
    /// Redis cannot be reached, or refused.
    #[error("Redis: {0}")]
    Redis(#[source] RedisError),
}

impl From<RedisError> for QueueError {
    fn from(error: RedisError) -> Self {
        if error.code() == Some("EPOCH") { Self::EpochChanged } else { Self::Redis(error) }
    }
}

/// The ids of one endpoint that are to be queued, and its limits.
#[derive(Debug, Clone)]
pub struct Group {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Its application.
    pub application_id: ApplicationId,
    /// Its limits as they are now.
    pub limits: Limits,
    /// May be empty: then only the limits are brought along, and what Redis has lost of the endpoint is made again.
    pub deliveries: Vec<DeliveryId>,
}

/// An id that this deliverer holds for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reservation {
    /// Its application.
    pub application_id: ApplicationId,
    /// Its endpoint.
    pub endpoint_id: EndpointId,
    /// The id.
    pub delivery_id: DeliveryId,
    /// Tells this reservation from an older one of the same id.
    token: [u8; 8],
}

/// How many ids each application may get at most from one reserve.
#[derive(Debug, Clone)]
pub struct Allotment {
    /// Applications that get fewer than the others, and how many.
    pub named: Vec<(ApplicationId, usize)>,
    /// How many any other application gets.
    pub others: usize,
}

/// What a reserve brought.
#[derive(Debug, Default)]
pub struct Reserved {
    /// Ids to claim.
    pub reservations: Vec<Reservation>,
    /// True where there was more, but only of applications that have got all that they are allotted.
    pub is_held_back: bool,
    /// When a blocked endpoint may be served; `None`: none is blocked.
    pub next_unblocked: Option<Duration>,
}

/// Redis. Cheap to clone; reconnects by itself.
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
    /// Prepares a connection, which is made when it is first used.
    ///
    /// # Errors
    /// When the address is not one, or the certificates cannot be used.
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

    /// Queues ids and answers how many of each group fitted; the first ones of each do.
    ///
    /// # Errors
    /// [`QueueError::EpochChanged`] where Redis does not hold `epoch`: nothing was queued. After any other
    /// error something may have been.
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

    /// Reserves up to `count` ids: a fair share for each application, but no more than it is allotted, and within
    /// that for each of its endpoints.
    ///
    /// # Errors
    /// When Redis does not answer; what it may have reserved comes back by itself.
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

    /// Ends reservations whose ids have nothing left to do, and adapts how many exchanges their endpoints
    /// may have at once. Answers the breakers that this has opened or closed.
    ///
    /// # Errors
    /// When Redis does not answer; the ids then come back, and are found to have nothing left to do.
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

    /// Lets reservations last from now on as if they had just been made.
    ///
    /// # Errors
    /// When Redis does not answer.
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

    /// A connection for [`Waker::wait`], which blocks it.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn waker(&self) -> Result<Waker, QueueError> {
        Waker::connect(&self.connection, self.key("wake")).await
    }

    /// Installs an epoch: from now on, only pushes that name it are taken.
    ///
    /// # Errors
    /// When Redis does not answer.
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
    QueueError::Redis((ErrorKind::UnexpectedReturnType, "an id in the queue has not 16 bytes").into())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
