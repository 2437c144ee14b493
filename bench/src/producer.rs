//! Posts events: closed and open loops, batches, and one at a time.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::connection::{Connection, Post, RawResponse, Target};
use crate::ledger::{Ledger, Nanos};
use crate::payload::Template;

/// Pause before an event is posted again with the same key, if there was no response or one that asks for a retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Maximum bytes of a refusal that are kept.
const SHOWN_BYTES: usize = 300;

/// Posts the events of one lane.
pub(crate) struct Producer {
    pub(crate) lane: usize,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) target: Arc<Target>,
    /// One template, or one for each endpoint that is served in turn.
    pub(crate) templates: Vec<Template>,
    /// Number of the next turn.
    pub(crate) turn: AtomicU64,
    /// Expected deliveries per event; 0 if none should arrive.
    pub(crate) expected: usize,
    pub(crate) run: String,
    pub(crate) troubles: Arc<Troubles>,
    /// When cancelled, no new events are posted.
    pub(crate) stop: CancellationToken,
    /// When cancelled, nothing is posted, not even events that have no response yet.
    pub(crate) give_up: CancellationToken,
}

/// Counts of what did not go well.
#[derive(Default)]
pub(crate) struct Troubles {
    refused: Mutex<BTreeMap<String, u64>>,
    posted_again: AtomicU64,
}

impl Troubles {
    /// Returns the events that were refused for good, by response.
    pub(crate) fn refused(&self) -> BTreeMap<String, u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many posts had to be repeated.
    pub(crate) fn posted_again(&self) -> u64 {
        self.posted_again.load(Relaxed)
    }

    fn refuse(&self, answer: &RawResponse, events: u64) {
        let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(SHOWN_BYTES)]).into_owned();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(format!("{}: {body}", answer.status)).or_default() += events;
    }
}

impl Producer {
    /// Opens a slot and posts its event until there is a final response. Returns the event's number.
    pub(crate) async fn publish(&self, connection: &mut Connection, intended: Nanos) -> Option<u64> {
        let number = self.ledger.begin(self.lane, intended)?;
        let post = Post::Event {
            idempotency_key: HeaderValue::try_from(self.idempotency_key(number)).ok()?,
            body: self.template().body(number),
        };
        if let Some(answer) = self.persist(connection, &post).await {
            match answer.status {
                StatusCode::ACCEPTED => self.ledger.accepted(number, self.expected),
                _ => self.troubles.refuse(&answer, 1),
            }
        }
        Some(number)
    }

    /// Posts this many events in one request. Returns false if the ledger has no slots left for them.
    pub(crate) async fn publish_batch(&self, connection: &mut Connection, events: usize) -> bool {
        let intended = self.ledger.now();
        let numbers: Vec<_> = (0..events).map_while(|_| self.ledger.begin(self.lane, intended)).collect();
        let template = &self.templates[0];
        let post = Post::Batch { body: template.batch(&numbers, |number| self.idempotency_key(number)) };
        if let Some(answer) = self.persist(connection, &post).await {
            let is_rejected = memchr::memmem::find(&answer.body, br#""rejected""#).is_some();
            if answer.status == StatusCode::ACCEPTED && !is_rejected {
                numbers.iter().for_each(|number| self.ledger.accepted(*number, self.expected));
            } else {
                self.troubles.refuse(&answer, numbers.len() as u64);
            }
        }
        numbers.len() == events
    }

    pub(crate) fn connection(&self) -> Connection {
        Connection::new(self.target.clone())
    }

    /// Posts until there is a final response. Returns `None` if that is given up.
    async fn persist(&self, connection: &mut Connection, post: &Post) -> Option<RawResponse> {
        loop {
            let answer = self.give_up.run_until_cancelled(connection.post(post)).await?;
            let pause = match answer {
                Ok(answer) if !is_passing(answer.status) => return Some(answer),
                Ok(answer) => answer.retry_after.unwrap_or(RETRY_PAUSE).min(LONGEST_PAUSE),
                Err(error) => {
                    tracing::debug!(%error, "posting an event again");
                    RETRY_PAUSE
                }
            };
            self.troubles.posted_again.fetch_add(1, Relaxed);
            self.give_up.run_until_cancelled(tokio::time::sleep(pause)).await?;
        }
    }

    fn template(&self) -> &Template {
        let turn = self.turn.fetch_add(1, Relaxed);
        &self.templates[(turn % self.templates.len() as u64) as usize]
    }

    fn idempotency_key(&self, number: u64) -> String {
        format!("{}-{number}", self.run)
    }
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}
