//! Admission of requests. Before its body is read and before anything is looked up for it, a request takes its part
//! of its application's share. A request beyond the share waits a while and then gets a 503; other applications are
//! not affected. Its place among the requests and its response bytes are held until the response is written.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Uri, header};
use parking_lot::{Mutex, MutexGuard};
use poem::{Endpoint, Request};
use postrider_domain::share::{Share, Shares};
use postrider_store::applications::ApplicationRef;

use crate::app::App;
use crate::auth::party::Party;
use crate::auth::{self, Credential};
use crate::connections::Serving;
use crate::web::parameter::Parameter as _;
use crate::web::problem::Problem;

/// The most bytes of request bodies in this process.
const BODY_BYTES: u64 = 128 << 20;
/// How many bytes a body of unknown length counts for, and the most that any body counts for: nothing larger is kept.
const UNANNOUNCED_BYTES: u64 = 262_144;
const LARGEST_BYTES: u64 = 4 << 20;
/// The most bytes of responses in this process, not counting small ones.
const RESPONSE_BYTES: u64 = 128 << 20;
/// How many bytes are reserved for a response before the work begins, so that a change is never made without room to
/// report it. Only pages of lists are larger.
const EXPECTED_RESPONSE_BYTES: u64 = 262_144;
/// The units of work that one request takes.
const WORK_OF_A_REQUEST: u64 = 8;
/// How many requests of one application may be worked on at once.
const MOST_AT_WORK: u64 = 4;
/// How long a request waits for its part of a share.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the shares of request body bytes.
pub(crate) fn bodies() -> Shares<Party> {
    Shares::new(BODY_BYTES)
}

/// Returns the shares of response bytes.
pub(crate) fn responses() -> Shares<Party> {
    Shares::new(RESPONSE_BYTES)
}

/// Returns the shares of work for a pool of `connections` to PostgreSQL. There is room for four requests of one
/// application, or fewer if the pool is small, and always for one of another application. One connection is left for
/// short look-ups.
pub(crate) fn work(connections: usize) -> Shares<Party> {
    let of_one = (connections as u64).saturating_sub(2).clamp(1, MOST_AT_WORK);
    // By the rule of `share`, no party that already holds something gets the last unit.
    Shares::new(of_one * WORK_OF_A_REQUEST + WORK_OF_A_REQUEST + 1)
}

/// A request's turn to be worked on. It begins only after the body has arrived, so that a slow upload occupies no
/// place.
#[derive(Clone)]
pub(crate) struct Turn(Arc<TurnState>);

struct TurnState {
    app: Arc<App>,
    party: Party,
    /// False for publishing, which has queues of its own.
    is_needed: bool,
    serving: Option<Arc<Serving>>,
    held: Mutex<Option<Held>>,
}

struct Held {
    _work: Share<Party>,
    room: Share<Party>,
}

impl Turn {
    /// Waits for the turn, unless it has begun.
    ///
    /// # Errors
    /// 503 if the application has too many requests in flight, or does not read their responses.
    pub(crate) async fn begin(&self) -> Result<(), Problem> {
        let TurnState { app, party, is_needed, serving, .. } = &*self.0;
        if *is_needed && self.held().is_none() {
            let work = app.work.acquire(party, WORK_OF_A_REQUEST, PATIENCE).await.ok_or_else(exhausted)?;
            // Do not wait here: waiting for clients to read their responses would occupy a place of work.
            let room = app.responses.try_acquire(party, EXPECTED_RESPONSE_BYTES).ok_or_else(exhausted)?;
            *self.held() = Some(Held { _work: work, room });
        }
        if let Some(serving) = serving {
            serving.work_begins();
        }
        Ok(())
    }

    /// Ends the turn. What was reserved for the response is held until that is written.
    fn end(&self) {
        if let (Some(held), Some(serving)) = (self.held().take(), &self.0.serving) {
            serving.reserve(held.room);
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.0.held.lock()
    }

    /// Waits until no other request makes many deliveries, and keeps others from doing so until the returned share is
    /// dropped.
    ///
    /// # Errors
    /// 503 if too many requests of the application wait for the same.
    pub(crate) async fn to_fan_out(&self) -> Result<Share<Party>, Problem> {
        self.0.app.fan_outs.acquire(&self.0.party, 1, PATIENCE).await.ok_or_else(exhausted)
    }
}

/// Admits a request and serves it.
///
/// # Errors
/// 401 if it has a body and its key is unknown; 503 if its application has used up its share.
pub(crate) async fn admit<E: Endpoint>(next: Arc<E>, mut request: Request) -> poem::Result<E::Output> {
    let app = request.data::<Arc<App>>().expect("every route has the state").clone();
    let credential = Credential::of(&request, &app);
    request.set_data(credential.clone());
    // Without a valid credential, the operation itself refuses the request first, and the body is not read.
    let Ok(credential) = credential else { return next.call(request).await };
    let announced = announced_bytes(&mut request);
    let known = app.parties.of(&credential, named_application(request.uri())).await.map_err(Problem::from)?;
    let party = match known {
        Some(party) => party,
        None if announced > 0 => return Err(auth::invalid().into()),
        None => Party::Stranger,
    };
    let serving = request.data::<Arc<Serving>>().cloned();
    if let Some(serving) = &serving {
        let place = app.requests.try_acquire(&party, 1).ok_or_else(exhausted)?;
        serving.belongs_to(party, place, app.responses.clone());
    }
    let _bytes = match announced {
        0 => None,
        bytes => Some(app.bodies.acquire(&party, bytes, PATIENCE).await.ok_or_else(exhausted)?),
    };
    let turn = Turn(Arc::new(TurnState {
        app,
        party,
        is_needed: !is_publishing(&request),
        serving,
        held: Mutex::default(),
    }));
    if announced == 0 {
        turn.begin().await?;
    }
    request.set_data(turn.clone());
    let result = next.call(request).await;
    turn.end();
    result
}

/// Returns the application that the path or the query names.
fn named_application(uri: &Uri) -> Option<ApplicationRef> {
    let in_path = uri.path().strip_prefix("/v1/applications/").and_then(|rest| rest.split('/').next());
    let in_query = || {
        let query = uri.query()?.as_bytes();
        url::form_urlencoded::parse(query).find(|(name, _)| name == "application_id").map(|(_, value)| value)
    };
    let text = in_path.map(Cow::Borrowed).or_else(in_query)?;
    ApplicationRef::parse(&text).ok()
}

fn announced_bytes(request: &mut Request) -> u64 {
    let length = request.header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if let Some(length) = length {
        return length.min(LARGEST_BYTES);
    }
    let body = request.take_body();
    let is_empty = body.is_empty();
    request.set_body(body);
    if is_empty { 0 } else { UNANNOUNCED_BYTES }
}

fn is_publishing(request: &Request) -> bool {
    request.method() == Method::POST && matches!(request.uri().path(), "/v1/events" | "/v1/events/batch")
}

/// 503: the application has used up its share.
pub(crate) fn exhausted() -> Problem {
    Problem::unavailable(
        "share_exhausted",
        "The application has too many requests in progress or too many unread responses. Send fewer \
         requests at the same time, and read the responses.",
    )
}

#[cfg(test)]
mod tests {
    use postrider_domain::ids::ApplicationId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn one_application_leaves_room_for_another_and_a_connection_for_look_ups() {
        let [one, another] = [1, 2].map(|number| Party::Application(ApplicationId(Uuid::from_u128(number))));
        for (connections, most) in [(2, 1), (3, 1), (4, 2), (5, 3), (6, 4), (8, 4), (1_000, 4)] {
            let work = work(connections);
            let held: Vec<_> = std::iter::from_fn(|| work.try_acquire(&one, WORK_OF_A_REQUEST)).collect();
            assert_eq!(held.len(), most, "{connections} connections");
            let of_another = work.try_acquire(&another, WORK_OF_A_REQUEST);
            assert!(of_another.is_some(), "{connections} connections");
            assert!(work.try_acquire(&another, WORK_OF_A_REQUEST).is_none(), "{connections} connections");
        }
    }
}
