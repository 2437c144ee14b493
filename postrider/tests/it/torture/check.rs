//! What was acknowledged, what is stored and what was received must agree.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use super::installation::Installation;
use super::traffic::{Acknowledged, KINDS, MANAGED, Traffic};
use crate::support::producer::text;
use crate::support::receiver::Received;

/// How long everything may take to finish once faults have stopped. The audit looks for deliveries that have been due
/// for a minute, some at a time.
const SETTLE: Duration = Duration::from_secs(240);

/// The number of problems of each kind that are printed.
const TOLD: usize = 5;

/// What the check found.
#[derive(Default)]
pub(crate) struct Report {
    acknowledged: usize,
    received: usize,
    duplicates: usize,
    late_duplicates: usize,
    attempts: i64,
    unknown_attempts: i64,
    untold: i64,
    postgres_crashes: u32,
    longest: Duration,
    settled: Duration,
    pub(crate) problems: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "acknowledged {}, requests received {}", self.acknowledged, self.received)?;
        writeln!(
            f,
            "attempts {}, of which unknown {}; requests without an attempt {}, in {} crashes of PostgreSQL",
            self.attempts, self.unknown_attempts, self.untold, self.postgres_crashes
        )?;
        writeln!(
            f,
            "received again after a success {}, at ordered endpoints after a later event {}",
            self.duplicates, self.late_duplicates
        )?;
        writeln!(f, "longest from acknowledgement to arrival {:.1} s", self.longest.as_secs_f64())?;
        writeln!(f, "settled {:.1} s after the last fault", self.settled.as_secs_f64())?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "PROBLEM: {problem}"))
    }
}

impl Report {
    fn problems(&mut self, what: &str, items: impl IntoIterator<Item = String>) {
        let items: Vec<_> = items.into_iter().collect();
        if !items.is_empty() {
            let some = items[..items.len().min(TOLD)].join(", ");
            self.problems.push(format!("{what}: {} ({some})", items.len()));
        }
    }
}

pub(crate) async fn check(
    installation: &mut Installation,
    traffic: &Traffic,
    acknowledged: &HashMap<usize, Vec<Acknowledged>>,
    postgres_crashes: u32,
) -> Report {
    let mut report = Report::default();
    let began = Instant::now();
    let open = "select count(*) from deliveries where status in ('pending', 'in_progress', 'failed')";
    while began.elapsed() < SETTLE && installation.bed.count(open).await > 0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    report.settled = began.elapsed();
    report.unknown_attempts = installation.bed.unknown_attempts().await;
    report.postgres_crashes = postgres_crashes;
    stored(installation, &mut report).await;
    let webhooks = traffic.receiver.received();
    report.received = webhooks.len();
    requests(installation, traffic, &webhooks, &mut report).await;
    signatures(traffic, &webhooks, &mut report);
    for (kind, events) in acknowledged {
        report.acknowledged += events.len();
        arrivals(*kind, events, &webhooks, &mut report);
        shown_by_api(traffic, *kind, events, &webhooks, &mut report).await;
    }
    report
}

/// Nothing is open, and the stored attempts match their counts.
async fn stored(installation: &Installation, report: &mut Report) {
    let sql = installation.bed.sql().await;
    for (what, query) in [
        (
            "deliveries that are still open",
            "select d.id || ' ' || d.status || ' ' || d.endpoint_id from deliveries d
             where status in ('pending', 'in_progress', 'failed')",
        ),
        (
            "deliveries whose attempts do not match their count",
            "select d.id || ' ' || d.status || ' counted ' || d.attempt_count || ', kept ' || count(a.delivery_id)
             from deliveries d left join delivery_attempts a on a.delivery_id = d.id
             group by d.id, d.status, d.attempt_count
             having d.attempt_count <> count(a.delivery_id)",
        ),
        (
            "deliveries that succeeded without a successful attempt",
            "select d.id::text from deliveries d where status = 'succeeded' and not exists (
                 select from delivery_attempts a where a.delivery_id = d.id and a.outcome = 'succeeded')",
        ),
        (
            "dead letters with a successful attempt",
            "select d.id::text from deliveries d where status = 'dead_letter' and exists (
                 select from delivery_attempts a where a.delivery_id = d.id and a.outcome = 'succeeded')",
        ),
    ] {
        let rows = sql.query(query, &[]).await.expect("a list");
        report.problems(what, rows.iter().map(|row| row.get(0)));
    }
}

/// Every response that is recorded was sent to a request, and every request has an attempt, so that each webhook that
/// was sent again is explained. Only a crash of PostgreSQL may lose a claim, and with it the record of the send.
async fn requests(
    installation: &Installation,
    traffic: &Traffic,
    webhooks: &[Received],
    report: &mut Report,
) {
    let mut received: HashMap<(&str, &str), i64> = HashMap::new();
    for webhook in webhooks {
        *received.entry((webhook.path.as_str(), webhook.id())).or_default() += 1;
    }
    let sql = installation.bed.sql().await;
    let (mut invented, mut untold) = (Vec::new(), Vec::new());
    for (kind, endpoint) in KINDS.iter().zip(&traffic.endpoints) {
        let path = format!("/{kind}");
        let query =
            "select d.event_id::text, count(*) + count(*) filter (where a.resent), count(a.response_status),
                            count(*) filter (where a.outcome = 'unknown')
                     from deliveries d join delivery_attempts a on a.delivery_id = d.id
                     where d.endpoint_id = $1::text::uuid
                     group by d.event_id";
        for row in sql.query(query, &[&text(&endpoint["id"])]).await.expect("a list") {
            let event_id: &str = row.get(0);
            let (told, answered, unknown) = (row.get::<_, i64>(1), row.get(2), row.get::<_, i64>(3));
            let requests = received.get(&(path.as_str(), event_id)).copied().unwrap_or(0);
            report.attempts += told;
            if requests < answered {
                invented.push(format!("{path} {event_id}: {answered} responses, {requests} requests"));
            }
            if requests > told {
                report.untold += requests - told;
                untold.push(format!(
                    "{path} {event_id}: {requests} requests, {told} attempts, {unknown} unknown"
                ));
            }
        }
    }
    report.problems("attempts with a response that no request got", invented);
    if report.postgres_crashes == 0 {
        report.problems("requests that no attempt tells of", untold);
    }
}

/// Each webhook is signed with a secret that its endpoint has had.
fn signatures(traffic: &Traffic, webhooks: &[Received], report: &mut Report) {
    let secrets = traffic.secrets.lock().expect("the lock").clone();
    let is_forged = |webhook: &&Received| {
        let Some(kind) = KINDS.iter().position(|kind| webhook.path == format!("/{kind}")) else {
            return false;
        };
        let timestamp = webhook.header("webhook-timestamp").parse::<i64>().unwrap_or_default();
        let signature = webhook.header("webhook-signature");
        !secrets[&kind].iter().any(|secret| {
            let secret = postrider_secrets::signing::Secret::parse(secret).expect("a secret");
            secret.verifies(signature, webhook.id(), timestamp, &webhook.body)
        })
    };
    let forged =
        webhooks.iter().filter(is_forged).map(|webhook| format!("{} {}", webhook.path, webhook.id()));
    report.problems("webhooks whose signature does not hold", forged);
}

/// Everything acknowledged has arrived, in order at ordered endpoints. At a managed endpoint it may have been
/// cancelled, but what is said to have succeeded there has arrived.
fn arrivals(kind: usize, events: &[Acknowledged], webhooks: &[Received], report: &mut Report) {
    let path = format!("/{}", KINDS[kind]);
    let numbers: BTreeMap<&str, u64> =
        events.iter().map(|event| (event.event_id.as_str(), event.number)).collect();
    let mut first: BTreeMap<&str, Instant> = BTreeMap::new();
    let (mut out_of_order, mut strange, mut latest) = (Vec::new(), Vec::new(), 0);
    let is_ordered = KINDS[kind].starts_with("ordered");
    let mut missing_before: BTreeSet<u64> = numbers.values().copied().collect();
    for webhook in webhooks.iter().filter(|webhook| webhook.path == path) {
        let Some(&number) = numbers.get(webhook.id()) else {
            strange.push(webhook.id().to_owned());
            continue;
        };
        if first.contains_key(webhook.id()) {
            report.duplicates += usize::from(webhook.attempt > 2);
            report.late_duplicates += usize::from(is_ordered && number < latest);
        } else {
            first.insert(webhook.id(), webhook.at);
            latest = latest.max(number);
            if missing_before.first() != Some(&number) {
                out_of_order.push(number.to_string());
            }
            missing_before.remove(&number);
        }
    }
    report.problems(&format!("{path}: received but never acknowledged"), strange);
    if kind == MANAGED {
        return;
    }
    report.problems(&format!("{path}: never received"), missing_before.iter().map(u64::to_string));
    if is_ordered {
        report.problems(&format!("{path}: out of order"), out_of_order);
    }
    for event in events {
        if let Some(arrived) = first.get(event.event_id.as_str()) {
            report.longest = report.longest.max(arrived.saturating_duration_since(event.at));
        }
    }
}

/// The API shows each acknowledged event with a closed delivery, which succeeded unless the endpoint is managed. What
/// it shows as succeeded was received.
async fn shown_by_api(
    traffic: &Traffic,
    kind: usize,
    events: &[Acknowledged],
    webhooks: &[Received],
    report: &mut Report,
) {
    let path = format!("/{}", KINDS[kind]);
    let received: BTreeSet<&str> =
        webhooks.iter().filter(|webhook| webhook.path == path).map(Received::id).collect();
    let (mut wrong, mut never) = (Vec::new(), Vec::new());
    for event in events {
        let deliveries = traffic.producers[0].deliveries(&event.event_id).await;
        let statuses: Vec<_> = deliveries.iter().map(|delivery| text(&delivery["status"])).collect();
        let has_ended = |status: &String| {
            status == "succeeded"
                || kind == MANAGED && ["cancelled", "dead_letter"].contains(&status.as_str())
        };
        // While the endpoint was disabled, it did not match new events.
        let is_passed_by = statuses.is_empty() && kind != MANAGED;
        let succeeded = deliveries.iter().any(|delivery| {
            delivery["status"] == "succeeded" && delivery["endpoint_id"] == traffic.endpoints[kind]["id"]
        });
        if succeeded && !received.contains(event.event_id.as_str()) {
            never.push(event.event_id.clone());
        }
        if is_passed_by || !statuses.iter().all(has_ended) {
            wrong.push(format!("{} {statuses:?}", event.event_id));
        }
    }
    report.problems(&format!("{path}: events that the API shows differently"), wrong);
    report.problems(&format!("{path}: succeeded but never received"), never);
}
