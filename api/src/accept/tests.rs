use postrider_domain::event::SchemaCheck;
use postrider_store::DatabaseConfig;
use uuid::Uuid;

use super::*;

const APPLICATION: ApplicationId = ApplicationId(Uuid::nil());

/// Accepts one event, for which PostgreSQL returns the same outcome on every try.
async fn accept(outcome: Outcome) -> AcceptResult {
    let config = DatabaseConfig {
        url: Default::default(),
        direct_url: Default::default(),
        pool_size: 1,
        extra_certificates: Vec::new(),
    };
    let store = Store::for_requests(&config);
    let batcher = Batcher::with_outcome(&store, outcome);
    let acceptor = Acceptor::new(&store, batcher, Arc::new(Parties::new(store.clone())));
    let event = NewEvent {
        producer: Producer::Admin(APPLICATION),
        idempotency_key: "a".to_owned(),
        event_type: EventType::parse("user.created").expect("a type"),
        data: "{}".into(),
        schema: SchemaCheck::Unchecked,
        // So that no budget is charged.
        is_admitted: true,
    };
    acceptor.accept(event).await
}

#[tokio::test]
async fn a_rate_limit_that_changes_in_the_last_round_is_not_called_a_schema() {
    let result = accept(Ok(Accepted::NotAdmitted(APPLICATION))).await;
    assert_eq!(result, Err(AcceptError::RateLimitChanging));
}

#[tokio::test]
async fn what_the_statement_says_is_the_result() {
    let stored =
        Accepted::Stored { event_id: EventId(Uuid::nil()), deliveries_queued: 2, duplicate: false, cost: 2 };
    let event = AcceptedEvent { event_id: EventId(Uuid::nil()), deliveries_queued: 2, is_duplicate: false };
    for (outcome, result) in [
        (Ok(stored), Ok(event)),
        (Ok(Accepted::UnknownApplication), Err(AcceptError::UnknownApplication)),
        (Ok(Accepted::UnknownEventType), Err(InvalidEvent::UnknownEventType.into())),
        (Err(AcceptError::KeyBusy), Err(AcceptError::KeyBusy)),
    ] {
        assert_eq!(accept(outcome).await, result);
    }
}

#[test]
fn an_application_that_a_key_names_no_longer_exists_with_its_key() {
    let outcome = || Ok(Accepted::UnknownApplication);
    let of = |producer: Producer| step_after(&producer, outcome(), Vec::new());
    assert_eq!(of(Producer::Admin(APPLICATION)), Step::Done(Err(AcceptError::UnknownApplication)));
    assert_eq!(of(Producer::Key([0; 32])), Step::Done(Err(AcceptError::UnknownKey)));
}
