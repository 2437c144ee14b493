//! One endpoint that hangs, and its neighbour.

use std::time::Duration;

use serde_json::json;

use crate::scene::{RawReceiver, Scene, read_request};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_holds_up_no_other() {
    let scene = Scene::new().await;
    let hanging = RawReceiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
    })
    .await;
    let endpoint = json!({
        "url": hanging.url(), "event_types": ["hang.*"], "timeout_seconds": 60, "concurrency_limit": 50,
        "max_attempts": 1,
    });
    scene.producer.endpoint(endpoint).await;
    for number in 0..200 {
        scene.producer.publish("hang.now", json!({ "n": number })).await;
    }
    // One that has never answered may have one exchange at once, whatever its limit.
    eventually("as many to hang as may", async || (hanging.connections() == 1).then_some(())).await;
    // It gets every event too, and is not behind.
    scene.healthy.wait_for(201).await;
    let closed = "select count(*) from delivery_attempts where error_class = 'timeout'";
    assert_eq!(scene.bed.count(closed).await, 0, "nothing was waited for");

    for number in 0..50 {
        scene.producer.publish("user.created", json!({ "n": number })).await;
        scene.healthy.wait_for(202 + number).await;
    }
    assert_eq!(scene.bed.count(closed).await, 0, "all of that went on beside it");
    assert_eq!(hanging.connections(), 1);
    drop(hanging);
    scene.finish().await;
}
