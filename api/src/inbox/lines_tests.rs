use std::time::{Duration, Instant};

use postrider_domain::ids::ApplicationId;
use postrider_store::inbox::{EmissionId, Found};

use super::{InboxLines, MIN_LINE, PAUSE};

fn application(number: u128) -> ApplicationId {
    ApplicationId(uuid::Uuid::from_u128(number))
}

fn found(of: u128, number: i64) -> Found {
    Found { id: EmissionId { transaction: number, number }, application_id: Some(application(of)), bytes: 2 }
}

/// Returns the application and the number of each emission.
fn taken(batch: &[Found]) -> Vec<(u128, i64)> {
    batch.iter().map(|found| (found.application_id.expect("named").0.as_u128(), found.id.number)).collect()
}

#[test]
fn applications_are_served_in_turn_and_each_in_its_order() {
    let mut lines = InboxLines::default();
    for number in [5, 3, 4, 3] {
        lines.add(found(1, number));
    }
    lines.add(found(2, 6));
    let batch = lines.take(Instant::now(), |_| 1);
    assert_eq!(taken(&batch), [(1, 3), (2, 6), (1, 4), (1, 5)]);
    assert!(lines.take(Instant::now(), |_| 1).is_empty());
}

#[test]
fn a_batch_has_few_that_make_many_deliveries_and_whatever_makes_few() {
    let mut lines = InboxLines::default();
    for number in 1..=10 {
        lines.add(found(1, number));
    }
    lines.add(found(2, 11));
    let expect = |of| if of == application(1) { 1_000 } else { 1 };
    assert_eq!(taken(&lines.take(Instant::now(), expect)), [(1, 1), (2, 11)]);
    assert_eq!(taken(&lines.take(Instant::now(), expect)), [(1, 2)]);
    lines.add(found(3, 12));
    // A new line is served before the one that was passed over gets another turn.
    assert_eq!(taken(&lines.take(Instant::now(), expect)), [(1, 3), (3, 12)]);
}

#[test]
fn a_batch_ends_with_the_event_that_fills_it() {
    let mut lines = InboxLines::default();
    for number in 1..=10 {
        lines.add(Found { bytes: 512 << 10, ..found(1, number) });
    }
    assert_eq!(lines.take(Instant::now(), |_| 1).len(), 4);
}

#[test]
fn what_is_postponed_keeps_its_place_and_the_others_go_on() {
    let mut lines = InboxLines::default();
    for number in 1..=3 {
        lines.add(found(1, number));
    }
    let now = Instant::now();
    let batch = lines.take(now, |_| 1);
    lines.postpone(now, batch.into_iter().skip(1));
    lines.add(found(1, 4));
    lines.add(found(2, 5));
    assert_eq!(taken(&lines.take(now, |_| 1)), [(2, 5)]);
    assert_eq!(taken(&lines.take(now + PAUSE, |_| 1)), [(1, 2), (1, 3), (1, 4)]);
}

#[test]
fn those_that_make_many_deliveries_rest_while_the_others_go_on() {
    let mut lines = InboxLines::default();
    for (application, number) in [(1, 1), (1, 2), (2, 3)] {
        lines.add(found(application, number));
    }
    let expect = |of| if of == application(1) { 1_000 } else { 1 };
    let now = Instant::now();
    lines.rest(now + PAUSE);
    assert_eq!(lines.resting(now), Some(PAUSE));
    assert_eq!(taken(&lines.take(now, expect)), [(2, 3)]);
    assert_eq!(lines.resting(now + PAUSE), None);
    assert_eq!(taken(&lines.take(now + PAUSE, expect)), [(1, 1)]);
}

#[test]
fn a_long_line_leaves_room_to_others_and_loses_nothing() {
    let all = 3 * MIN_LINE as i64;
    let mut lines = InboxLines::new(MIN_LINE + 9);
    for number in 1..=all {
        lines.add(found(1, number));
    }
    lines.add(found(2, all + 1));
    let mut order = Vec::new();
    for _ in 0..20 {
        let batch = lines.take(Instant::now(), |_| 1);
        if batch.is_empty() && lines.is_short() {
            // A full look finds everything that has not been taken.
            lines.begin_full_look();
            let next = order.iter().filter(|(of, _)| *of == 1).count() as i64 + 1;
            (next..=all).for_each(|number| lines.add(found(1, number)));
        }
        order.extend(taken(&batch));
        // Later emissions do not overtake those that were left out.
        if order.len() < 2 * MIN_LINE {
            lines.add(found(1, all + 2));
        }
    }
    assert!(order.iter().position(|&(of, _)| of == 2).is_some_and(|place| place < 2), "{order:?}");
    let of_first: Vec<_> = order.iter().filter(|(of, _)| *of == 1).map(|&(_, number)| number).collect();
    assert_eq!(of_first, (1..=all).collect::<Vec<_>>());
    assert!(!lines.is_short());
    assert_eq!(lines.take(Instant::now() + Duration::from_secs(9), |_| 1).len(), 0);
}
