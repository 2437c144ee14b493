//! Counts the unrecorded deliveries of each lease that this deliverer holds. Recording the last one removes the lease.
//! If one is never recorded, the lease is left to the sweep.

use std::collections::HashMap;

use parking_lot::Mutex;
use postrider_domain::attempt::Recorded;
use postrider_domain::ids::LeaseId;
use postrider_secrets::claim::Claimed;

/// The number of deliveries that are still to be recorded, by lease.
#[derive(Default)]
pub(crate) struct Leases {
    unrecorded: Mutex<HashMap<LeaseId, usize>>,
}

impl Leases {
    /// Adds claimed deliveries.
    pub(crate) fn taken(&self, claimed: &[Claimed]) {
        let mut unrecorded = self.unrecorded.lock();
        for claimed in claimed {
            *unrecorded.entry(claimed.lease_id).or_default() += 1;
        }
    }

    /// Returns the leases that end once these results are recorded.
    pub(crate) fn ended_by(&self, results: &[&Recorded]) -> Vec<LeaseId> {
        let unrecorded = self.unrecorded.lock();
        let is_ended = |(lease, count): &(LeaseId, usize)| unrecorded.get(lease) == Some(count);
        counts(results.iter().copied()).into_iter().filter(is_ended).map(|(lease, _)| lease).collect()
    }

    /// Subtracts recorded deliveries.
    pub(crate) fn recorded<'a>(&self, results: impl Iterator<Item = &'a Recorded>) {
        let mut unrecorded = self.unrecorded.lock();
        for (lease, count) in counts(results) {
            if let Some(left) = unrecorded.get_mut(&lease) {
                *left = left.saturating_sub(count);
                if *left == 0 {
                    unrecorded.remove(&lease);
                }
            }
        }
    }

    /// Forgets a lease of which a delivery will never be recorded, because it was given back or cannot be recorded.
    pub(crate) fn abandon(&self, lease: LeaseId) {
        self.unrecorded.lock().remove(&lease);
    }
}

fn counts<'a>(results: impl Iterator<Item = &'a Recorded>) -> HashMap<LeaseId, usize> {
    let mut counts = HashMap::new();
    for result in results {
        *counts.entry(result.lease_id).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use postrider_domain::attempt::{Exchange, Verdict};
    use postrider_domain::ids::DeliveryId;
    use uuid::Uuid;

    use super::*;

    fn results(lease: i64, count: u128) -> Vec<Recorded> {
        let result = |number| Recorded {
            delivery_id: DeliveryId(Uuid::from_u128(number)),
            lease_id: LeaseId(lease),
            attempt_number: 1,
            began: Instant::now(),
            exchange: Exchange::default(),
            verdict: Verdict::Succeeded,
        };
        (0..count).map(result).collect()
    }

    fn holding(counts: &[(i64, usize)]) -> Leases {
        let unrecorded = counts.iter().map(|&(lease, count)| (LeaseId(lease), count)).collect();
        Leases { unrecorded: Mutex::new(unrecorded) }
    }

    fn ended_by(leases: &Leases, results: &[Recorded]) -> Vec<LeaseId> {
        leases.ended_by(&results.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_lease_ends_with_the_last_of_its_deliveries_and_not_before() {
        let leases = holding(&[(1, 5), (2, 2)]);
        assert_eq!(ended_by(&leases, &results(1, 4)), []);
        assert_eq!(ended_by(&leases, &[results(1, 4), results(2, 2)].concat()), [LeaseId(2)]);
        leases.recorded([results(1, 4), results(2, 2)].concat().iter());
        assert_eq!(ended_by(&leases, &results(2, 2)), [], "the lease has ended");
        assert_eq!(ended_by(&leases, &results(1, 1)), [LeaseId(1)]);
        leases.recorded(results(1, 1).iter());
        assert!(leases.unrecorded.lock().is_empty());
    }

    #[test]
    fn a_lease_of_which_something_is_never_recorded_does_not_end() {
        let leases = holding(&[(1, 5)]);
        leases.abandon(LeaseId(1));
        leases.recorded(results(1, 4).iter());
        assert_eq!(ended_by(&leases, &results(1, 4)), []);
    }
}
