//! Events are accepted: checked against the schemas of their types, stored, and answered for.

pub(crate) mod batch;
pub(crate) mod fanout;
pub(crate) mod idempotency_key;
pub(crate) mod inbox;
mod inbox_lines;
pub(crate) mod ingest_limit;
pub(crate) mod known_schemas;
pub(crate) mod load;
pub(crate) mod posted;
pub(crate) mod queue;

use std::collections::HashMap;

use http::StatusCode;
use poem_openapi::Object;
use postrider_domain::event::{Accepted, NewEvent, Producer};
use serde::Serialize;
use uuid::Uuid;

use crate::accept::batch::{Outcome, Rejection};
use crate::app::App;
use crate::auth::{self, Scope};
use crate::web::problem::{FieldError, Problem};

/// How often an event is checked again because the schema of its type, or the limit of its application, was not
/// what it was thought to be.
const ROUNDS: usize = 5;

/// An accepted event.
#[derive(Debug, Object, Serialize)]
pub(crate) struct PublishedEvent {
    /// Always `accepted`.
    pub(crate) status: String,
    /// The id of the event. It is also the `webhook-id` of every attempt to deliver the event.
    pub(crate) event_id: Uuid,
    /// The number of endpoints that the event is delivered to.
    pub(crate) deliveries_queued: i32,
    /// True if the event was already published with the same key. Nothing is delivered again in that case.
    pub(crate) duplicate: bool,
}

/// What became of one event.
pub(crate) type PublishResult = Result<PublishedEvent, Problem>;

/// An event that has no answer yet, and what its schema says of it.
struct Unfinished {
    index: usize,
    event: NewEvent,
    violations: Vec<FieldError>,
}

/// How events come to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With what others post, in turn: all are of one producer.
    Queued,
    /// By themselves, in their order.
    InOrder,
}

/// Stores one event.
///
/// # Errors
/// With why it was not stored.
pub(crate) async fn accept(app: &App, event: NewEvent) -> PublishResult {
    accept_all(app, vec![event], Mode::Queued).await?.pop().unwrap_or_else(|| Err(Problem::internal()))
}

/// Stores events, each by itself: one answer for each, in the same order.
///
/// # Errors
/// When none was taken in.
pub(crate) async fn accept_all(
    app: &App,
    events: Vec<NewEvent>,
    mode: Mode,
) -> Result<Vec<PublishResult>, Problem> {
    let mut answers: Vec<Option<PublishResult>> = events.iter().map(|_| None).collect();
    let mut open: Vec<Unfinished> =
        (0..).zip(events).map(|(index, event)| Unfinished { index, event, violations: Vec::new() }).collect();
    for round in 0..ROUNDS {
        let checked = check(app, std::mem::take(&mut open), mode, &mut answers).await;
        let (events, marks): (Vec<_>, Vec<_>) = checked
            .into_iter()
            .map(|Unfinished { index, event, violations }| (event, (index, violations)))
            .unzip();
        let indices: Vec<usize> = marks.iter().map(|(index, _)| *index).collect();
        let submitted = match submit(app, events, mode).await {
            Ok(submitted) => submitted,
            Err(rejection) if round == 0 => return Err(rejected(rejection)),
            Err(rejection) => {
                for index in indices {
                    answers[index] = Some(Err(rejected(rejection)));
                }
                break;
            }
        };
        let mut learned = Vec::new();
        for ((index, violations), submitted) in marks.into_iter().zip(submitted) {
            let Some((event, outcome)) = submitted else {
                answers[index] = Some(Err(Problem::database_unavailable()));
                continue;
            };
            if let Ok(Accepted::NotAdmitted(application)) = outcome {
                app.ingest_limits.learn(event.producer.clone(), application);
                open.push(Unfinished { index, event, violations: Vec::new() });
            } else if let Ok(Accepted::SchemaChanged(application)) = outcome {
                let schema = (application, event.event_type.clone());
                if !learned.contains(&schema) {
                    learned.push(schema);
                    match app.schemas.learn(&event, application).await {
                        Ok(()) => {}
                        // What comes behind it waits too.
                        Err(problem) if mode == Mode::InOrder => return Err(problem),
                        Err(problem) => {
                            answers[index] = Some(Err(problem));
                            continue;
                        }
                    }
                }
                open.push(Unfinished { index, event, violations: Vec::new() });
            } else {
                if outcome == Ok(Accepted::UnknownKey) {
                    app.ingest_limits.forget(&event.producer);
                }
                answers[index] = Some(answer(&event.producer, outcome, violations));
            }
        }
        if open.is_empty() {
            break;
        }
    }
    Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(changing()))).collect())
}

async fn submit(
    app: &App,
    events: Vec<NewEvent>,
    mode: Mode,
) -> Result<Vec<Option<(NewEvent, Outcome)>>, Rejection> {
    match mode {
        Mode::Queued => {
            let Some(first) = events.first() else { return Ok(Vec::new()) };
            let party = app.parties.of_producer(&first.producer);
            Ok(app.batcher.submit_all(party, events)?.await)
        }
        Mode::InOrder => Ok(app.batcher.store_in_order(events).await),
    }
}

/// Asks the budget of the application for what is open, and checks it; what is refused is answered. In order,
/// what comes behind one of the same producer that cannot be checked now waits too.
async fn check(
    app: &App,
    open: Vec<Unfinished>,
    mode: Mode,
    answers: &mut [Option<PublishResult>],
) -> Vec<Unfinished> {
    let mut checked = Vec::with_capacity(open.len());
    let mut held: HashMap<Producer, Problem> = HashMap::new();
    let is_alone = open.len() == 1;
    for mut item in open {
        if let Some(problem) = held.get(&item.event.producer) {
            answers[item.index] = Some(Err(problem.clone()));
            continue;
        }
        let admitted = app.ingest_limits.admit(&mut item.event).await;
        let violations = match admitted {
            Ok(()) => {
                let party = app.parties.of_producer(&item.event.producer);
                app.schemas.check(&party, &mut item.event).await
            }
            Err(problem) => Err(problem),
        };
        match violations {
            Ok(violations) => checked.push(Unfinished { violations, ..item }),
            Err(problem) => {
                if mode == Mode::InOrder && problem.status.is_server_error() {
                    held.insert(item.event.producer, problem.clone());
                }
                answers[item.index] = Some(Err(problem));
            }
        }
        if !is_alone {
            // A thousand of them are not checked in one go.
            tokio::task::yield_now().await;
        }
    }
    checked
}

fn answer(producer: &Producer, outcome: Outcome, violations: Vec<FieldError>) -> PublishResult {
    match outcome.map_err(rejected)? {
        Accepted::Stored { event_id, deliveries_queued, duplicate, cost: _ } => {
            let label = if duplicate { "true" } else { "false" };
            metrics::counter!("postrider_events_accepted_total", "duplicate" => label).increment(1);
            Ok(PublishedEvent {
                status: "accepted".to_owned(),
                event_id: event_id.0,
                deliveries_queued,
                duplicate,
            })
        }
        Accepted::KeyReused => Err(Problem::new(
            StatusCode::CONFLICT,
            "idempotency_key_reused",
            "This idempotency key was already used for a different event. Use a new key for each new event.",
        )),
        Accepted::SchemaViolation => {
            Err(Problem { code: "schema_violation", ..Problem::invalid(violations) })
        }
        // The rounds are over, and neither the schema nor the limit has stayed what it was.
        Accepted::SchemaChanged(_) | Accepted::NotAdmitted(_) => Err(changing()),
        Accepted::UnknownEventType => Err(Problem::refused_field(
            "unknown_event_type",
            "event_type",
            "is not in the event type catalogue of the application, and the application only accepts types \
             of its catalogue; add the type first",
        )),
        Accepted::InactiveApplication => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "application_inactive",
            "The application is not active, so it cannot publish events. Activate it first.",
        )),
        Accepted::Forbidden => Err(auth::scope_required(Scope::Publish.as_str())),
        Accepted::UnknownApplication if matches!(producer, Producer::Admin(_)) => {
            Err(Problem::not_found("application_not_found", "application"))
        }
        Accepted::UnknownApplication | Accepted::UnknownKey => Err(auth::invalid()),
    }
}

fn changing() -> Problem {
    Problem::unavailable(
        "schema_changing",
        "The schema of this event type, or the rate limit of the application, keeps changing. Try again \
         with the same key.",
    )
}

fn rejected(rejection: Rejection) -> Problem {
    match rejection {
        Rejection::NotStorable => Problem::refused_field(
            "data_not_storable",
            "data",
            "cannot be stored in the database; look for unusual numbers or characters",
        ),
        Rejection::KeyBusy => Problem::unavailable(
            "idempotency_key_busy",
            "Another request with this idempotency key is in progress. Try again with the same key.",
        ),
        Rejection::Busy => Problem::busy(),
        Rejection::Unavailable => Problem::database_unavailable(),
        Rejection::TooCostly => Problem::unavailable(
            "event_too_costly",
            "Matching this event with the filters of the application's endpoints took too long. Simplify \
             the filters, or send a smaller event.",
        ),
        Rejection::Overloaded => Problem::unavailable(
            "overloaded",
            "More events are arriving than can be stored. Try again with the same key, at a lower rate.",
        ),
        Rejection::Stopping => {
            Problem::unavailable("stopping", "This server is shutting down. Try again with the same key.")
        }
    }
}
