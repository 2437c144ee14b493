//! Accepts what producers have emitted in transactions of their own, as if it had been posted.
//!
//! An event is accepted first and then leaves the inbox: whoever dies in between finds it accepted, by its
//! idempotency key. One api at a time does this; the others stand by.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_domain::event::{NewEvent, Producer};
use postrider_domain::ids::ApplicationId;
use postrider_runtime::failpoint;
use postrider_runtime::health::Health;
use postrider_store::inbox::{EmissionId, Emitted, Inbox, Refusal};
use postrider_store::{DatabaseConfig, StoreError};
use tokio_util::sync::CancellationToken;

use crate::accept::idempotency_key::check_idempotency_key;
use crate::accept::inbox_lines::InboxLines;
use crate::accept::load::{is_heavy, rest_after};
use crate::accept::posted::Posted;
use crate::accept::{Mode, PublishResult, accept_all};
use crate::app::App;
use crate::web::problem::Problem;

/// How often it looks without having heard anything.
const POLL: Duration = Duration::from_secs(1);
/// After a failure, nothing is tried for this long.
const PAUSE: Duration = Duration::from_millis(500);

/// What the log calls it.
const PART: &str = "api_inbox";

/// Empties the inbox until `stop`.
pub(crate) async fn run(app: Arc<App>, config: DatabaseConfig, stop: CancellationToken) {
    // For the log alone: an API that cannot empty the inbox is ready for requests nevertheless.
    let health = Health::default();
    loop {
        let session = async { empty(&app, &mut Inbox::open(&config).await?, &health).await };
        let Some(result) = stop.run_until_cancelled(session).await else { return };
        if let Err(error) = result {
            health.down(PART, error);
        }
        if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

/// Accepts what comes, until the session is lost.
async fn empty(app: &App, inbox: &mut Inbox, health: &Health) -> Result<(), StoreError> {
    let mut lines = InboxLines::default();
    loop {
        let expect = |application| app.batcher.expect_of(&Producer::Admin(application));
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
        if !batch.is_empty() {
            let began = Instant::now();
            let emitted = inbox.read(&batch).await?;
            let Promoted { accepted, refused, postponed } = inbox.during(promote(app, emitted)).await?;
            failpoint::die_at("api.before_inbox_finish");
            inbox.finish(&accepted, &refused).await?;
            if batch.iter().filter_map(|found| found.application_id).any(|of| is_heavy(expect(of))) {
                lines.rest(Instant::now() + rest_after(began.elapsed()));
            }
            batch.retain(|found| postponed.contains(&found.id));
            lines.postpone(Instant::now(), batch);
        } else if !inbox.wait(lines.resting(Instant::now()).unwrap_or(POLL)).await {
            return Ok(());
        }
    }
}

/// What became of events that were emitted.
#[derive(Default)]
struct Promoted {
    /// They leave the inbox.
    accepted: Vec<EmissionId>,
    /// They never can be.
    refused: Vec<Refusal>,
    /// They are to be tried again.
    postponed: HashSet<EmissionId>,
}

impl Promoted {
    /// Notes an event that can never be accepted. Producers are told of theirs; what Postrider itself had to say to an
    /// application that is gone is of no use to anybody.
    fn refuse(&mut self, mark: Mark, problem: &Problem) {
        if mark.is_operational {
            self.accepted.push(mark.id);
            return;
        }
        self.refused.push(Refusal {
            id: mark.id,
            application_id: mark.application_id,
            code: problem.code.to_owned(),
            detail: problem.detail.clone(),
            errors: serde_json::to_string(&problem.errors).expect("errors are plain data"),
        });
    }
}

/// What is kept of an event while it is being accepted.
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

/// Accepts what can be.
async fn promote(app: &App, emitted: Vec<Emitted>) -> Promoted {
    let mut promoted = Promoted::default();
    let (mut events, mut marks) = (Vec::new(), Vec::new());
    for emitted in emitted {
        let mark = Mark::of(&emitted);
        match compose(emitted) {
            Ok(event) => {
                events.push(event);
                marks.push(mark);
            }
            Err(problem) => promoted.refuse(mark, &problem),
        }
    }
    let answers =
        if events.is_empty() { Ok(Vec::new()) } else { accept_all(app, events, Mode::InOrder).await };
    let Ok(answers) = answers else {
        promoted.postponed.extend(marks.into_iter().map(|mark| mark.id));
        return promoted;
    };
    for (mark, answer) in marks.into_iter().zip(answers) {
        count(&answer);
        match answer {
            Ok(_) => promoted.accepted.push(mark.id),
            Err(problem) if problem.status.is_server_error() => {
                promoted.postponed.insert(mark.id);
            }
            Err(problem) => promoted.refuse(mark, &problem),
        }
    }
    promoted
}

/// The same checks as for what is posted.
fn compose(emitted: Emitted) -> Result<NewEvent, Problem> {
    let application =
        emitted.application_id.ok_or_else(|| Problem::not_found("application_not_found", "application"))?;
    let idempotency_key = check_idempotency_key("idempotency_key", emitted.idempotency_key.as_bytes())?;
    let event = if emitted.is_operational {
        Posted::operational(&emitted.event_type, emitted.data)?
    } else {
        Posted::check(&emitted.event_type, &emitted.data)?
    };
    // It is committed already: no limit can slow its producer down.
    Ok(NewEvent { is_admitted: true, ..event.by(Producer::Admin(application), idempotency_key) })
}

fn count(answer: &PublishResult) {
    let outcome = match answer {
        Ok(event) if event.duplicate => "duplicate",
        Ok(_) => "accepted",
        Err(problem) if problem.status.is_server_error() => "postponed",
        Err(_) => "rejected",
    };
    metrics::counter!("postrider_inbox_events_total", "outcome" => outcome).increment(1);
}
