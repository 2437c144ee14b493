//! Records what happened to every event. Producers and the receiver write to it concurrently without locks. It is
//! evaluated after the phase, so that recording costs the measured system almost nothing.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::time::Instant;

/// Slots per allocation.
const SEGMENT: usize = 1 << 14;

/// Nanoseconds since the ledger was created, on one clock for all. Never 0, which means "not yet".
pub(crate) type Nanos = u64;

/// A slot for every event and each of its deliveries.
pub(crate) struct Ledger {
    opened: Instant,
    /// Maximum deliveries per event.
    fan_out: usize,
    segments: Box<[OnceLock<Segment>]>,
    next: AtomicU64,
    /// Deliveries of accepted events that should arrive, and how many of them did.
    expected: AtomicU64,
    delivered: AtomicU64,
    accepted: AtomicU64,
}

struct Segment {
    events: Box<[EventSlot]>,
    deliveries: Box<[DeliverySlot]>,
}

#[derive(Default)]
struct EventSlot {
    lane: AtomicU8,
    intended: AtomicU64,
    accepted: AtomicU64,
}

#[derive(Default)]
struct DeliverySlot {
    arrived: AtomicU64,
    taken: AtomicU64,
    arrivals: AtomicU32,
    duplicates: AtomicU32,
}

/// The final state of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) number: u64,
    pub(crate) lane: usize,
    /// When it should have been sent.
    pub(crate) intended: Nanos,
    /// When the 202 response arrived.
    pub(crate) accepted: Option<Nanos>,
}

/// The final state of a delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    /// When the first attempt arrived.
    pub(crate) arrived: Option<Nanos>,
    /// When an attempt first got a 2xx response.
    pub(crate) taken: Option<Nanos>,
    pub(crate) arrivals: u32,
    /// Arrivals after that.
    pub(crate) duplicates: u32,
}

/// The counts so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// Events that got a 202 response.
    pub(crate) accepted: u64,
    /// Deliveries expected for these events.
    pub(crate) expected: u64,
    /// Deliveries that got a 2xx response.
    pub(crate) delivered: u64,
}

impl Ledger {
    /// Creates a ledger for at most `events` events with at most `fan_out` deliveries each.
    pub(crate) fn new(events: u64, fan_out: usize) -> Self {
        let segments = (events as usize).div_ceil(SEGMENT);
        Self {
            opened: Instant::now(),
            fan_out,
            segments: (0..segments).map(|_| OnceLock::new()).collect(),
            next: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Nanos {
        self.opened.elapsed().as_nanos() as Nanos + 1
    }

    /// Returns the number of the next event.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Relaxed)
    }

    /// Opens a slot for an event and returns its number, or `None` if no slot is left.
    pub(crate) fn begin(&self, lane: usize, intended: Nanos) -> Option<u64> {
        let number = self.next.fetch_add(1, Relaxed);
        let Some(segment) = self.segments.get(number as usize / SEGMENT) else {
            self.next.fetch_sub(1, Relaxed);
            return None;
        };
        let segment = segment.get_or_init(|| Segment {
            events: (0..SEGMENT).map(|_| EventSlot::default()).collect(),
            deliveries: (0..SEGMENT * self.fan_out).map(|_| DeliverySlot::default()).collect(),
        });
        let slot = &segment.events[number as usize % SEGMENT];
        slot.lane.store(lane as u8, Relaxed);
        slot.intended.store(intended, Relaxed);
        Some(number)
    }

    /// Notes that an event got its 202 response, and that `deliveries` should arrive for it.
    pub(crate) fn accepted(&self, number: u64, deliveries: usize) {
        let now = self.now();
        if let Some(slot) = self.event_slot(number) {
            slot.accepted.store(now, Relaxed);
            self.accepted.fetch_add(1, Relaxed);
            self.expected.fetch_add(deliveries as u64, Relaxed);
        }
    }

    /// Notes that an attempt arrived. Returns its number, counted from 1, or `None` if there is no such event.
    pub(crate) fn arrived(&self, number: u64, position: usize, at: Nanos) -> Option<u32> {
        let slot = self.delivery_slot(number, position)?;
        let attempt = slot.arrivals.fetch_add(1, Relaxed) + 1;
        if attempt == 1 {
            slot.arrived.store(at, Relaxed);
        }
        if slot.taken.load(Relaxed) != 0 {
            slot.duplicates.fetch_add(1, Relaxed);
        }
        Some(attempt)
    }

    /// Notes that the attempt that arrived at `at` gets a 2xx response.
    pub(crate) fn taken(&self, number: u64, position: usize, at: Nanos) {
        let Some(slot) = self.delivery_slot(number, position) else { return };
        if slot.taken.compare_exchange(0, at, Relaxed, Relaxed).is_ok() {
            self.delivered.fetch_add(1, Relaxed);
        }
    }

    /// Returns true if the delivery got a 2xx response.
    pub(crate) fn is_taken(&self, number: u64, position: usize) -> bool {
        self.delivery_slot(number, position).is_some_and(|slot| slot.taken.load(Relaxed) != 0)
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            accepted: self.accepted.load(Relaxed),
            expected: self.expected.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
        }
    }

    /// Returns the events with these numbers.
    pub(crate) fn events(&self, numbers: Range<u64>) -> impl Iterator<Item = Event> {
        numbers.filter_map(|number| {
            let slot = self.event_slot(number)?;
            Some(Event {
                number,
                lane: slot.lane.load(Relaxed).into(),
                intended: slot.intended.load(Relaxed),
                accepted: some(slot.accepted.load(Relaxed)),
            })
        })
    }

    /// Returns the first `fan_out` deliveries of an event.
    pub(crate) fn deliveries(&self, number: u64, fan_out: usize) -> impl Iterator<Item = Delivery> {
        (0..fan_out).filter_map(move |position| {
            let slot = self.delivery_slot(number, position)?;
            Some(Delivery {
                arrived: some(slot.arrived.load(Relaxed)),
                taken: some(slot.taken.load(Relaxed)),
                arrivals: slot.arrivals.load(Relaxed),
                duplicates: slot.duplicates.load(Relaxed),
            })
        })
    }

    fn event_slot(&self, number: u64) -> Option<&EventSlot> {
        let segment = self.segments.get(number as usize / SEGMENT)?.get()?;
        Some(&segment.events[number as usize % SEGMENT])
    }

    fn delivery_slot(&self, number: u64, position: usize) -> Option<&DeliverySlot> {
        if position >= self.fan_out {
            return None;
        }
        let segment = self.segments.get(number as usize / SEGMENT)?.get()?;
        Some(&segment.deliveries[(number as usize % SEGMENT) * self.fan_out + position])
    }
}

fn some(nanos: Nanos) -> Option<Nanos> {
    (nanos != 0).then_some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_followed_from_its_post_to_its_last_duplicate() {
        let ledger = Ledger::new(10, 2);
        let number = ledger.begin(3, 7).expect("a slot");
        ledger.accepted(number, 2);
        assert_eq!(ledger.arrived(number, 1, 20), Some(1));
        assert_eq!(ledger.arrived(number, 1, 30), Some(2));
        ledger.taken(number, 1, 30);
        assert_eq!(ledger.arrived(number, 1, 40), Some(3));
        ledger.taken(number, 1, 40);

        let events: Vec<_> = ledger.events(0..ledger.next()).collect();
        assert_eq!((events.len(), events[0].lane, events[0].intended), (1, 3, 7));
        assert!(events[0].accepted.is_some());
        let deliveries: Vec<_> = ledger.deliveries(number, 2).collect();
        assert_eq!(deliveries[0].arrivals, 0);
        let second = deliveries[1];
        assert_eq!((second.arrived, second.taken), (Some(20), Some(30)));
        assert_eq!((second.arrivals, second.duplicates), (3, 1));
        let totals = ledger.totals();
        assert_eq!((totals.accepted, totals.expected, totals.delivered), (1, 2, 1));
    }

    #[test]
    fn what_was_never_posted_is_not_known() {
        let ledger = Ledger::new(1, 1);
        assert_eq!(ledger.arrived(0, 0, 1), None);
        assert_eq!(ledger.arrived(1 << 40, 0, 1), None);
        for _ in 0..SEGMENT {
            assert!(ledger.begin(0, 1).is_some());
        }
        assert_eq!(ledger.begin(0, 1), None);
        assert_eq!(ledger.next(), SEGMENT as u64);
        assert_eq!(ledger.arrived(0, 1, 1), None);
    }
}
