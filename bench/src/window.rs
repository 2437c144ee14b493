//! The maximum number of requests within a time window.

use crate::ledger::Nanos;

/// Returns the maximum number of times within any window of `width`, excluding its end. Sorts `times`.
pub(crate) fn most_within(times: &mut [Nanos], width: Nanos) -> usize {
    times.sort_unstable();
    let mut most = 0;
    let mut first = 0;
    for (last, time) in times.iter().enumerate() {
        while times[first] + width <= *time {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_window_is_found_wherever_it_begins() {
        assert_eq!(most_within(&mut [], 10), 0);
        assert_eq!(most_within(&mut [5], 10), 1);
        // Evenly spaced: ten in every window of width ten.
        let mut even: Vec<_> = (1..100).collect();
        assert_eq!(most_within(&mut even, 10), 10);
        // The end of a window does not belong to it.
        assert_eq!(most_within(&mut [0, 10], 10), 1);
        assert_eq!(most_within(&mut [30, 31, 0, 35, 50, 39, 40], 10), 4);
    }

    #[test]
    fn it_agrees_with_counting_from_every_time() {
        let times: Vec<Nanos> = (0..500u64).map(|n| n * n * 7919 % 10_007).collect();
        let slow =
            times.iter().map(|start| times.iter().filter(|t| (*start..*start + 100).contains(*t)).count());
        let expected = slow.max().expect("some");
        assert_eq!(most_within(&mut times.clone(), 100), expected);
    }
}
