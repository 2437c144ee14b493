//! Accepts the events that producers emitted in transactions of their own, as if they had been posted.
//!
//! An event is accepted first and removed from the inbox afterwards. After a crash in between, its idempotency key
//! shows that it was accepted. One API process at a time does this; the others stand by.

mod lines;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_domain::event::{NewEvent, Producer};
use postrider_domain::ids::ApplicationId;
use postrider_runtime::every::{Next, Step};
use postrider_runtime::failpoint;
use postrider_runtime::health::Health;
use postrider_store::inbox::{EmissionId, Emitted, Inbox, Refusal};
use postrider_store::{DatabaseConfig, StoreError};

use crate::accept::error::AcceptError;
use crate::accept::idempotency_key::check_idempotency_key;
use crate::accept::load::{is_heavy, rest_after};
use crate::accept::posted::Posted;
use crate::accept::{AcceptResult, Acceptor, Mode};
use crate::app::App;
use crate::inbox::lines::InboxLines;
use crate::metric;
use crate::readiness::SchemaReady;
use crate::web::problem::Problem;

/// How often the inbox is polled without a notification.
pub(crate) const CADENCE: Duration = Duration::from_secs(1);

/// The name in the log.
const PART: &str = "api_inbox";

/// Empties the inbox, as a background task.
pub(crate) struct InboxLoop {
    config: DatabaseConfig,
    schema_ready: SchemaReady,
    session: Option<Session>,
    /// Used for logging only: an API that cannot empty the inbox can still serve requests.
    health: Health,
}

/// A session that listens for new events, and the events it has found.
struct Session {
    inbox: Inbox,
    lines: InboxLines,
}

impl InboxLoop {
    /// Creates the task, which begins once the schema is ready.
    pub(crate) fn new(config: DatabaseConfig, schema_ready: SchemaReady) -> Self {
        Self { config, schema_ready, session: None, health: Health::default() }
    }

    async fn session(&mut self) -> Result<&mut Session, StoreError> {
        match &mut self.session {
            Some(session) => Ok(session),
            session => {
                let inbox = Inbox::open(&self.config).await?;
                Ok(session.insert(Session { inbox, lines: InboxLines::default() }))
            }
        }
    }
}

impl Step<App> for InboxLoop {
    async fn run(&mut self, app: &Arc<App>) -> Result<Next, StoreError> {
        self.schema_ready.reached().await;
        let health = self.health.clone();
        let step = async { self.session().await?.step(&app.acceptor, &health).await };
        let result = step.await;
        if let Err(error) = &result {
            self.session = None;
            health.down(PART, error);
        }
        result
    }

    async fn woken(&mut self, _: &Arc<App>) -> Result<(), StoreError> {
        if let Some(session) = &mut self.session
            && !session.inbox.wait(CADENCE).await
        {
            self.session = None;
        }
        Ok(())
    }
}

impl Session {
    /// Accepts one batch of waiting events.
    async fn step(&mut self, acceptor: &Acceptor, health: &Health) -> Result<Next, StoreError> {
        let Self { inbox, lines } = self;
        let expect = |application| acceptor.expect_of(&Producer::Admin(application));
        let mut batch = Vec::new();
        if inbox.lead().await? {
            let is_full = inbox.is_full_due(lines.is_short());
            if is_full {
                lines.begin_full_look();
            }
            inbox.look(is_full, |found| lines.add(found)).await?;
            batch = lines.take(Instant::now(), expect);
        }
        health.up(PART);
        if batch.is_empty() {
            return Ok(lines.resting(Instant::now()).map_or(Next::Later, Next::Within));
        }
        let began = Instant::now();
        let emitted = inbox.read(&batch).await?;
        let Promoted { accepted, refused, postponed } = inbox.during(promote(acceptor, emitted)).await?;
        failpoint::die_at("api.before_inbox_finish");
        inbox.finish(&accepted, &refused).await?;
        if batch.iter().filter_map(|found| found.application_id).any(|of| is_heavy(expect(of))) {
            lines.rest(Instant::now() + rest_after(began.elapsed()));
        }
        batch.retain(|found| postponed.contains(&found.id));
        lines.postpone(Instant::now(), batch);
        Ok(Next::Now)
    }
}

/// The results of a batch.
#[derive(Default)]
struct Promoted {
    /// Accepted; to be removed from the inbox.
    accepted: Vec<EmissionId>,
    /// Can never be accepted; to be moved to the rejections.
    refused: Vec<Refusal>,
    /// To be tried again later.
    postponed: HashSet<EmissionId>,
}

impl Promoted {
    /// Records an event that can never be accepted, with the problem that a request would have got. An operational
    /// event is dropped instead: its application is gone, so no one would read the rejection.
    fn refuse(&mut self, mark: Mark, error: AcceptError) {
        if mark.is_operational {
            self.accepted.push(mark.id);
            return;
        }
        let problem = Problem::from(error);
        self.refused.push(Refusal {
            id: mark.id,
            application_id: mark.application_id,
            code: problem.code.to_owned(),
            detail: problem.detail,
            errors: serde_json::to_string(&problem.errors).expect("errors are plain data"),
        });
    }
}

/// What is remembered about an event while it is being accepted.
struct Mark {
    id: EmissionId,
    application_id: Option<ApplicationId>,
    is_operational: bool,
}

impl Mark {
    fn of(emitted: &Emitted) -> Self {
        let Emitted { id, application_id, is_operational, .. } = *emitted;
        Self { id, application_id, is_operational }
    }
}

/// Accepts the events that can be accepted.
async fn promote(acceptor: &Acceptor, emitted: Vec<Emitted>) -> Promoted {
    let mut promoted = Promoted::default();
    let (mut events, mut marks) = (Vec::new(), Vec::new());
    for emitted in emitted {
        let mark = Mark::of(&emitted);
        match compose(emitted) {
            Ok(event) => {
                events.push(event);
                marks.push(mark);
            }
            Err(error) => promoted.refuse(mark, error),
        }
    }
    let results = match events.is_empty() {
        true => Ok(Vec::new()),
        false => acceptor.accept_all(events, Mode::InOrder).await,
    };
    let Ok(results) = results else {
        promoted.postponed.extend(marks.into_iter().map(|mark| mark.id));
        return promoted;
    };
    for (mark, result) in marks.into_iter().zip(results) {
        count(&result);
        match result {
            Ok(_) => promoted.accepted.push(mark.id),
            Err(error) if error.is_retryable() => {
                promoted.postponed.insert(mark.id);
            }
            Err(error) => promoted.refuse(mark, error),
        }
    }
    promoted
}

/// Applies the same checks as for posted events.
fn compose(emitted: Emitted) -> Result<NewEvent, AcceptError> {
    let application = emitted.application_id.ok_or(AcceptError::UnknownApplication)?;
    let idempotency_key = check_idempotency_key(emitted.idempotency_key.as_bytes())?;
    let event = if emitted.is_operational {
        Posted::operational(&emitted.event_type, emitted.data)?
    } else {
        Posted::check(&emitted.event_type, &emitted.data)?
    };
    // It is already committed, so the rate limit could not slow its producer down.
    Ok(NewEvent { is_admitted: true, ..event.by(Producer::Admin(application), idempotency_key) })
}

fn count(result: &AcceptResult) {
    let outcome = match result {
        Ok(event) if event.is_duplicate => "duplicate",
        Ok(_) => "accepted",
        Err(error) if error.is_retryable() => "postponed",
        Err(_) => "rejected",
    };
    metrics::counter!(metric::INBOX_EVENTS, "outcome" => outcome).increment(1);
}
