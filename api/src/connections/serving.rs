//! A request in flight, and what it holds until the last byte of its response is written.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use poem::Response;
use postrider_domain::share::{Share, Shares};

use super::connection::Connection;
use crate::auth::party::Party;
use crate::web::admission::exhausted;
use crate::web::problem::Problem;

/// Responses up to this size are not counted. They are no larger than what a connection uses anyway.
const SMALL_RESPONSE: usize = 1_024;

/// A request, from the end of its head until its response is written or its connection is closed.
pub(crate) struct Serving {
    connection: Option<Arc<Connection>>,
    strangers: Shares<IpAddr>,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    account: Option<Account>,
    /// What was reserved for its response before the work began.
    reserved: Option<Share<Party>>,
    /// The bytes of its response.
    room: Option<Room>,
}

/// The party that a request counts for.
struct Account {
    party: Party,
    /// Its place among the party's requests.
    _place: Share<Party>,
    responses: Shares<Party>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for its body, or for its turn.
    Waiting,
    WorkedOn,
    Responding(Instant),
}

/// The share that a response uses.
#[expect(dead_code, reason = "they are held, and released when they are dropped")]
enum Room {
    Party(Share<Party>),
    Stranger(Share<IpAddr>),
}

impl Serving {
    pub(super) fn new(connection: Option<Arc<Connection>>, strangers: Shares<IpAddr>) -> Self {
        if let Some(connection) = &connection {
            connection.phase().request_begins();
        }
        let state = State { stage: Stage::Waiting, account: None, reserved: None, room: None };
        Self { connection, strangers, state: Mutex::new(state) }
    }

    /// Sets the party that the request counts for. Holds its place among the requests of that party, and charges its
    /// response to the party's share of `responses`.
    pub(crate) fn belongs_to(&self, party: Party, place: Share<Party>, responses: Shares<Party>) {
        if let Some(connection) = &self.connection {
            connection.phase().party = Some(party);
        }
        self.state().account = Some(Account { party, _place: place, responses });
    }

    /// Marks the request as being worked on.
    pub(crate) fn work_begins(&self) {
        self.move_to(Stage::WorkedOn);
    }

    /// Holds what was reserved for its response.
    pub(crate) fn reserve(&self, share: Share<Party>) {
        self.state().reserved = Some(share);
    }

    /// Keeps the request in flight until `response` is written.
    ///
    /// # Errors
    /// 503 if there is no room for the response, because the client does not read earlier ones.
    pub(crate) async fn respond(self: Arc<Self>, mut response: Response) -> Result<Response, Problem> {
        let bytes = response.take_body().into_bytes().await.map_err(|_| Problem::internal())?;
        if bytes.len() <= SMALL_RESPONSE {
            response.set_body(bytes);
            return Ok(response);
        }
        self.take_room(bytes.len() as u64)?;
        self.move_to(Stage::Responding(Instant::now()));
        response.set_body(Bytes::from_owner(Unwritten { bytes, _serving: self }));
        Ok(response)
    }

    /// Charges the bytes of the response to the party, or to the client's address if there is no party.
    fn take_room(&self, size: u64) -> Result<(), Problem> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let mut state = self.state();
        let reserved = state.reserved.take();
        let room = match &state.account {
            Some(Account { party, responses, .. }) => {
                let room = reserved.or_else(|| responses.try_acquire(party, 0));
                let mut room = room.ok_or_else(exhausted)?;
                if !room.grow(size.saturating_sub(room.amount())) {
                    return Err(exhausted());
                }
                room.shrink(size);
                Room::Party(room)
            }
            None => {
                let room = self.strangers.try_acquire(&connection.peer.ip(), size);
                let detail =
                    "Your address has too many unread responses. Read the responses, then try again.";
                let unread = || Problem::unavailable("share_exhausted", detail);
                Room::Stranger(room.ok_or_else(unread)?)
            }
        };
        state.room = Some(room);
        Ok(())
    }

    fn move_to(&self, stage: Stage) {
        let before = std::mem::replace(&mut self.state().stage, stage);
        if let Some(connection) = &self.connection {
            let mut phase = connection.phase();
            match before {
                Stage::Waiting => {}
                Stage::WorkedOn => phase.worked_on -= 1,
                Stage::Responding(began) => {
                    if let Some(place) = phase.responses.iter().position(|&other| other == began) {
                        phase.responses.remove(place);
                    }
                }
            }
            match stage {
                Stage::Waiting => {}
                Stage::WorkedOn => phase.worked_on += 1,
                Stage::Responding(began) => phase.responses.push(began),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.move_to(Stage::Waiting);
        if let Some(connection) = &self.connection {
            connection.phase().request_ends(Instant::now());
        }
    }
}

/// The body of a response until it is written, including the time it spends in the protocol's buffers.
struct Unwritten {
    bytes: Bytes,
    _serving: Arc<Serving>,
}

impl AsRef<[u8]> for Unwritten {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
