//! Samples the state regularly while a phase runs, for the progress bar and for the course over time.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use url::Url;

use crate::ledger::{Ledger, Totals};
use crate::roster::Roster;

const EVERY: Duration = Duration::from_millis(500);
/// Metrics and memory are read only in every n-th sample.
const RARELY: u32 = 4;
/// How long a service may take to return its metrics.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(1);
/// Gauges that together count what waits.
const WAITING: [&str; 3] = ["postrider_outbox_due", "postrider_outbox_parked", "postrider_queue_waiting"];

/// The state at one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Seconds since the phase began, including its warm-up.
    pub seconds: f64,
    /// Events that got their 202 response since the phase began.
    pub accepted: u64,
    /// Deliveries that arrived since the phase began.
    pub delivered: u64,
    /// Deliveries of accepted events that had not arrived yet.
    pub open: u64,
    /// Rows and ids waiting in the outbox and in Redis. From the relay's metrics, which it updates every few seconds.
    pub waiting: Option<u64>,
}

/// What the sampler reads.
pub(crate) struct Sampler {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) metrics: Vec<Url>,
    pub(crate) title: String,
    pub(crate) length: Duration,
}

impl Sampler {
    /// Samples until it is cancelled, and appends to `samples`.
    pub(crate) async fn run(self, samples: Arc<std::sync::Mutex<Vec<Sample>>>) {
        let http = reqwest::Client::builder().no_proxy().timeout(SCRAPE_TIMEOUT).build().ok();
        let bar = self.bar();
        let (start, before) = (self.ledger.now(), self.ledger.totals());
        let mut last = before;
        let mut waiting = None;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for tick in 0u32.. {
            ticks.tick().await;
            if tick % RARELY == 0 {
                self.roster.look();
                waiting = match &http {
                    Some(http) => self.waiting(http).await,
                    None => None,
                };
            }
            let totals = self.ledger.totals();
            let seconds = self.ledger.now().saturating_sub(start) as f64 / 1e9;
            self.show(&bar, seconds, last, totals, waiting);
            last = totals;
            let sample = Sample {
                seconds,
                accepted: totals.accepted - before.accepted,
                delivered: totals.delivered - before.delivered,
                open: totals.expected.saturating_sub(totals.delivered),
                waiting,
            };
            samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(sample);
        }
    }

    /// Returns a progress bar, which shows on a terminal only.
    fn bar(&self) -> ProgressBar {
        let bar = ProgressBar::new(self.length.as_secs().max(1));
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} s  {msg}");
        bar.set_style(style.expect("the template is valid"));
        bar.set_prefix(self.title.clone());
        bar
    }

    fn show(&self, bar: &ProgressBar, seconds: f64, last: Totals, now: Totals, waiting: Option<u64>) {
        let per_second = |count: u64| count as f64 / EVERY.as_secs_f64();
        let waiting = waiting.map_or_else(|| "?".to_owned(), |waiting| waiting.to_string());
        bar.set_position((seconds as u64).min(self.length.as_secs()));
        bar.set_message(format!(
            "accepted {:.0}/s  delivered {:.0}/s  open {}  waiting {waiting}",
            per_second(now.accepted - last.accepted),
            per_second(now.delivered - last.delivered),
            now.expected.saturating_sub(now.delivered),
        ));
    }

    /// Returns the sum over all services, or `None` if none reports it.
    async fn waiting(&self, http: &reqwest::Client) -> Option<u64> {
        let mut total = None;
        for url in &self.metrics {
            let Ok(answer) = http.get(url.clone()).send().await else { continue };
            let Ok(text) = answer.text().await else { continue };
            if let Some(waiting) = waiting_in(&text) {
                total = Some(total.unwrap_or(0) + waiting);
            }
        }
        total
    }
}

/// Returns the sum of the gauges in metrics in Prometheus's text format, or `None` if they are absent.
fn waiting_in(metrics: &str) -> Option<u64> {
    let gauge = |name: &str| {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse::<f64>().ok()
    };
    let values: Vec<_> = WAITING.iter().filter_map(|name| gauge(name)).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_the_sum_of_the_gauges_that_there_are() {
        let text = "# TYPE postrider_outbox_due gauge\npostrider_outbox_due 12\n\
                    postrider_outbox_due_seconds 99\npostrider_queue_waiting 30\n";
        assert_eq!(waiting_in(text), Some(42));
        assert_eq!(waiting_in("postrider_attempts_total{outcome=\"succeeded\"} 3\n"), None);
    }
}
