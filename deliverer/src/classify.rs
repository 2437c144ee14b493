//! What an answer means: the retry policy, as pure functions.

use std::time::Duration;

use postrider_shared::delivery::ErrorClass;
use postrider_shared::queue::Feedback;
use postrider_shared::retry::RetrySchedule;
use postrider_shared::store::record::{Exchange, Verdict};
use rand::Rng;

/// Answers by which a receiver says that this request will never be accepted as it is. An endpoint can
/// have a list of its own.
pub(crate) const PERMANENT_STATUSES: [u16; 11] = [400, 405, 406, 411, 413, 414, 415, 422, 431, 501, 505];

/// The receiver wants no more: the endpoint is disabled too.
const GONE: u16 = 410;

/// Answers whose `Retry-After` is obeyed.
const RETRY_AFTER_STATUSES: [u16; 5] = [413, 429, 502, 503, 504];

/// Answers by which a receiver, or the gateway before it, says that it is overloaded (Standard Webhooks):
/// they slow the endpoint.
const OVERLOAD_STATUSES: [u16; 4] = [429, 502, 503, 504];

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// There was an answer, and as much of its body as is read arrived.
    Answered { status: u16, retry_after: Option<Duration> },
    /// There was a status, but the body broke or stalled.
    Broken { status: u16, class: ErrorClass, message: String, retry_after: Option<Duration> },
    /// There was no answer.
    Failed { class: ErrorClass, message: String },
}

/// What the delivery still has, and how its endpoint wants it.
pub(crate) struct Policy<'a> {
    pub(crate) attempt_number: u16,
    pub(crate) max_attempts: u16,
    pub(crate) permanent_statuses: &'a [u16],
    pub(crate) schedule: &'a RetrySchedule,
}

/// What an exchange means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    pub(crate) error: Option<(ErrorClass, String)>,
    /// The endpoint is to be disabled.
    pub(crate) is_gone: bool,
}

impl Policy<'_> {
    /// Judges an ending. Of a failing status it does not matter how its body ended.
    pub(crate) fn judge(&self, ending: Ending, random: &mut impl Rng) -> Judgement {
        match ending {
            Ending::Answered { status: 200..=299, .. } => {
                Judgement { verdict: Verdict::Succeeded, error: None, is_gone: false }
            }
            Ending::Broken { status: 200..=299, class, message, .. } | Ending::Failed { class, message } => {
                Judgement { verdict: self.retry(None, random), error: Some((class, message)), is_gone: false }
            }
            Ending::Answered { status, retry_after } | Ending::Broken { status, retry_after, .. } => {
                let is_gone = status == GONE;
                let verdict = if is_gone || self.permanent_statuses.contains(&status) {
                    Verdict::Dead
                } else {
                    let obeyed = retry_after.filter(|_| RETRY_AFTER_STATUSES.contains(&status));
                    self.retry(obeyed, random)
                };
                Judgement { verdict, error: Some((ErrorClass::Http, describe(status))), is_gone }
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

/// What an attempt tells of its endpoint, for its concurrency and its circuit breaker. A receiver that
/// refuses one request for good has answered, which says nothing of the next one.
pub(crate) fn feedback(verdict: Verdict, exchange: &Exchange) -> Feedback {
    let Exchange { error_class, response_status, duration, .. } = exchange;
    let is_overloaded =
        response_status.is_some_and(|status| OVERLOAD_STATUSES.contains(&status.unsigned_abs()));
    match (verdict, error_class) {
        (Verdict::Succeeded, _) => Feedback::Succeeded,
        (_, Some(ErrorClass::Timeout)) => Feedback::Overloaded(*duration),
        (_, Some(ErrorClass::Http)) if is_overloaded => Feedback::Overloaded(*duration),
        (Verdict::Dead, Some(ErrorClass::Http)) if response_status.is_some_and(|status| status < 500) => {
            Feedback::None
        }
        (_, None | Some(ErrorClass::Internal | ErrorClass::Unrenderable)) => Feedback::None,
        (_, Some(_)) => Feedback::Failed(*duration),
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
        let policy = Policy {
            attempt_number,
            max_attempts: 5,
            permanent_statuses: &PERMANENT_STATUSES,
            schedule: &schedule,
        };
        policy.judge(ending, &mut rand::rng())
    }

    fn answered(status: u16) -> Ending {
        Ending::Answered { status, retry_after: Some(Duration::from_secs(100)) }
    }

    #[test]
    fn a_status_means_what_the_contract_says() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(judge(answered(status), 1).verdict, Verdict::Succeeded, "{status}");
        }
        for status in [400, 405, 406, 410, 411, 413, 414, 415, 422, 431, 501, 505] {
            assert_eq!(judge(answered(status), 1).verdict, Verdict::Dead, "{status}");
        }
        for status in [
            301, 302, 307, 308, 401, 402, 403, 404, 407, 408, 409, 418, 425, 429, 451, 500, 502, 503, 504,
            599,
        ] {
            assert!(matches!(judge(answered(status), 1).verdict, Verdict::Retry(_)), "{status}");
        }
        assert!(judge(answered(410), 1).is_gone);
        assert!(!judge(answered(404), 1).is_gone);
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
        let told = |status: i16, class| {
            let (error_class, response_status) = (Some(class), Some(status));
            let exchange = Exchange { error_class, response_status, ..Exchange::default() };
            feedback(Verdict::Retry(Duration::ZERO), &exchange)
        };
        for status in [429, 502, 503, 504] {
            assert_eq!(told(status, ErrorClass::Http), Feedback::Overloaded(Duration::ZERO), "{status}");
        }
        for status in [301, 400, 404, 413, 500, 501, 505] {
            assert_eq!(told(status, ErrorClass::Http), Feedback::Failed(Duration::ZERO), "{status}");
        }
        assert_eq!(told(200, ErrorClass::Timeout), Feedback::Overloaded(Duration::ZERO));
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
        assert!(matches!(judge(answered(500), 4).verdict, Verdict::Retry(_)));
        assert_eq!(judge(answered(500), 5).verdict, Verdict::Dead);
        assert_eq!(judge(answered(200), 5).verdict, Verdict::Succeeded);
    }

    proptest! {
        /// Success is exactly 2xx, and nothing but a permanent status or the last attempt is final.
        #[test]
        fn judgement_is_total_and_consistent(status in 100..1000u16, attempt in 1..20u16, max in 1..20u16) {
            let schedule = RetrySchedule::default();
            let policy = Policy {
                attempt_number: attempt,
                max_attempts: max,
                permanent_statuses: &PERMANENT_STATUSES,
                schedule: &schedule,
            };
            let ending = Ending::Answered { status, retry_after: None };
            let judgement = policy.judge(ending, &mut rand::rng());
            let is_permanent = status == 410 || PERMANENT_STATUSES.contains(&status);
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
