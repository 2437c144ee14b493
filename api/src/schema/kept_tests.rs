use postrider_domain::ids::ApplicationId;
use serde_json::json;
use uuid::Uuid;

use super::*;

fn application(number: u128) -> ApplicationId {
    ApplicationId(Uuid::from_u128(number))
}

fn stored(number: u8) -> StoredSchema {
    StoredSchema {
        hash: [number; 32],
        json: json!({"title": number.to_string(), "pattern": format!("^a+{number}")}).to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_ask_for_at_once_is_compiled_once() {
    let kept = Arc::new(KeptSchemas::new());
    let asking = (0..64_u8).map(|number| {
        let kept = kept.clone();
        tokio::spawn(async move { kept.learn(application(u128::from(number % 3)), stored(number % 2)).await })
    });
    let mut compiled = 0;
    for asking in asking.collect::<Vec<_>>() {
        compiled += u32::from(asking.await.expect("no panic").expect("no refusal"));
    }
    assert_eq!(compiled, 2);
    for number in 0..3 {
        assert!(kept.get(application(number), &[1; 32]).is_some());
    }
    assert!(kept.get(application(3), &[1; 32]).is_none(), "this application did not request it");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_application_displaces_the_schemas_of_another() {
    let size = Schema::compile(&stored(0)).expect("a schema").bytes() + USE_BYTES;
    let kept = Arc::new(KeptSchemas::of_at_most(10 * size, 8 * size));
    let (modest, greedy, third) = (application(1), application(2), application(3));
    for number in 0..3 {
        kept.learn(modest, stored(number)).await.expect("no refusal");
    }
    for number in 100..200 {
        kept.learn(greedy, stored(number)).await.expect("no refusal");
        assert!(kept.get(greedy, &[number; 32]).is_some(), "the newest is kept");
        // A schema that is in use stays.
        assert!(kept.get(greedy, &[100; 32]).is_some());
    }
    for number in 0..3 {
        assert!(kept.get(modest, &[number; 32]).is_some());
    }
    for number in 10..13 {
        kept.learn(third, stored(number)).await.expect("no refusal");
    }
    for number in 0..3 {
        assert!(kept.get(modest, &[number; 32]).is_some());
        assert!(kept.get(third, &[10 + number; 32]).is_some());
    }
    let state = kept.state();
    assert!(state.bytes <= 10 * size);
    assert_eq!(
        state.schemas.len(),
        state.accounts.values().map(|account| account.last_used.len()).sum::<usize>()
    );
}

#[tokio::test]
async fn a_schema_that_applications_share_is_kept_once() {
    let kept = Arc::new(KeptSchemas::new());
    assert!(kept.learn(application(0), stored(1)).await.expect("no refusal"));
    let of_one = kept.state().bytes;
    for number in 1..100 {
        assert!(!kept.learn(application(number), stored(1)).await.expect("no refusal"));
    }
    assert_eq!(kept.state().bytes, of_one + 99 * USE_BYTES);
}
