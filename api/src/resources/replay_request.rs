//! The request that starts a bulk replay, and its checks.

use poem_openapi::Object;
use postrider_domain::delivery::{DeliveryStatus, ReplayMode};
use postrider_domain::event_type::EventType;
use postrider_domain::ids::EndpointId;
use postrider_store::replays::Selection;
use serde::{Deserialize, Serialize};

use crate::web::check::Checks;
use crate::web::json_types::{Id, Timestamp};
use crate::web::problem::Problem;
use crate::web::value_error::ValueError;

const MAX_ITEMS: usize = 100;
/// The statuses of deliveries that a bulk replay can reopen.
pub(crate) const REDRIVEN: [DeliveryStatus; 3] =
    [DeliveryStatus::DeadLetter, DeliveryStatus::Cancelled, DeliveryStatus::Failed];

/// What to replay. Only what matches all of the given fields is replayed.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateReplayRequest {
    /// What the replay does. `replay` creates new deliveries of old events, to the endpoints that are active and
    /// match them now. `redrive` reopens dead letters (or the deliveries that `statuses` selects) with one more
    /// attempt each. `missing` sends old events to the endpoints that are active and match them now, but only where
    /// no delivery of them has succeeded and none is open.
    mode: String,
    /// The ids of the endpoints to send to. If absent or null, all endpoints.
    #[oai(validator(min_items = 1, max_items = 100))]
    #[serde(default)]
    endpoint_ids: Option<Vec<Id>>,
    /// The types of the events to send. If absent or null, all types.
    #[oai(validator(min_items = 1, max_items = 100))]
    #[serde(default)]
    event_types: Option<Vec<String>>,
    /// For `redrive` only: the statuses of the deliveries to reopen, `dead_letter`, `cancelled` or `failed`. A
    /// `failed` delivery is still open and waits for a retry; it becomes due immediately and gets no extra attempt.
    /// If absent or null, `["dead_letter"]`.
    #[oai(validator(min_items = 1, max_items = 3))]
    #[serde(default)]
    statuses: Option<Vec<String>>,
    /// Only events (for `redrive`: deliveries) created at or after this time. If absent or null, everything that is
    /// still kept.
    #[serde(default)]
    created_after: Option<Timestamp>,
    /// Only events (for `redrive`: deliveries) created before this time. If absent, null or in the future, everything
    /// created before the request.
    #[serde(default)]
    created_before: Option<Timestamp>,
    /// If true, the replay only counts what it would send, and sends nothing. Default: false.
    #[serde(default)]
    dry_run: Option<bool>,
}

impl CreateReplayRequest {
    /// Checks all fields. Returns the selection, and true for a dry run.
    ///
    /// # Errors
    /// 422 with all mistakes.
    pub(crate) fn check(self) -> Result<(Selection, bool), Problem> {
        let mut checks = Checks::default();
        let mode = checks.value("mode", one_of(&self.mode, ReplayMode::ALL, ReplayMode::as_str));
        for (field, count) in [
            ("endpoint_ids", self.endpoint_ids.as_ref().map(Vec::len)),
            ("event_types", self.event_types.as_ref().map(Vec::len)),
        ] {
            if count.is_some_and(|count| !(1..=MAX_ITEMS).contains(&count)) {
                checks
                    .mistake(field, format!("must have 1 to {MAX_ITEMS} items; leave it out to select all"));
            }
        }
        if self.statuses.as_ref().is_some_and(|statuses| !(1..=REDRIVEN.len()).contains(&statuses.len())) {
            checks.mistake("statuses", format!("must have 1 to {} items", REDRIVEN.len()));
        }
        for (index, event_type) in self.event_types.iter().flatten().enumerate().take(MAX_ITEMS) {
            if let Err(error) = EventType::parse(event_type) {
                checks.mistake(format!("event_types[{index}]"), error.to_string());
            }
        }
        if self.statuses.is_some() && mode.is_some_and(|mode| mode != ReplayMode::Redrive) {
            checks.mistake(
                "statuses",
                "is only allowed with mode `redrive`; the other modes select events, which have no status",
            );
        }
        let statuses = self.statuses.map(|names| check_statuses(&mut checks, &names));
        let (created_after, created_before) =
            (self.created_after.map(|at| at.0), self.created_before.map(|at| at.0));
        if created_after.zip(created_before).is_some_and(|(after, before)| after >= before) {
            checks.mistake("created_before", "must be later than `created_after`");
        }
        checks.done()?;
        let selection = Selection {
            mode: mode.expect("an invalid mode was refused above"),
            endpoint_ids: self.endpoint_ids.map(|ids| ids.into_iter().map(|id| EndpointId(id.0)).collect()),
            event_types: self.event_types,
            statuses,
            created_after,
            created_before,
        };
        Ok((selection, self.dry_run.unwrap_or_default()))
    }
}

fn check_statuses(checks: &mut Checks, names: &[String]) -> Vec<DeliveryStatus> {
    let mut statuses: Vec<_> = (0..)
        .zip(names.iter().take(REDRIVEN.len()))
        .filter_map(|(index, name): (usize, _)| {
            checks.value(&format!("statuses[{index}]"), one_of(name, &REDRIVEN, DeliveryStatus::as_str))
        })
        .collect();
    statuses.sort_by_key(|status| status.as_str());
    statuses.dedup();
    statuses
}

fn one_of<T: Copy>(text: &str, all: &[T], name: impl Fn(T) -> &'static str) -> Result<T, ValueError> {
    let names: Vec<_> = all.iter().map(|&one| format!("`{}`", name(one))).collect();
    let found = all.iter().copied().find(|&one| name(one) == text);
    found.ok_or_else(|| ValueError::Name(names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(json: &str) -> Vec<String> {
        let request: CreateReplayRequest = serde_json::from_str(json).expect("a request");
        let problem = request.check().err();
        problem.into_iter().flat_map(|problem| problem.errors).map(|error| error.field).collect()
    }

    #[test]
    fn what_cannot_be_replayed_is_refused() {
        for (json, fields) in [
            (r#"{"mode":"replay"}"#, &[][..]),
            (r#"{"mode":"redrive","statuses":["dead_letter","failed","cancelled"],"dry_run":true}"#, &[]),
            (r#"{"mode":"resend"}"#, &["mode"]),
            (r#"{"mode":"replay","statuses":["dead_letter"]}"#, &["statuses"]),
            (r#"{"mode":"missing","dry_run":true}"#, &[]),
            (r#"{"mode":"missing","statuses":["dead_letter"]}"#, &["statuses"]),
            (r#"{"mode":"redrive","statuses":["failed","failed","failed","failed"]}"#, &["statuses"]),
            (r#"{"mode":"redrive","statuses":["succeeded","x"]}"#, &["statuses[0]", "statuses[1]"]),
            (
                r#"{"mode":"redrive","statuses":[],"endpoint_ids":[],"event_types":["a b"]}"#,
                &["endpoint_ids", "statuses", "event_types[0]"],
            ),
            (
                r#"{"mode":"replay","created_after":"2026-01-02T00:00:00Z","created_before":"2026-01-02T00:00:00Z"}"#,
                &["created_before"],
            ),
        ] {
            assert_eq!(mistakes(json), fields, "{json}");
        }
    }

    #[test]
    fn states_are_told_once_and_in_order() {
        let json = r#"{"mode":"redrive","statuses":["failed","dead_letter","failed"]}"#;
        let (selection, _) =
            serde_json::from_str::<CreateReplayRequest>(json).expect("one").check().expect("good");
        assert_eq!(selection.statuses, Some(vec![DeliveryStatus::DeadLetter, DeliveryStatus::Failed]));
    }
}
