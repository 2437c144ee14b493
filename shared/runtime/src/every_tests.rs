use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Default)]
struct Counting {
    steps: AtomicU32,
    failures: AtomicU32,
    wake: Notify,
    /// Notified by each step.
    stepped: Notify,
}

impl Service for Counting {
    type Error = &'static str;

    async fn failed(&self, _: &'static str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counting {
    fn step(&self) -> u32 {
        self.stepped.notify_one();
        self.steps.fetch_add(1, Ordering::Relaxed) + 1
    }
}

struct Woken;

impl Step<Counting> for Woken {
    async fn run(&mut self, service: &Arc<Counting>) -> Result<Next, &'static str> {
        service.step();
        Ok(Next::Later)
    }

    async fn woken(&mut self, service: &Arc<Counting>) -> Result<(), &'static str> {
        service.wake.notified().await;
        Ok(())
    }
}

fn tasks() -> (Supervisor, Arc<Counting>, Tasks<Counting>) {
    let supervisor = Supervisor::new(&CancellationToken::new());
    let service = Arc::new(Counting::default());
    let tasks = Tasks::new(&supervisor, &service);
    (supervisor, service, tasks)
}

#[tokio::test]
async fn a_step_is_taken_at_once_and_when_it_is_woken() {
    let (supervisor, service, mut tasks) = tasks();
    tasks.every("woken", HOUR, Woken);
    service.stepped.notified().await;
    service.wake.notify_one();
    service.stepped.notified().await;
    assert_eq!(service.steps.load(Ordering::Relaxed), 2);
    supervisor.stop().cancel();
    tasks.end().await;
    assert!(supervisor.outcome().is_ok());
}

#[tokio::test]
async fn a_step_that_fails_is_repeated_although_its_cadence_is_long() {
    let (supervisor, service, mut tasks) = tasks();
    tasks.every(
        "failing",
        HOUR,
        async |service: Arc<Counting>| {
            if service.step() < 3 { Err("not yet") } else { Ok(Next::Later) }
        },
    );
    for _ in 0..3 {
        service.stepped.notified().await;
    }
    assert_eq!(service.failures.load(Ordering::Relaxed), 2);
    supervisor.stop().cancel();
    tasks.finish().await;
    assert!(supervisor.outcome().is_ok());
}

#[tokio::test]
async fn a_step_that_has_begun_is_finished_or_dropped() {
    for is_finished in [true, false] {
        let (supervisor, service, mut tasks) = tasks();
        tasks.every("slow", HOUR, async |service: Arc<Counting>| {
            service.step();
            service.wake.notified().await;
            service.step();
            Ok(Next::Now)
        });
        service.stepped.notified().await;
        supervisor.stop().cancel();
        if is_finished {
            tokio::join!(tasks.finish(), async { service.wake.notify_one() });
        } else {
            tasks.end().await;
        }
        assert_eq!(service.steps.load(Ordering::Relaxed), if is_finished { 2 } else { 1 });
    }
}

#[test]
fn waits_after_failures_grow_up_to_a_quarter_of_the_cadence() {
    let last = |cadence| backoff(cadence).nth(20).expect("the backoff never ends");
    assert!(backoff(HOUR).next().expect("a first wait") < 2 * FIRST_BACKOFF);
    assert!((Duration::from_millis(500)..Duration::from_secs(1)).contains(&last(Duration::ZERO)));
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&last(Duration::from_secs(8))));
    assert!((Duration::from_secs(5)..Duration::from_secs(10)).contains(&last(HOUR)));
}
