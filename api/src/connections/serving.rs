//! A request under way, and what it holds until the last byte of its response is written.

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

/// Responses up to this size are not counted: they are no larger than what a connection costs anyway.
const SMALL_RESPONSE: usize = 1_024;

/// A request from the end of its head until its response is written, or its connection is closed.
pub(crate) struct Serving {
    connection: Option<Arc<Connection>>,
    strangers: Shares<IpAddr>,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    account: Option<Account>,
    /// What was set aside for its response before the work began.
    reserved: Option<Share<Party>>,
    /// What its response takes.
    room: Option<Room>,
}

/// On whose account a request is.
struct Account {
    party: Party,
    /// Its place among the requests of that account.
    _place: Share<Party>,
    responses: Shares<Party>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// For its body, or its turn.
    Waiting,
    WorkedOn,
    Responding(Instant),
}

/// Whose bytes a response takes.
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

    /// Says on whose account it is. Holds its place among the requests of that account, and charges its response to
    /// the account's share of `responses`.
    pub(crate) fn belongs_to(&self, party: Party, place: Share<Party>, responses: Shares<Party>) {
        if let Some(connection) = &self.connection {
            connection.phase().party = Some(party);
        }
        self.state().account = Some(Account { party, _place: place, responses });
    }

    /// The API works on it from now on.
    pub(crate) fn work_begins(&self) {
        self.move_to(Stage::WorkedOn);
    }

    /// Holds what was set aside for its response.
    pub(crate) fn reserve(&self, share: Share<Party>) {
        self.state().reserved = Some(share);
    }

    /// Makes the request last until `response` is written.
    ///
    /// # Errors
    /// 503 where there is no room for the response, because the client does not read others.
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

    /// Charges the bytes of the response to its account, or to the client's address where it is on no account.
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

/// The body of a response, wherever it waits to be written: in the protocol's buffers too.
struct Unwritten {
    bytes: Bytes,
    _serving: Arc<Serving>,
}

impl AsRef<[u8]> for Unwritten {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
