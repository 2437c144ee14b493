use postrider_shared::event_type::EventType;
use postrider_shared::ids::ApplicationId;
use postrider_shared::store::accept::SchemaCheck;
use uuid::Uuid;

use super::*;

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
    AcceptQueue::new(MIN_BYTES)
}

fn post(queue: &AcceptQueue, producer: u128, keys: &[String], expected: usize) -> Result<(), Rejection> {
    let events = keys.iter().map(|key| (event(producer, key), expected)).collect();
    queue.push(events).map(|receivers| assert_eq!(receivers.len(), keys.len()))
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn take(queue: &AcceptQueue) -> Vec<(Producer, String)> {
    queue.take().into_iter().map(|waiting| (waiting.event.producer, waiting.event.idempotency_key)).collect()
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
    post(&queue, 2, &keys(3), 700).expect("room");
    for expected in [1, 1, 1, 2] {
        assert_eq!(take(&queue).len(), expected);
    }
    assert!(queue.lines().of.is_empty() && queue.lines().turns.is_empty());
}

#[test]
fn one_producer_has_half_of_the_room_and_a_request_fits_whole_or_not_at_all() {
    let queue = queue();
    post(&queue, 1, &keys(MAX_WAITING / 2 - 1), 1).expect("room");
    assert_eq!(post(&queue, 1, &keys(2), 1), Err(Rejection::Overloaded));
    post(&queue, 1, &keys(1), 1).expect("the last place");
    post(&queue, 2, &keys(MAX_WAITING / 2), 1).expect("the other half");
    assert_eq!(post(&queue, 3, &keys(1), 1), Err(Rejection::Overloaded));
    let mut count = 0;
    while count < MAX_WAITING {
        count += take(&queue).len();
    }
    post(&queue, 3, &keys(1), 1).expect("room again");
}

#[tokio::test]
async fn bytes_are_given_back_with_the_answer() {
    let queue = queue();
    let big = || NewEvent { data: "x".repeat(MIN_BYTES / 2 - OVERHEAD_BYTES).into(), ..event(1, "a") };
    let mut receivers = queue.push(vec![(big(), 1)]).expect("room");
    assert_eq!(queue.push(vec![(big(), 1)]).err(), Some(Rejection::Overloaded));
    let Waiting { event, answer, .. } = queue.take().remove(0);
    assert_eq!(queue.room.available_permits(), MIN_BYTES / 2);
    answer.send(event, Err(Rejection::KeyBusy));
    let (event, outcome) = receivers.remove(0).await.expect("an answer");
    assert_eq!((event.idempotency_key.as_str(), outcome), ("a", Err(Rejection::KeyBusy)));
    assert_eq!(queue.room.available_permits(), MIN_BYTES);
}

#[tokio::test]
async fn what_waits_is_taken_after_the_end_and_nothing_more() {
    let queue = Arc::new(queue());
    post(&queue, 1, &keys(1), 1).expect("room");
    queue.close();
    assert_eq!(post(&queue, 1, &keys(1), 1), Err(Rejection::Stopping));
    assert!(queue.arrival().await);
    assert_eq!(take(&queue).len(), 1);
    assert!(!queue.arrival().await);
    let idle = Arc::new(AcceptQueue::new(MIN_BYTES));
    let taker = tokio::spawn({
        let idle = idle.clone();
        async move { idle.arrival().await }
    });
    tokio::task::yield_now().await;
    idle.close();
    assert!(!taker.await.expect("a task"));
}
