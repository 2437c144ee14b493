//! Whether a request is let in: before its body is read and before anything is looked up for it, it takes its part
//! of what its application may have. Who exceeds that waits a while and is then told so; nobody else is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Version, header};
use poem::{Endpoint, Request};
use postrider_shared::share::{Share, Shares};

use crate::app::App;
use crate::auth::party::Party;
use crate::auth::{self, Credential};
use crate::web::problem::Problem;

/// Bytes of request bodies that this process holds, at most.
const BODY_BYTES: u64 = 128 << 20;
/// What a body is counted for that does not say how long it is, and what one counts for at most: nothing larger is
/// kept.
const UNANNOUNCED_BYTES: u64 = 262_144;
const LARGEST_BYTES: u64 = 4 << 20;
/// What a request takes of the work, and how much there is. So one application has four requests under way, and
/// there is always room for one of another.
const WORK_OF_A_REQUEST: u64 = 2;
const WORK: u64 = 11;
/// How long a request waits for its part.
const PATIENCE: Duration = Duration::from_secs(10);

/// The room for bodies.
pub(crate) fn bodies() -> Shares<Party> {
    Shares::new(BODY_BYTES)
}

/// The room for work.
pub(crate) fn work() -> Shares<Party> {
    Shares::new(WORK)
}

/// A request's turn to be worked on, once its body has arrived: one that drips holds no place.
#[derive(Clone)]
pub(crate) struct Turn(Arc<TurnState>);

struct TurnState {
    work: Shares<Party>,
    fan_outs: Shares<Party>,
    party: Party,
    /// What is published has lines of its own.
    is_needed: bool,
    held: Mutex<Option<Share<Party>>>,
}

impl Turn {
    /// Waits for it.
    ///
    /// # Errors
    /// 503 where the application has too many requests under way.
    pub(crate) async fn begin(&self) -> Result<(), Problem> {
        if self.0.is_needed {
            let share = self.0.work.acquire(&self.0.party, WORK_OF_A_REQUEST, PATIENCE).await;
            let share = share.ok_or_else(exhausted)?;
            *self.0.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(share);
        }
        Ok(())
    }

    /// Waits until no other request makes many deliveries, and keeps others from it until what this returns is dropped.
    ///
    /// # Errors
    /// 503 where too many of the application's wait for the same.
    pub(crate) async fn to_fan_out(&self) -> Result<Share<Party>, Problem> {
        self.0.fan_outs.acquire(&self.0.party, 1, PATIENCE).await.ok_or_else(exhausted)
    }
}

/// Lets a request in and serves it.
///
/// # Errors
/// 401 where it has a body and its key is unknown, 503 where its application has its share already.
pub(crate) async fn admit<E: Endpoint>(next: Arc<E>, mut request: Request) -> poem::Result<E::Output> {
    let app = request.data::<Arc<App>>().expect("the state is given to every route").clone();
    let credential = Credential::of(&request, &app);
    request.set_data(credential.clone());
    // One that proves nothing is refused where every operation looks first, and its body is not read.
    let Ok(credential) = credential else { return next.call(request).await };
    let announced = announced_bytes(&request);
    let known = app.parties.of(&credential, request.uri()).await.map_err(Problem::from)?;
    let party = match known {
        Some(party) => party,
        None if announced > 0 => return Err(auth::invalid().into()),
        None => Party::Stranger,
    };
    let _bytes = match announced {
        0 => None,
        bytes => Some(app.bodies.acquire(&party, bytes, PATIENCE).await.ok_or_else(exhausted)?),
    };
    let turn = Turn(Arc::new(TurnState {
        work: app.work.clone(),
        fan_outs: app.fan_outs.clone(),
        party,
        is_needed: !is_publishing(&request),
        held: Mutex::default(),
    }));
    if announced == 0 {
        turn.begin().await?;
    }
    request.set_data(turn);
    next.call(request).await
}

fn announced_bytes(request: &Request) -> u64 {
    let headers = request.headers();
    match headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok()) {
        Some(length) => length.min(LARGEST_BYTES),
        None if headers.contains_key(header::TRANSFER_ENCODING) => UNANNOUNCED_BYTES,
        // HTTP/2 needs to say neither.
        None if request.version() == Version::HTTP_2 && request.method() != Method::GET => UNANNOUNCED_BYTES,
        None => 0,
    }
}

fn is_publishing(request: &Request) -> bool {
    request.method() == Method::POST && matches!(request.uri().path(), "/v1/events" | "/v1/events/batch")
}

fn exhausted() -> Problem {
    Problem::unavailable(
        "share_exhausted",
        "The application has as many requests under way as is its share. Send fewer at once.",
    )
}
