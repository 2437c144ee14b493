//! What the demo shows people.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use url::Url;

use crate::receive::Verification;

/// What became of one event.
#[derive(Debug)]
pub(super) struct Journey {
    /// Its type.
    pub(super) event_type: &'static str,
    /// Its id, which is the `webhook-id`.
    pub(super) event_id: String,
    /// When it was posted.
    pub(super) posted_at: Instant,
    /// How long until the API had accepted it.
    pub(super) accepted_after: Duration,
    /// How long until the receiver took it, verified; `None` where it did not.
    pub(super) delivered_after: Option<Duration>,
    /// What the receiver thought of the last attempt that it saw.
    pub(super) verification: Option<Verification>,
    /// What each attempt was answered, as the API tells it.
    pub(super) attempts: Vec<String>,
    /// How the delivery ended, as the API tells it.
    pub(super) delivery_status: Option<String>,
}

impl Journey {
    /// True when the receiver took the event, verified, and the API knows.
    pub(super) fn is_complete(&self) -> bool {
        self.delivered_after.is_some() && self.delivery_status.as_deref() == Some("succeeded")
    }
}

/// What the demo found.
#[derive(Debug)]
pub(super) struct Report {
    /// Where the API is.
    pub(super) api: Url,
    /// Where the receiver is.
    pub(super) webhook: Url,
    /// The key that was minted, shown once.
    pub(super) api_key: String,
    /// The events, in the order in which they were posted.
    pub(super) journeys: Vec<Journey>,
}

impl Report {
    /// True when every event arrived and was verified.
    pub(super) fn is_complete(&self) -> bool {
        !self.journeys.is_empty() && self.journeys.iter().all(Journey::is_complete)
    }

    /// The journey of each event, in a table.
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

    /// The key, lines to paste, and where to look further; with `once`, for the next time.
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

/// `1234.5 ms` → `1,234 ms`.
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
