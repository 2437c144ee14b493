//! All Redis: one queue of delivery ids for each endpoint, served in turn.
//!
//! Nothing here is the truth. An id means "look now"; losing one, or all, costs time and never a delivery.
//! The scripts are plain `EVALSHA`, loaded when Redis does not know them, and every key of a shard has the
//! same hash tag.

mod breaker;
mod connection;
mod scripts;
mod waker;

use std::time::Duration;

use redis::{AsyncCommands, Client, ConnectionAddr, ErrorKind, RedisError, TlsCertificates};
use uuid::Uuid;

use crate::config::QueueConfig;
use crate::ids::{DeliveryId, EndpointId};
use crate::store::outbox::Limits;
use crate::trust;
pub use breaker::{BreakerChange, Feedback};
use connection::Connection;
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
    /// Whose.
    pub endpoint_id: EndpointId,
    /// Its limits as they are now.
    pub limits: Limits,
    /// May be empty: then only the limits are brought along.
    pub deliveries: Vec<DeliveryId>,
}

/// An id that this deliverer holds for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reservation {
    /// Its endpoint.
    pub endpoint_id: EndpointId,
    /// The id.
    pub delivery_id: DeliveryId,
    /// Tells this reservation from an older one of the same id.
    token: [u8; 8],
}

/// What a reserve brought.
#[derive(Debug, Default)]
pub struct Reserved {
    /// Ids to claim.
    pub reservations: Vec<Reservation>,
    /// When a blocked endpoint may be served; `None`: none is blocked.
    pub next_unblocked: Option<Duration>,
}

/// Redis. Cheap to clone; reconnects by itself.
#[derive(Clone)]
pub struct Queue {
    connection: Connection,
    scripts: Scripts,
    base: String,
    window: u32,
    capacity: u32,
}

/// The line of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Ids that wait.
    pub waiting: i64,
    /// Ids that would fit.
    pub room: i64,
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
        push.key(&self.base).arg(epoch).arg(self.window).arg(self.capacity).arg(FEW);
        for group in groups {
            let ids: Vec<u8> = group.deliveries.iter().flat_map(|id| *id.0.as_bytes()).collect();
            push.arg(group.endpoint_id.0.as_bytes())
                .arg(group.limits.concurrency)
                .arg(group.limits.rate.unwrap_or(0))
                .arg(i32::from(group.limits.is_breaker_open))
                .arg(ids);
        }
        Ok(push.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Reserves up to `count` ids, a fair share of each endpoint.
    ///
    /// # Errors
    /// When Redis does not answer; what it may have reserved comes back by itself.
    pub async fn reserve(&self, count: usize) -> Result<Reserved, QueueError> {
        let token: [u8; 8] = rand::random();
        let mut reserve = self.scripts.reserve.prepare_invoke();
        reserve.key(&self.base).arg(count).arg(&token).arg(milliseconds(RESERVATION));
        let answer: Vec<redis::Value> = reserve.invoke_async(&mut self.connection.clone()).await?;
        let mut values = answer.into_iter();
        let wait: i64 =
            values.next().map(redis::from_redis_value).transpose().map_err(RedisError::from)?.unwrap_or(-1);
        let mut reserved = Reserved {
            reservations: Vec::with_capacity(values.len() / 2),
            next_unblocked: u64::try_from(wait).ok().map(Duration::from_micros),
        };
        while let (Some(endpoint), Some(delivery)) = (values.next(), values.next()) {
            reserved.reservations.push(Reservation {
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
            acknowledge
                .arg(reservation.endpoint_id.0.as_bytes())
                .arg(&reservation.member()[..])
                .arg(feedback.code())
                .arg(milliseconds(feedback.took()));
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

    /// How much there is of each endpoint, and how much more would fit now.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn space(&self, endpoints: &[EndpointId]) -> Result<Vec<Space>, QueueError> {
        let mut pipe = redis::pipe();
        pipe.get(self.key("size"));
        for endpoint in endpoints {
            pipe.llen(self.endpoint_key("q", *endpoint));
        }
        let answers: Vec<Option<i64>> = pipe.query_async(&mut self.connection.clone()).await?;
        let mut answers = answers.into_iter().map(|answer| answer.unwrap_or(0));
        let mut left = i64::from(self.capacity) - answers.next().unwrap_or(0);
        let space = |waiting: i64| {
            let room = (i64::from(self.window) - waiting).min(left).max(FEW - waiting).max(0);
            left -= room;
            Space { waiting, room }
        };
        Ok(answers.map(space).collect())
    }

    /// Which of the endpoints have nothing here, neither waiting nor reserved.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn are_idle(&self, endpoints: &[EndpointId]) -> Result<Vec<bool>, QueueError> {
        let mut pipe = redis::pipe();
        for endpoint in endpoints {
            pipe.llen(self.endpoint_key("q", *endpoint)).zcard(self.endpoint_key("r", *endpoint));
        }
        let answers: Vec<i64> = pipe.query_async(&mut self.connection.clone()).await?;
        Ok(answers.chunks(2).map(|counts| counts.iter().sum::<i64>() == 0).collect())
    }

    /// A connection for [`Waker::wait`], which blocks it.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn waker(&self) -> Result<Waker, QueueError> {
        Waker::connect(&self.connection, self.key("wake")).await
    }

    /// Reads the epoch that Redis holds and the run it is in. `None`: it holds none.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn memory(&self) -> Result<(Option<i64>, String), QueueError> {
        let mut pipe = redis::pipe();
        pipe.get(self.key("epoch")).cmd("INFO").arg("server");
        let (epoch, info): (Option<i64>, String) = pipe.query_async(&mut self.connection.clone()).await?;
        let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
        Ok((epoch, run_id.trim().to_owned()))
    }

    /// Installs an epoch: from now on, only pushes that name it are taken.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn install_epoch(&self, epoch: i64) -> Result<(), QueueError> {
        Ok(self.connection.clone().set(self.key("epoch"), epoch).await?)
    }

    /// The policy by which Redis throws keys away when its memory is full, where it tells. Anything but
    /// `noeviction` costs time: what is thrown away has to be found missing first.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn eviction_policy(&self) -> Result<Option<String>, QueueError> {
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut self.connection.clone()).await?;
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        Ok(policy.map(|policy| policy.trim().to_owned()))
    }

    /// Figures for metrics.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn statistics(&self) -> Result<QueueStatistics, QueueError> {
        let mut pipe = redis::pipe();
        pipe.get(self.key("size"))
            .llen(self.key("ring"))
            .zcard(self.key("blocked"))
            .zcard(self.key("deadlines"));
        let (waiting, eligible, blocked, in_flight): (Option<i64>, i64, i64, i64) =
            pipe.query_async(&mut self.connection.clone()).await?;
        Ok(QueueStatistics {
            waiting: waiting.unwrap_or(0),
            eligible_endpoints: eligible,
            blocked_endpoints: blocked,
            endpoints_in_flight: in_flight,
        })
    }

    /// Endpoints that wait for their rate limit now, among the first `limit` that wait for a time.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn throttled(&self, limit: isize) -> Result<Vec<EndpointId>, QueueError> {
        let mut connection = self.connection.clone();
        let blocked: Vec<Vec<u8>> = connection.zrange(self.key("blocked"), 0, limit - 1).await?;
        if blocked.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        let mut endpoints = Vec::with_capacity(blocked.len());
        for id in &blocked {
            let endpoint = EndpointId(Uuid::from_slice(id).map_err(|_| malformed())?);
            pipe.hget(self.endpoint_key("e", endpoint), "probe_at");
            endpoints.push(endpoint);
        }
        // The others wait for a probe.
        let probes: Vec<Option<String>> = pipe.query_async(&mut connection).await?;
        Ok(endpoints.into_iter().zip(probes).filter(|(_, probe)| probe.is_none()).map(|(id, _)| id).collect())
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

/// What the queue looks like.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueueStatistics {
    /// Ids that wait.
    pub waiting: i64,
    /// Endpoints that may be served now.
    pub eligible_endpoints: i64,
    /// Endpoints that wait for their rate.
    pub blocked_endpoints: i64,
    /// Endpoints with exchanges under way.
    pub endpoints_in_flight: i64,
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
    let root_cert = Some(trust::roots_as_pem(&config.extra_certificates));
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
