//! What the queue holds: for the relay, which decides by it, and for people.

use std::collections::{HashMap, HashSet};

use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId};
use postrider_domain::share::may_take;
use redis::AsyncCommands;
use uuid::Uuid;

use super::{FEW, Queue, QueueError, malformed};

/// The queue of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The number of ids that wait.
    pub waiting: i64,
    /// The number of further ids that would fit.
    pub room: i64,
}

/// The size and the state of the queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueueStatistics {
    /// The number of ids that wait.
    pub waiting: i64,
    /// The number of applications that may be served now.
    pub eligible_applications: i64,
    /// The number of endpoints that wait for their rate limit or for a probe.
    pub blocked_endpoints: i64,
    /// The number of endpoints with exchanges in flight.
    pub endpoints_in_flight: i64,
}

impl Queue {
    /// Returns the queue length of each endpoint, and how many more ids would fit now. Endpoints of the same
    /// application share the part of the capacity that the application may have.
    ///
    /// # Errors
    /// [`QueueError`] if the command fails.
    pub async fn space(&self, endpoints: &[(ApplicationId, EndpointId)]) -> Result<Vec<Space>, QueueError> {
        let mut pipe = redis::pipe();
        pipe.get(self.key("size"));
        for (application, endpoint) in endpoints {
            pipe.hget(self.key("waiting"), application.0.as_bytes()).llen(self.endpoint_key("q", *endpoint));
        }
        let answers: Vec<Option<i64>> = pipe.query_async(&mut self.connection.clone()).await?;
        let mut answers = answers.into_iter().map(|answer| answer.unwrap_or(0));
        let mut free = i64::from(self.capacity) - answers.next().unwrap_or(0);
        let mut held: HashMap<ApplicationId, i64> = HashMap::new();
        let mut spaces = Vec::with_capacity(endpoints.len());
        for (application, _) in endpoints {
            let (Some(has), Some(waiting)) = (answers.next(), answers.next()) else { break };
            let held = held.entry(*application).or_insert(has);
            let share = may_take(free.max(0).unsigned_abs(), held.unsigned_abs()).cast_signed();
            let room = (i64::from(self.window) - waiting).min(share).max(FEW - waiting).max(0);
            free -= room;
            *held += room;
            spaces.push(Space { waiting, room });
        }
        Ok(spaces)
    }

    /// Returns the ids of each endpoint that Redis holds, waiting or reserved. An id that is being moved during the
    /// call may be missing.
    ///
    /// # Errors
    /// [`QueueError`] if the command fails.
    pub async fn contents(&self, endpoints: &[EndpointId]) -> Result<Vec<HashSet<DeliveryId>>, QueueError> {
        let mut pipe = redis::pipe();
        for endpoint in endpoints {
            // Waiting ids first, then reserved ones: the order in which ids move.
            pipe.lrange(self.endpoint_key("q", *endpoint), 0, -1).zrange(
                self.endpoint_key("r", *endpoint),
                0,
                -1,
            );
        }
        let answers: Vec<Vec<Vec<u8>>> = pipe.query_async(&mut self.connection.clone()).await?;
        let id = |member: &Vec<u8>| {
            let bytes = member.get(..16).ok_or_else(malformed)?;
            Ok(DeliveryId(Uuid::from_slice(bytes).map_err(|_| malformed())?))
        };
        answers.chunks(2).map(|lists| lists.iter().flatten().map(id).collect()).collect()
    }

    /// Returns the epoch that Redis holds and the id of its run. The epoch is `None` if there is none, or if it is not
    /// a number.
    ///
    /// # Errors
    /// [`QueueError`] if the command fails.
    pub async fn memory(&self) -> Result<(Option<i64>, String), QueueError> {
        let mut pipe = redis::pipe();
        pipe.get(self.key("epoch")).cmd("INFO").arg("server");
        let (epoch, info): (Option<Vec<u8>>, String) = pipe.query_async(&mut self.connection.clone()).await?;
        let epoch = epoch.and_then(|epoch| str::from_utf8(&epoch).ok()?.parse().ok());
        let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
        Ok((epoch, run_id.trim().to_owned()))
    }

    /// Returns Redis's eviction policy, or `None` if Redis does not report it. Any policy but `noeviction` costs time,
    /// because evicted ids are delivered only once the relay finds that they are missing.
    ///
    /// # Errors
    /// [`QueueError`] if the command fails.
    pub async fn eviction_policy(&self) -> Result<Option<String>, QueueError> {
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut self.connection.clone()).await?;
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        Ok(policy.map(|policy| policy.trim().to_owned()))
    }

    /// Returns the figures for the metrics.
    ///
    /// # Errors
    /// [`QueueError`] if the command fails.
    pub async fn statistics(&self) -> Result<QueueStatistics, QueueError> {
        let mut pipe = redis::pipe();
        pipe.get(self.key("size"))
            .zcard(self.key("ring"))
            .zcard(self.key("blocked"))
            .zcard(self.key("deadlines"));
        let (waiting, eligible, blocked, in_flight): (Option<i64>, i64, i64, i64) =
            pipe.query_async(&mut self.connection.clone()).await?;
        Ok(QueueStatistics {
            waiting: waiting.unwrap_or(0),
            eligible_applications: eligible,
            blocked_endpoints: blocked,
            endpoints_in_flight: in_flight,
        })
    }

    /// Returns the endpoints that wait for their rate limit, among the first `limit` that wait for a time.
    ///
    /// # Errors
    /// [`QueueError`] if a command fails.
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
        // The others wait for a probe of their breaker.
        let probes: Vec<Option<String>> = pipe.query_async(&mut connection).await?;
        Ok(endpoints.into_iter().zip(probes).filter(|(_, probe)| probe.is_none()).map(|(id, _)| id).collect())
    }
}
