//! A request under way, and what it holds until the last byte of its response is written.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use poem::Response;
use postrider_shared::share::{Share, Shares};

use super::connection::Connection;
use crate::auth::party::Party;
use crate::web::problem::Problem;

/// Responses up to this size are not counted: they are no larger than what a connection costs anyway.
pub(crate) const SMALL_RESPONSE: usize = 1_024;

/// A request from the end of its head until its response is written, or its connection is closed.
pub(crate) struct Serving {
    connection: Option<Arc<Connection>>,
    strangers: Shares<IpAddr>,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    /// Its place among the requests of its application.
    place: Option<Share<Party>>,
    room: Option<Room>,
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
        let state = State { stage: Stage::Waiting, place: None, room: None };
        Self { connection, strangers, state: Mutex::new(state) }
    }

    /// Says on whose account it is, and holds its place among the requests of that account.
    pub(crate) fn belongs_to(&self, party: Party, place: Share<Party>) {
        if let Some(connection) = &self.connection {
            connection.phase().party = Some(party);
        }
        self.state().place = Some(place);
    }

    /// The API works on it from now on.
    pub(crate) fn work_begins(&self) {
        self.move_to(Stage::WorkedOn);
    }

    /// Holds room for the bytes of its response.
    pub(crate) fn hold_room(&self, share: Share<Party>) {
        self.state().room = Some(Room::Party(share));
    }

    /// Makes the request last until `response` is written.
    ///
    /// # Errors
    /// 503 where there is no room for a response that is on nobody's account.
    pub(crate) async fn respond(self: Arc<Self>, mut response: Response) -> Result<Response, Problem> {
        let bytes = response.take_body().into_bytes().await.map_err(|_| Problem::internal())?;
        if bytes.len() <= SMALL_RESPONSE {
            response.set_body(bytes);
            return Ok(response);
        }
        if let Some(connection) = &self.connection {
            let mut state = self.state();
            if state.room.is_none() {
                let share = self.strangers.try_acquire(&connection.peer.ip(), bytes.len() as u64);
                let share = share.ok_or_else(|| {
                    Problem::unavailable("share_exhausted", "Read the responses to your requests.")
                })?;
                state.room = Some(Room::Stranger(share));
            }
        }
        self.move_to(Stage::Responding(Instant::now()));
        response.set_body(Bytes::from_owner(Unwritten { bytes, _serving: self }));
        Ok(response)
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
