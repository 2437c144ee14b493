//! The application is the unit of fairness, however many endpoints it has.

use std::collections::HashMap;

use postrider_domain::ids::ApplicationId;
use postrider_queue::{Allotment, Reservation};
use uuid::Uuid;

use super::setup::*;
use crate::support::Bed;

const LARGE: ApplicationId = ApplicationId(Uuid::from_u128(100));
const SMALL: ApplicationId = ApplicationId(Uuid::from_u128(200));

fn by_application(reservations: &[Reservation]) -> HashMap<ApplicationId, usize> {
    let mut shares = HashMap::new();
    for reservation in reservations {
        *shares.entry(reservation.application_id).or_default() += 1;
    }
    shares
}

#[tokio::test(flavor = "multi_thread")]
async fn applications_share_equally_however_many_endpoints_each_has() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    for _ in 0..200 {
        push_for(&queue, LARGE, known(&bed).await, unlimited(), &ids(5)).await;
    }
    push_for(&queue, SMALL, known(&bed).await, unlimited(), &ids(20)).await;
    for _ in 0..2 {
        let shares = by_application(&reserve(&queue, 20).await.expect("ids").reservations);
        assert_eq!(shares, HashMap::from([(LARGE, 10), (SMALL, 10)]));
    }
    let alone = reserve(&queue, 20).await.expect("ids").reservations;
    assert_eq!(by_application(&alone), HashMap::from([(LARGE, 20)]), "alone it gets everything");
    assert_eq!(shares(&alone).len(), 20, "one of each endpoint");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_gets_no_more_than_its_share_and_others_get_the_rest() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    push_for(&queue, LARGE, known(&bed).await, unlimited(), &ids(100)).await;
    push_for(&queue, SMALL, known(&bed).await, unlimited(), &ids(100)).await;

    let allotment = Allotment { named: vec![(LARGE, 3)], others: 64 };
    let reserved = queue.reserve(20, &allotment).await.expect("ids");
    assert_eq!(by_application(&reserved.reservations), HashMap::from([(LARGE, 3), (SMALL, 17)]));
    let nothing = Allotment { named: vec![(LARGE, 0)], others: 64 };
    let reserved = queue.reserve(20, &nothing).await.expect("ids");
    assert_eq!(by_application(&reserved.reservations), HashMap::from([(SMALL, 20)]));
    let reserved = queue.reserve(20, &Allotment { named: Vec::new(), others: 4 }).await.expect("ids");
    assert_eq!(by_application(&reserved.reservations), HashMap::from([(LARGE, 4), (SMALL, 4)]));
    assert_eq!(
        by_application(&reserve(&queue, 64).await.expect("ids").reservations)[&LARGE],
        32,
        "it keeps its turn"
    );
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_at_its_share_is_reported_and_wakes_no_consumer() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    push_for(&queue, LARGE, known(&bed).await, unlimited(), &ids(10)).await;
    let wake = key(&bed, "wake");
    let mut redis = bed.redis().await;
    let _: () = command("DEL", &wake).query_async(&mut redis).await.expect("Redis");

    let nothing = Allotment { named: vec![(LARGE, 0)], others: 64 };
    let reserved = queue.reserve(10, &nothing).await.expect("Redis");
    assert!(reserved.reservations.is_empty() && reserved.is_held_back);
    let tokens: usize = command("LLEN", &wake).query_async(&mut redis).await.expect("a length");
    assert_eq!(tokens, 0, "it would wake itself again and again");
    // Another deliverer, which holds nothing of this application, can get the ids.
    let reserved = reserve(&queue, 10).await.expect("ids");
    assert!(reserved.reservations.len() == 10 && !reserved.is_held_back);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_application_can_fill_eight_ninths_of_the_queue() {
    let mut bed = Bed::new().await;
    bed.source.set("POSTRIDER_QUEUE_CAPACITY", "900");
    let queue = queue(&bed).await;
    let mut queued = 0;
    for _ in 0..100 {
        let accepted = push_for(&queue, LARGE, known(&bed).await, unlimited(), &ids(100)).await;
        // However full the queue is, each endpoint gets a few ids in.
        queued += if accepted > 8 { accepted } else { 0 };
    }
    assert!((790..=800).contains(&queued), "{queued}");
    let mut other = Bed::new().await;
    other.source.set("POSTRIDER_QUEUE_CAPACITY", "900");
    let queue = super::setup::queue(&other).await;
    assert_eq!(push_for(&queue, LARGE, known(&other).await, unlimited(), &ids(1_000)).await, 800);
    assert_eq!(push_for(&queue, SMALL, known(&other).await, unlimited(), &ids(1_000)).await, 88);
    bed.finish().await;
    other.finish().await;
}
