//! Classifies responses and decides on retries. All functions here are pure.

use std::time::Duration;

use postrider_domain::attempt::Verdict;
use postrider_domain::delivery::ErrorClass;
use postrider_domain::endpoint::Feedback;
use postrider_domain::retry::RetrySchedule;
use rand::Rng;

/// Gone: the receiver wants no more webhooks, so the endpoint is disabled too.
const GONE: u16 = 410;

/// Statuses for which `Retry-After` is obeyed.
const RETRY_AFTER_STATUSES: [u16; 5] = [413, 429, 502, 503, 504];

/// Statuses by which a receiver or its gateway says that it is overloaded (Standard Webhooks). They slow the endpoint
/// down.
const OVERLOAD_STATUSES: [u16; 4] = [429, 502, 503, 504];

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// There was a response, and its body arrived as far as it is read.
    Answered { status: u16, retry_after: Option<Duration> },
    /// There was a status, but the rest of the response broke off or stalled.
    Broken { status: u16, class: ErrorClass, message: String, retry_after: Option<Duration> },
    /// There was no response.
    Failed { class: ErrorClass, message: String },
}

/// The retry rules that apply to one delivery.
pub(crate) struct Policy<'a> {
    pub(crate) attempt_number: u16,
    pub(crate) max_attempts: u16,
    /// Statuses that make a dead letter at once.
    pub(crate) permanent_statuses: &'a [i16],
    pub(crate) schedule: &'a RetrySchedule,
}

/// The result of classifying an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    pub(crate) error: Option<(ErrorClass, String)>,
    /// The receiver refuses this webhook for good. This says nothing about other webhooks.
    pub(crate) is_refused: bool,
    /// The endpoint is to be disabled.
    pub(crate) is_gone: bool,
}

impl Policy<'_> {
    /// Classifies the end of an exchange. For a failing status, it does not matter whether its body arrived.
    pub(crate) fn judge(&self, ending: Ending, random: &mut impl Rng) -> Judgement {
        match ending {
            Ending::Answered { status: 200..=299, .. } => {
                Judgement { verdict: Verdict::Succeeded, error: None, is_refused: false, is_gone: false }
            }
            Ending::Broken { status: 200..=299, class, message, .. } | Ending::Failed { class, message } => {
                let (verdict, error) = (self.retry(None, random), Some((class, message)));
                Judgement { verdict, error, is_refused: false, is_gone: false }
            }
            Ending::Answered { status, retry_after } | Ending::Broken { status, retry_after, .. } => {
                let is_gone = status == GONE;
                let is_refused = is_gone || self.permanent_statuses.contains(&status.cast_signed());
                let verdict = if is_refused {
                    Verdict::Dead
                } else {
                    let obeyed = retry_after.filter(|_| RETRY_AFTER_STATUSES.contains(&status));
                    self.retry(obeyed, random)
                };
                Judgement { verdict, error: Some((ErrorClass::Http, describe(status))), is_refused, is_gone }
            }
        }
    }

    fn retry(&self, retry_after: Option<Duration>, random: &mut impl Rng) -> Verdict {
        if self.attempt_number >= self.max_attempts {
            Verdict::Dead
        } else {
            Verdict::Retry(self.schedule.delay(self.attempt_number, retry_after, random))
        }
    }
}

/// Returns what an attempt says about the endpoint, for its concurrency and its circuit breaker.
pub(crate) fn feedback(judgement: &Judgement, status: Option<i16>, duration: Duration) -> Feedback {
    if judgement.is_refused {
        return Feedback::None;
    }
    let is_overloaded = status.is_some_and(|status| OVERLOAD_STATUSES.contains(&status.unsigned_abs()));
    match &judgement.error {
        None => Feedback::Succeeded,
        Some((ErrorClass::Internal | ErrorClass::Unrenderable, _)) => Feedback::None,
        Some((ErrorClass::Timeout, _)) => Feedback::Overloaded(duration),
        Some((ErrorClass::Http, _)) if is_overloaded => Feedback::Overloaded(duration),
        Some(_) => Feedback::Failed(duration),
    }
}

fn describe(status: u16) -> String {
    match status {
        300..=399 => format!("the receiver answered {status}; redirects are not followed"),
        GONE => "the receiver answered 410: it wants no more webhooks".to_owned(),
        _ => format!("the receiver answered {status}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(ending: Ending, attempt_number: u16) -> Judgement {
        let schedule = RetrySchedule::new(vec![Duration::from_secs(10)]);
        let policy =
            Policy { attempt_number, max_attempts: 10, permanent_statuses: &[404, 422], schedule: &schedule };
        policy.judge(ending, &mut rand::rng())
    }

    fn answered(status: u16) -> Ending {
        Ending::Answered { status, retry_after: Some(Duration::from_secs(100)) }
    }

    fn told(ending: Ending, attempt_number: u16) -> Feedback {
        let status = match ending {
            Ending::Answered { status, .. } | Ending::Broken { status, .. } => Some(status.cast_signed()),
            Ending::Failed { .. } => None,
        };
        feedback(&judge(ending, attempt_number), status, Duration::ZERO)
    }

    #[test]
    fn a_status_means_what_the_contract_says() {
        for status in 100..1000 {
            let Judgement { verdict, is_gone, .. } = judge(answered(status), 1);
            match status {
                200..=299 => assert_eq!(verdict, Verdict::Succeeded, "{status}"),
                404 | 410 | 422 => assert_eq!(verdict, Verdict::Dead, "{status}"),
                _ => assert!(matches!(verdict, Verdict::Retry(_)), "{status}"),
            }
            assert_eq!(is_gone, status == 410, "{status}");
        }
    }

    #[test]
    fn retry_after_is_obeyed_on_413_429_502_503_and_504() {
        let schedule = RetrySchedule::new(vec![Duration::from_secs(10)]);
        let policy =
            Policy { attempt_number: 1, max_attempts: 5, permanent_statuses: &[], schedule: &schedule };
        for status in 400..600 {
            let Verdict::Retry(delay) = policy.judge(answered(status), &mut rand::rng()).verdict else {
                assert_eq!(status, GONE);
                continue;
            };
            let is_obeyed = [413, 429, 502, 503, 504].contains(&status);
            assert_eq!(delay == Duration::from_secs(100), is_obeyed, "{status}: {delay:?}");
        }
    }

    #[test]
    fn signs_of_overload_slow_the_endpoint() {
        for status in [429, 502, 503, 504] {
            assert_eq!(told(answered(status), 1), Feedback::Overloaded(Duration::ZERO), "{status}");
        }
        for status in [301, 400, 403, 413, 500, 501, 505] {
            assert_eq!(told(answered(status), 1), Feedback::Failed(Duration::ZERO), "{status}");
        }
        let slow = Ending::Failed { class: ErrorClass::Timeout, message: String::new() };
        assert_eq!(told(slow, 1), Feedback::Overloaded(Duration::ZERO));
    }

    #[test]
    fn a_webhook_refused_for_good_says_nothing_of_the_endpoint_but_a_last_attempt_does() {
        for refused in [404, 410, 422] {
            assert_eq!(told(answered(refused), 1), Feedback::None, "{refused}");
        }
        assert_eq!(told(answered(400), 10), Feedback::Failed(Duration::ZERO));
        assert_eq!(told(answered(204), 10), Feedback::Succeeded);
        let internal = Ending::Failed { class: ErrorClass::Internal, message: String::new() };
        assert_eq!(told(internal, 1), Feedback::None);
    }

    #[test]
    fn a_success_whose_body_breaks_is_a_failure_but_a_failing_status_stays_what_it_is() {
        let broken = |status| Ending::Broken {
            status,
            class: ErrorClass::Timeout,
            message: "stalled".to_owned(),
            retry_after: None,
        };
        let judgement = judge(broken(200), 1);
        assert!(matches!(judgement.verdict, Verdict::Retry(_)));
        assert_eq!(judgement.error, Some((ErrorClass::Timeout, "stalled".to_owned())));
        assert_eq!(judge(broken(422), 1).verdict, Verdict::Dead);
    }

    #[test]
    fn the_last_attempt_makes_a_dead_letter() {
        assert!(matches!(judge(answered(500), 9).verdict, Verdict::Retry(_)));
        assert_eq!(judge(answered(500), 10).verdict, Verdict::Dead);
        assert_eq!(judge(answered(200), 10).verdict, Verdict::Succeeded);
    }

    proptest! {
        /// Success is exactly 2xx, and only a permanent status or the last attempt is final.
        #[test]
        fn judgement_is_total_and_consistent(
            status in 100..1000u16,
            attempt in 1..20u16,
            max in 1..20u16,
            permanent_statuses in proptest::collection::vec(300..600i16, 0..5),
        ) {
            let schedule = RetrySchedule::default();
            let policy = Policy {
                attempt_number: attempt,
                max_attempts: max,
                permanent_statuses: &permanent_statuses,
                schedule: &schedule,
            };
            let ending = Ending::Answered { status, retry_after: None };
            let judgement = policy.judge(ending, &mut rand::rng());
            let is_permanent = status == 410 || permanent_statuses.contains(&status.cast_signed());
            let expected_final = is_permanent || attempt >= max;
            match judgement.verdict {
                Verdict::Succeeded => prop_assert!((200..300).contains(&status)),
                Verdict::Dead => prop_assert!(expected_final),
                Verdict::Retry(_) => prop_assert!(!expected_final),
            }
            prop_assert_eq!(judgement.error.is_none(), judgement.verdict == Verdict::Succeeded);
        }
    }
}
