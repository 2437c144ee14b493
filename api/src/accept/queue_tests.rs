use postrider_domain::event::{Producer, SchemaCheck};
use postrider_domain::event_type::EventType;
use postrider_domain::ids::ApplicationId;
use uuid::Uuid;

use super::*;
use crate::accept::load::MAX_BATCH;

fn party(number: u128) -> Party {
    Party::Application(ApplicationId(Uuid::from_u128(number)))
}

fn event(producer: u128, key: &str) -> NewEvent {
    NewEvent {
        producer: Producer::Admin(ApplicationId(Uuid::from_u128(producer))),
        idempotency_key: key.to_owned(),
        event_type: EventType::parse("user.created").expect("a type"),
        data: "{}".into(),
        schema: SchemaCheck::Unchecked,
        is_admitted: false,
    }
}

fn queue() -> AcceptQueue {
    AcceptQueue::new(MIN_BYTES, 2)
}

/// Posts events, each of which is expected to make this many deliveries.
fn post(queue: &AcceptQueue, producer: u128, keys: &[String], expected: i32) -> Result<(), AcceptError> {
    queue.fanout().learn(&event(producer, ""), expected);
    let events = keys.iter().map(|key| event(producer, key)).collect();
    queue.push(party(producer), events).map(|receivers| assert_eq!(receivers.len(), keys.len()))
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn take(queue: &AcceptQueue) -> Vec<(Producer, String)> {
    let batch = queue.take();
    queue.done(&batch.occupancy);
    batch.events.into_iter().map(|waiting| (waiting.event.producer, waiting.event.idempotency_key)).collect()
}

#[test]
fn a_producer_who_posts_much_does_not_keep_the_next_one_waiting() {
    let queue = queue();
    post(&queue, 1, &keys(1_000), 1).expect("room");
    post(&queue, 2, &keys(1), 1).expect("room");
    let batch = take(&queue);
    assert_eq!(batch.len(), MAX_BATCH);
    assert_eq!(batch[1].0, event(2, "").producer);
    let own: Vec<_> = batch.iter().filter(|(producer, _)| *producer == batch[0].0).collect();
    assert!(own.iter().zip(keys(1_000)).all(|((_, key), expected)| *key == expected), "in the order posted");
}

#[test]
fn a_big_fan_out_is_stored_alone() {
    let queue = queue();
    post(&queue, 1, &keys(2), 5_000).expect("room");
    post(&queue, 2, &keys(3), 300).expect("room");
    for expected in [1, 1, 1, 2] {
        assert_eq!(take(&queue).len(), expected);
    }
    assert!(queue.lines().of.is_empty() && queue.lines().turns.is_empty());
}

#[test]
fn who_makes_few_deliveries_waits_for_none_who_makes_many() {
    let queue = queue();
    post(&queue, 1, &keys(9), 250).expect("room");
    post(&queue, 2, &keys(1), 1).expect("room");
    post(&queue, 3, &keys(1), 250).expect("room");
    let heavy = queue.take();
    let parties: Vec<_> = heavy.events.iter().map(|waiting| waiting.party).collect();
    assert_eq!((heavy.occupancy.is_heavy, parties), (true, vec![party(1), party(3), party(1), party(1)]));
    // In parallel with that, only the light event is taken, and then nothing until the heavy batch is done.
    assert_eq!(take(&queue), [(event(2, "").producer, "0".to_owned())]);
    assert!(!queue.lines().may_take(&queue));
    assert!(queue.take().events.is_empty());
    queue.done(&heavy.occupancy);
    assert_eq!(take(&queue).len(), 4);
}

#[test]
fn no_party_keeps_every_writer_busy() {
    let queue = queue();
    post(&queue, 1, &keys(1_000), 1).expect("room");
    let (first, second) = (queue.take(), queue.take());
    assert!(queue.take().events.is_empty() && !queue.lines().may_take(&queue));
    post(&queue, 2, &keys(3), 1).expect("room");
    assert_eq!(take(&queue).len(), 3);
    queue.done(&first.occupancy);
    assert_eq!(take(&queue).len(), MAX_BATCH);
    queue.done(&second.occupancy);
}

#[test]
fn what_was_learned_since_it_was_posted_counts() {
    let queue = queue();
    let posted = keys(9).iter().map(|key| event(1, key)).collect();
    queue.push(party(1), posted).map(drop).expect("room");
    let first = queue.take();
    assert_eq!((first.events.len(), first.occupancy.is_heavy), (4, false), "their cost is unknown");
    queue.done(&first.occupancy);
    queue.fanout().learn(&event(1, ""), 500);
    let other_type = NewEvent { event_type: EventType::parse("another").expect("a type"), ..event(2, "") };
    for expected in [2, 2, 1] {
        let batch = queue.take();
        assert_eq!((batch.events.len(), batch.occupancy.is_heavy), (expected, true));
        queue.done(&batch.occupancy);
    }
    assert_eq!(queue.weigh(&other_type), (false, UNKNOWN_DELIVERIES));
    queue.fanout().learn(&event(2, ""), 700);
    assert_eq!(queue.weigh(&other_type), (true, 700), "the cost of the producer's last event");
}

#[test]
fn a_reserve_stays_for_others_and_a_request_fits_whole_or_not_at_all() {
    let queue = queue();
    let most = (MAX_WAITING * 8 / 9) as usize;
    post(&queue, 1, &keys(most - 1), 1).expect("room");
    assert_eq!(post(&queue, 1, &keys(2), 1), Err(AcceptError::Overloaded));
    post(&queue, 1, &keys(1), 1).expect("the last place of its share");
    post(&queue, 2, &keys(1_000), 1).expect("room in the reserve");
    let mut count = 0;
    while count < most + 1_000 {
        count += take(&queue).len();
    }
    post(&queue, 1, &keys(1), 1).expect("room again");
}

#[test]
fn all_keys_of_an_application_share_its_line() {
    let queue = queue();
    for key in 0..100 {
        let event = NewEvent { producer: Producer::Key([key; 32]), ..event(1, "") };
        queue.fanout().learn(&event, 1);
        queue.push(party(1), vec![event]).expect("room");
    }
    post(&queue, 2, &keys(1), 1).expect("room");
    assert_eq!(take(&queue)[1].0, event(2, "").producer);
}

#[tokio::test]
async fn bytes_are_given_back_with_the_answer() {
    let queue = queue();
    let big = || NewEvent { data: "x".repeat(MIN_BYTES * 3 / 4 - OVERHEAD_BYTES).into(), ..event(1, "a") };
    let mut receivers = queue.push(party(1), vec![big()]).expect("room");
    assert_eq!(queue.push(party(1), vec![big()]).err(), Some(AcceptError::Overloaded));
    let Waiting { event, answer, .. } = queue.take().events.remove(0);
    assert_eq!(queue.bytes.free(), MIN_BYTES as u64 / 4);
    answer.send(event, Err(AcceptError::KeyBusy));
    let (event, outcome) = receivers.remove(0).await.expect("an outcome");
    assert_eq!((event.idempotency_key.as_str(), outcome), ("a", Err(AcceptError::KeyBusy)));
    assert_eq!((queue.bytes.free(), queue.places.free()), (MIN_BYTES as u64, MAX_WAITING));
}

#[tokio::test]
async fn what_waits_is_taken_after_the_end_and_nothing_more() {
    let queue = std::sync::Arc::new(queue());
    post(&queue, 1, &keys(1), 1).expect("room");
    queue.close();
    assert_eq!(post(&queue, 1, &keys(1), 1), Err(AcceptError::Stopping));
    assert!(queue.arrival().await);
    assert_eq!(take(&queue).len(), 1);
    assert!(!queue.arrival().await);
    let idle = std::sync::Arc::new(AcceptQueue::new(MIN_BYTES, 2));
    let taker = tokio::spawn({
        let idle = idle.clone();
        async move { idle.arrival().await }
    });
    tokio::task::yield_now().await;
    idle.close();
    assert!(!taker.await.expect("a task"));
}
