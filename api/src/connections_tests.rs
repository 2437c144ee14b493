use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::*;

/// Connections that were taken in, with the other end of each.
async fn opened(connections: &Connections, count: usize) -> Vec<(Option<Watched>, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut all = Vec::new();
    for _ in 0..count {
        let far = TcpStream::connect(address).await.expect("a connection");
        let (near, peer) = listener.accept().await.expect("accepted");
        all.push((connections.add(near, peer), far));
    }
    all
}

async fn is_closed(watched: &mut Option<Watched>) -> bool {
    let watched = watched.as_mut().expect("it was taken in");
    let reading = watched.read_u8();
    tokio::time::timeout(Duration::ZERO, reading).await.is_ok()
}

#[tokio::test]
async fn a_new_connection_takes_the_place_of_the_oldest_that_sent_no_request() {
    let connections = Connections::new(3);
    let mut all = opened(&connections, 2).await;
    let served = connections.serving(Some(all[0].0.as_ref().expect("it").connection.peer));
    drop(served);
    all.extend(opened(&connections, 2).await);
    let mut closed = Vec::new();
    for (near, _) in &mut all {
        closed.push(is_closed(near).await);
    }
    assert_eq!(closed, [false, true, false, false]);
}

#[tokio::test]
async fn who_is_served_is_never_pushed_out() {
    let connections = Connections::new(2);
    let all = opened(&connections, 2).await;
    let serving: Vec<_> = all
        .iter()
        .map(|(near, _)| connections.serving(Some(near.as_ref().expect("it").connection.peer)))
        .collect();
    assert!(opened(&connections, 1).await[0].0.is_none());
    drop(serving);
    assert!(opened(&connections, 1).await[0].0.is_some());
}

#[tokio::test]
async fn a_head_has_fifteen_seconds_however_it_drips_and_an_idle_connection_ninety() {
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    let new = Phase { requests: 0, is_known: false, quiet_since: now, head_since: None };
    assert!(!new.is_overdue(later(14)) && new.is_overdue(later(15)));
    let idle = Phase { is_known: true, ..new };
    assert!(!idle.is_overdue(later(89)) && idle.is_overdue(later(90)));
    let dripping = Phase { head_since: Some(later(50)), ..idle };
    assert!(!dripping.is_overdue(later(64)) && dripping.is_overdue(later(65)));
    let served = Phase { requests: 1, ..dripping };
    assert!(!served.is_overdue(later(1_000)));
}

#[tokio::test]
async fn what_is_overdue_is_closed_though_it_still_sends() {
    let connections = Connections::new(2);
    let mut all = opened(&connections, 1).await;
    connections.close_overdue(Instant::now());
    assert!(!is_closed(&mut all[0].0).await);
    connections.close_overdue(Instant::now() + HEAD_TIMEOUT);
    assert!(is_closed(&mut all[0].0).await);
    all.clear();
    assert!(connections.open().is_empty());
}
