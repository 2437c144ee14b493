//! The bodies to post. A body is built once and numbered by overwriting digits. The number comes back in the webhook.

use bytes::Bytes;
use memchr::memmem;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Added to every number, so that all have the same number of digits.
const OFFSET: u64 = 100_000_000_000;
const DIGITS: usize = 12;
const KEY: &[u8] = br#""n":"#;

/// The smallest `data` that holds a number.
pub(crate) const LEAST_BYTES: usize = r#"{"n":100000000000,"pad":""}"#.len();

/// A body in which only the number has to be filled in.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Template {
    /// Creates a template for this event type, with `data` of `data_bytes` bytes or the minimum size if that is larger.
    pub(crate) fn new(event_type: &str, data_bytes: usize, seed: u64) -> Self {
        let before = format!(r#"{{"event_type":"{event_type}","data":{{"n":"#).into_bytes();
        let pad = padding(data_bytes.saturating_sub(LEAST_BYTES), seed);
        Self { before, after: format!(r#","pad":"{pad}"}}}}"#).into_bytes() }
    }

    /// Returns the body of one event.
    pub(crate) fn body(&self, number: u64) -> Bytes {
        let mut body = Vec::with_capacity(self.before.len() + DIGITS + self.after.len());
        self.write(number, &mut body);
        body.into()
    }

    /// Returns the body of a batch request, with a key for each event.
    pub(crate) fn batch(&self, numbers: &[u64], idempotency_key: impl Fn(u64) -> String) -> Bytes {
        let mut body = br#"{"events":["#.to_vec();
        for (index, number) in numbers.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            let start = body.len();
            self.write(*number, &mut body);
            let key = format!(r#"{{"idempotency_key":"{}","#, idempotency_key(*number));
            body.splice(start..=start, key.into_bytes());
        }
        body.extend_from_slice(b"]}");
        body.into()
    }

    fn write(&self, number: u64, body: &mut Vec<u8>) {
        body.extend_from_slice(&self.before);
        body.extend_from_slice((OFFSET + number).to_string().as_bytes());
        body.extend_from_slice(&self.after);
    }
}

/// Returns letters and digits that do not compress: real payloads rarely repeat one letter.
pub(crate) fn padding(length: usize, seed: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = StdRng::seed_from_u64(seed);
    (0..length).map(|_| char::from(LETTERS[(random.next_u32() % 64) as usize])).collect()
}

/// Returns the number of the event in a webhook. It is the first key in `data`, because PostgreSQL sorts keys by
/// length.
pub(crate) fn number(webhook: &[u8]) -> Option<u64> {
    let start = memmem::find(webhook, KEY)? + KEY.len();
    let digits = webhook[start..].trim_ascii_start().get(..DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?.checked_sub(OFFSET)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_number_survives_the_journey() {
        let template = Template::new("bench.a", 512, 1);
        for expected in [0, 7, 123_456_789] {
            let body: Value = serde_json::from_slice(&template.body(expected)).expect("JSON");
            assert_eq!(body["event_type"], "bench.a");
            assert_eq!(serde_json::to_string(&body["data"]).expect("JSON").len(), 512);
            // In the format that PostgreSQL writes.
            let webhook = format!(
                r#"{{"type":"bench.a","timestamp":"2026-01-01T00:00:00Z","data":{{"n": {}, "pad": "x"}}}}"#,
                body["data"]["n"]
            );
            assert_eq!(number(webhook.as_bytes()), Some(expected));
        }
        assert_eq!(number(br#"{"type":"other","data":{}}"#), None);
        assert_eq!(number(br#"{"data":{"n": 1}}"#), None);
    }

    #[test]
    fn a_batch_is_one_body_with_a_key_for_each_event() {
        let template = Template::new("bench.a", 0, 1);
        let body = template.batch(&[1, 2], |number| format!("key-{number}"));
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let events = body["events"].as_array().expect("events");
        assert_eq!(events.len(), 2);
        assert_eq!(events[1]["idempotency_key"], "key-2");
        assert_eq!(events[1]["event_type"], "bench.a");
        assert_eq!(events[1]["data"]["n"], OFFSET + 2);
    }
}
