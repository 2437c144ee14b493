//! One endpoint that hangs, and a healthy one beside it.

use std::time::Duration;

use serde_json::json;

use super::setup::{RawReceiver, Setup, read_request};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_holds_up_no_other() {
    let setup = Setup::new().await;
    let hanging = RawReceiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
    })
    .await;
    let endpoint = json!({
        "url": hanging.url(), "event_types": ["hang.*"], "timeout_seconds": 60, "concurrency_limit": 50,
        "max_attempts": 1,
    });
    setup.producer.endpoint(endpoint).await;
    for number in 0..200 {
        setup.producer.publish("hang.now", json!({ "n": number })).await;
    }
    // An endpoint that has never responded may have one exchange at once, whatever its limit.
    eventually("as many exchanges to hang as allowed", async || (hanging.connections() == 1).then_some(()))
        .await;
    // The healthy endpoint gets every event too, and is not behind.
    setup.healthy.wait_for(201).await;
    let closed = "select count(*) from delivery_attempts where error_class = 'timeout'";
    assert_eq!(setup.bed.count(closed).await, 0, "it did not wait for the hanging endpoint");

    for number in 0..50 {
        setup.producer.publish("user.created", json!({ "n": number })).await;
        setup.healthy.wait_for(202 + number).await;
    }
    assert_eq!(setup.bed.count(closed).await, 0, "everything else continued beside it");
    assert_eq!(hanging.connections(), 1);
    drop(hanging);
    setup.finish().await;
}
