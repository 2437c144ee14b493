//! The report of the demo.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use url::Url;

use crate::receive::Verification;

/// What happened to one event.
#[derive(Debug)]
pub(super) struct Journey {
    /// The event type.
    pub(super) event_type: &'static str,
    /// The event's id, which is the `webhook-id`.
    pub(super) event_id: String,
    /// When the event was posted.
    pub(super) posted_at: Instant,
    /// Time until the API accepted the event.
    pub(super) accepted_after: Duration,
    /// Time until the receiver verified and accepted the event; `None` if it did not.
    pub(super) delivered_after: Option<Duration>,
    /// The receiver's verification of the last attempt.
    pub(super) verification: Option<Verification>,
    /// The response to each attempt, as reported by the API.
    pub(super) attempts: Vec<String>,
    /// The status of the delivery, as reported by the API.
    pub(super) delivery_status: Option<String>,
}

impl Journey {
    /// Returns true if the receiver verified and accepted the event, and the API reports success.
    pub(super) fn is_complete(&self) -> bool {
        self.delivered_after.is_some() && self.delivery_status.as_deref() == Some("succeeded")
    }
}

/// The results of the demo.
#[derive(Debug)]
pub(super) struct Report {
    /// URL of the API.
    pub(super) api: Url,
    /// URL of the receiver.
    pub(super) webhook: Url,
    /// The new API key, which is shown once.
    pub(super) api_key: String,
    /// The events in the order in which they were posted.
    pub(super) journeys: Vec<Journey>,
}

impl Report {
    /// Returns true if every event arrived and was verified.
    pub(super) fn is_complete(&self) -> bool {
        !self.journeys.is_empty() && self.journeys.iter().all(Journey::is_complete)
    }

    /// Writes a table with the journey of each event.
    pub(super) fn write_journeys(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out)?;
        write_row(out, ["event", "accepted in", "delivered after", "responses", "signature"])?;
        for journey in &self.journeys {
            let verification = journey.verification.as_ref().map_or("did not arrive", Verification::as_str);
            write_row(
                out,
                [
                    journey.event_type,
                    &milliseconds(journey.accepted_after),
                    &journey.delivered_after.map_or_else(|| "—".to_owned(), milliseconds),
                    &journey.attempts.join(", then "),
                    verification,
                ],
            )?;
        }
        if self.is_complete() {
            writeln!(out, "\nEvery event arrived and was verified.")?;
        } else {
            writeln!(out, "\nNot every event arrived and was verified within 30 seconds.")?;
            for journey in self.journeys.iter().filter(|journey| !journey.is_complete()) {
                let status = journey.delivery_status.as_deref().unwrap_or("missing: no endpoint matched");
                writeln!(out, "  {} ({}): delivery {status}", journey.event_type, journey.event_id)?;
            }
        }
        Ok(())
    }

    /// Writes the API key, commands to try, and where to read more; with `once`, how to start Postrider again.
    pub(super) fn write_next_steps(&self, out: &mut impl Write, once: bool) -> io::Result<()> {
        let (api, api_key) = (self.api.as_str().trim_end_matches('/'), &self.api_key);
        write!(
            out,
            r#"
API key       {api_key}
Swagger UI    {api}/docs
Specification {api}/openapi.json
Receiver      {webhook} (received webhooks are printed here)

Post an event:

  curl -sS {api}/v1/events \
    -H 'Authorization: Bearer {api_key}' \
    -H 'Content-Type: application/json' \
    -H "Idempotency-Key: $(date +%s)-$RANDOM" \
    -d '{{"event_type": "user.created", "data": {{"user_id": 1}}}}'

List deliveries:

  curl -sS '{api}/v1/deliveries?limit=5' -H 'Authorization: Bearer {api_key}'

"#,
            webhook = self.webhook,
        )?;
        if once {
            writeln!(
                out,
                "The demo has ended. Run it without --once to keep it running and to try these commands.\n"
            )
        } else {
            writeln!(out, "Press Ctrl-C to stop. The data is kept; the next start creates a new API key.\n")
        }
    }
}

fn write_row(out: &mut impl Write, cells: [&str; 5]) -> io::Result<()> {
    let [event, accepted, delivered, attempts, signature] = cells;
    writeln!(out, "  {event:<14}{accepted:>12}{delivered:>17}   {attempts:<19}{signature}")
}

/// Formats `1234.5 ms` as `1,234 ms`.
fn milliseconds(duration: Duration) -> String {
    let digits = duration.as_millis().to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + " ms"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journey(event_type: &'static str, is_delivered: bool) -> Journey {
        Journey {
            event_type,
            event_id: "one".to_owned(),
            posted_at: Instant::now(),
            accepted_after: Duration::from_millis(4),
            delivered_after: is_delivered.then_some(Duration::from_millis(1_020)),
            verification: is_delivered.then_some(Verification::Verified),
            attempts: if is_delivered { vec!["500".to_owned(), "204".to_owned()] } else { Vec::new() },
            delivery_status: Some(if is_delivered { "succeeded" } else { "failed" }.to_owned()),
        }
    }

    fn report(journeys: Vec<Journey>) -> (bool, String) {
        let report = Report {
            api: "http://127.0.0.1:8000".parse().expect("a URL"),
            webhook: "http://127.0.0.1:9000/webhook".parse().expect("a URL"),
            api_key: "key".to_owned(),
            journeys,
        };
        let mut out = Vec::new();
        report.write_journeys(&mut out).expect("memory");
        report.write_next_steps(&mut out, false).expect("memory");
        (report.is_complete(), String::from_utf8(out).expect("text"))
    }

    #[test]
    fn a_journey_is_told_in_a_line() {
        let (is_complete, text) = report(vec![journey("order.shipped", true)]);
        assert!(is_complete);
        let line = "  order.shipped         4 ms         1,020 ms   500, then 204      verified\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("curl -sS http://127.0.0.1:8000/v1/events \\\n"), "{text}");
    }

    #[test]
    fn what_did_not_arrive_is_named() {
        let (is_complete, text) = report(vec![journey("a.b", true), journey("order.shipped", false)]);
        assert!(!is_complete);
        assert!(text.contains("order.shipped (one): delivery failed"), "{text}");
    }
}
