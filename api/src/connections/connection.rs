//! The state of one connection.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use postrider_domain::share::{Share, Shares};
use tokio_util::sync::CancellationToken;

use crate::auth::party::Party;

/// How long a request head may take from its first byte, and how long a new connection may be silent.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection may be idle after a response.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a client may take to read a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest request head.
pub(crate) const MAX_HEAD_BYTES: usize = 65_536;
/// The part of a request head that every connection may use. The rest is charged to what all connections share.
const FREE_HEAD_BYTES: usize = 8_192;

pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    /// Cancelled when the connection must be closed.
    pub(super) closed: CancellationToken,
    phase: Mutex<Phase>,
}

/// What a connection is currently doing.
pub(super) struct Phase {
    /// Requests in flight: from the end of their heads until their responses are written.
    pub(super) requests: usize,
    /// How many of these the API is working on.
    pub(super) worked_on: usize,
    /// When each response that is being written began, the oldest first.
    pub(super) responses: Vec<Instant>,
    /// The party of the last request.
    pub(super) party: Option<Party>,
    /// True after the first request.
    is_known: bool,
    /// True for HTTP/2, which bounds its frames itself.
    is_http2: bool,
    /// When it was opened or its last request ended.
    quiet_since: Instant,
    /// The incomplete request head, if there is one.
    head: Option<Head>,
}

struct Head {
    since: Instant,
    bytes: usize,
    room: Option<Share<IpAddr>>,
}

/// A connection that may be closed to make room.
pub(super) struct Candidate {
    pub(super) peer: SocketAddr,
    pub(super) holder: Holder,
    pub(super) is_known: bool,
    /// True if it has a request in flight that no one is working on.
    pub(super) is_busy: bool,
    pub(super) quiet_since: Instant,
}

/// The holder of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    Party(Party),
    Address(IpAddr),
}

impl Connection {
    pub(super) fn new(peer: SocketAddr, now: Instant) -> Self {
        Self { peer, closed: CancellationToken::new(), phase: Mutex::new(Phase::new(now)) }
    }

    pub(super) fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock()
    }

    /// Returns the connection as a candidate for closing, or `None` while the API works on one of its requests.
    pub(super) fn candidate(&self) -> Option<Candidate> {
        let phase = self.phase();
        let holder = match phase.party {
            None | Some(Party::Stranger) => Holder::Address(self.peer.ip()),
            Some(party) => Holder::Party(party),
        };
        (phase.worked_on == 0).then_some(Candidate {
            peer: self.peer,
            holder,
            is_known: phase.is_known,
            is_busy: phase.requests > 0,
            quiet_since: phase.quiet_since,
        })
    }
}

impl Phase {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            requests: 0,
            worked_on: 0,
            responses: Vec::new(),
            party: None,
            is_known: false,
            is_http2: false,
            quiet_since: now,
            head: None,
        }
    }

    pub(super) fn request_begins(&mut self) {
        self.requests += 1;
        self.is_known = true;
        self.head = None;
    }

    pub(super) fn request_ends(&mut self, now: Instant) {
        self.requests -= 1;
        self.quiet_since = now;
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let since = |then| now.saturating_duration_since(then);
        let silence = if self.is_known { IDLE_TIMEOUT } else { HEAD_TIMEOUT };
        if self.requests > 0 {
            return self.responses.first().is_some_and(|&began| since(began) >= RESPONSE_TIMEOUT);
        }
        self.head.as_ref().is_some_and(|head| since(head.since) >= HEAD_TIMEOUT)
            || since(self.quiet_since) >= silence
    }

    /// Returns how many bytes may be read now, or 0 if there are too many long request heads.
    pub(super) fn may_read(&mut self, heads: &Shares<IpAddr>, address: IpAddr) -> usize {
        if self.requests > 0 || self.is_http2 {
            return usize::MAX;
        }
        let Some(head) = &mut self.head else { return FREE_HEAD_BYTES };
        if head.bytes >= FREE_HEAD_BYTES && head.room.is_none() {
            head.room = heads.try_acquire(&address, (MAX_HEAD_BYTES - FREE_HEAD_BYTES) as u64);
        }
        let most = if head.room.is_some() { MAX_HEAD_BYTES } else { FREE_HEAD_BYTES };
        most.saturating_sub(head.bytes)
    }

    /// Counts bytes that were read towards the current head.
    pub(super) fn note_read(&mut self, bytes: &[u8], now: Instant) {
        if self.requests > 0 || bytes.is_empty() {
            return;
        }
        self.is_http2 |= !self.is_known && self.head.is_none() && bytes.starts_with(b"PRI ");
        let head = self.head.get_or_insert(Head { since: now, bytes: 0, room: None });
        head.bytes += bytes.len();
    }
}
