use poem::Response;
use postrider_domain::ids::ApplicationId;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::connection::Phase;
use super::*;
use crate::auth::party::Party;

/// Returns accepted connections, with the client end of each.
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

fn is_closed(watched: &Option<Watched>) -> bool {
    watched.as_ref().expect("an accepted connection").closed().is_cancelled()
}

/// Starts a request on an accepted connection.
fn request(connections: &Connections, near: &Option<Watched>) -> Arc<Serving> {
    connections.serving(near.as_ref().expect("an accepted connection").connection.peer)
}

fn application(number: u128) -> Party {
    Party::Application(ApplicationId(Uuid::from_u128(number)))
}

fn closed(all: &[(Option<Watched>, TcpStream)]) -> Vec<bool> {
    all.iter().map(|(near, _)| is_closed(near)).collect()
}

#[tokio::test]
async fn a_new_connection_takes_the_place_of_the_oldest_that_sent_no_request() {
    let connections = Connections::new(3);
    let mut all = opened(&connections, 2).await;
    drop(request(&connections, &all[0].0));
    all.extend(opened(&connections, 2).await);
    assert_eq!(closed(&all), [false, true, false, false]);
}

#[tokio::test]
async fn a_connection_is_never_pushed_out_while_its_request_is_worked_on() {
    let connections = Connections::new(2);
    let all = opened(&connections, 2).await;
    let requests: Vec<_> = all.iter().map(|(near, _)| request(&connections, near)).collect();
    requests.iter().for_each(|request| request.work_begins());
    assert!(opened(&connections, 1).await[0].0.is_none());
    assert_eq!(connections.refused(), 1);
    drop(requests);
    assert!(opened(&connections, 1).await[0].0.is_some());
}

#[tokio::test]
async fn who_has_most_requests_that_wait_makes_room_before_the_idle_connections_of_others() {
    let places = Shares::new(100);
    let connections = Connections::new(4);
    let mut all = opened(&connections, 4).await;
    let belongs_to = |near, party| {
        let request = request(&connections, near);
        request.belongs_to(party, places.try_acquire(&party, 1).expect("a place"), places.clone());
        request
    };
    // The first connection is idle. The bodies of the other requests do not arrive.
    drop(belongs_to(&all[0].0, application(1)));
    let _waiting: Vec<_> = all[1..].iter().map(|(near, _)| belongs_to(near, application(2))).collect();
    all.extend(opened(&connections, 1).await);
    assert_eq!(closed(&all), [false, true, false, false, false]);
}

#[tokio::test]
async fn a_head_has_fifteen_seconds_however_it_drips_and_an_idle_connection_ninety() {
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    let new = Phase::new(now);
    assert!(!new.is_overdue(later(14)) && new.is_overdue(later(15)));
    let mut idle = Phase::new(now);
    idle.request_begins();
    assert!(!idle.is_overdue(later(1_000)));
    idle.request_ends(now);
    assert!(!idle.is_overdue(later(89)) && idle.is_overdue(later(90)));
    let mut dripping = idle;
    dripping.note_read(b"G", later(50));
    dripping.note_read(b"E", later(60));
    assert!(!dripping.is_overdue(later(64)) && dripping.is_overdue(later(65)));
    dripping.request_begins();
    assert!(!dripping.is_overdue(later(1_000)));
}

#[tokio::test]
async fn a_response_has_a_minute_to_be_read_whatever_else_is_asked_meanwhile() {
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    let mut phase = Phase::new(now);
    phase.request_begins();
    phase.responses.push(now);
    phase.request_begins();
    phase.responses.push(later(50));
    assert!(!phase.is_overdue(later(59)) && phase.is_overdue(later(60)));
    phase.responses.remove(0);
    assert!(!phase.is_overdue(later(109)) && phase.is_overdue(later(110)));
}

#[tokio::test]
async fn a_response_that_is_not_read_is_given_up_and_frees_what_it_held() {
    let room = Shares::new(64 << 20);
    let connections = Connections::new(2);
    let mut all = opened(&connections, 1).await;
    let serving = request(&connections, &all[0].0);
    let place = Shares::new(9).try_acquire(&application(1), 1).expect("a place");
    serving.belongs_to(application(1), place, room.clone());
    serving.reserve(room.try_acquire(&application(1), 1 << 10).expect("room"));
    let response = Response::builder().body(vec![b'x'; 32 << 20]);
    let response = serving.respond(response).await.expect("a response");
    let mut near = all[0].0.take().expect("an accepted connection");
    let closed = near.closed();
    let writing = tokio::spawn(closed.run_until_cancelled_owned(async move {
        let bytes = response.into_body().into_bytes().await.expect("bytes");
        near.write_all(&bytes).await
    }));
    tokio::task::yield_now().await;
    connections.close_overdue(Instant::now() + Duration::from_secs(59));
    assert_eq!(room.held(&application(1)), 32 << 20);
    connections.close_overdue(Instant::now() + Duration::from_secs(60));
    assert!(writing.await.expect("no panic").is_none());
    assert_eq!(room.held(&application(1)), 0);
}

#[tokio::test]
async fn long_heads_share_what_there_is_of_room() {
    let heads = Shares::new(200_000);
    let address = IpAddr::from([127, 0, 0, 1]);
    let now = Instant::now();
    let mut phases: Vec<_> = (0..4).map(|_| Phase::new(now)).collect();
    let mut may_read = || -> Vec<_> {
        let read = |phase: &mut Phase| {
            let room = phase.may_read(&heads, address);
            phase.note_read(&vec![b'x'; room], now);
            room
        };
        phases.iter_mut().map(read).collect()
    };
    assert_eq!(may_read(), [8_192; 4]);
    assert_eq!(may_read(), [57_344, 57_344, 57_344, 0]);
    assert_eq!(may_read(), [0; 4]);
    phases[0].request_begins();
    assert_eq!(phases[3].may_read(&heads, address), 57_344);
}

#[tokio::test]
async fn what_is_overdue_is_closed_though_it_still_sends() {
    let connections = Connections::new(2);
    let mut all = opened(&connections, 1).await;
    connections.close_overdue(Instant::now());
    assert!(!is_closed(&all[0].0));
    connections.close_overdue(Instant::now() + Duration::from_secs(15));
    assert!(is_closed(&all[0].0));
    all.clear();
    assert!(connections.0.open().is_empty());
}
