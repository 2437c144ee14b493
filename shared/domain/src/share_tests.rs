use std::time::Duration;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn take_all(shares: &Shares<&'static str>, key: &'static str) -> Vec<Share<&'static str>> {
    std::iter::from_fn(|| shares.try_acquire(&key, 1)).collect()
}

#[test]
fn one_holder_reaches_eight_ninths_and_the_rest_stays_for_others() {
    let shares = Shares::new(900);
    let alone = take_all(&shares, "a");
    assert_eq!((alone.len(), shares.free(), shares.may_take(&"a")), (800, 100, 0));
    assert_eq!(shares.may_take(&"b"), 88);
    assert_eq!(take_all(&shares, "b").len(), 88);
    drop(alone);
    assert_eq!((shares.held(&"a"), shares.free()), (0, 900));
}

#[test]
fn two_holders_that_take_in_turn_get_the_same() {
    let shares = Shares::new(1_700);
    let mut held = Vec::new();
    loop {
        let taken: Vec<_> = ["a", "b"].iter().filter_map(|key| shares.try_acquire(key, 1)).collect();
        if taken.is_empty() {
            break;
        }
        held.extend(taken);
    }
    assert_eq!((shares.held(&"a"), shares.held(&"b"), shares.free()), (800, 800, 100));
}

#[test]
fn what_may_be_taken_at_once_is_what_the_rule_allows() {
    for (free, held) in [(0, 0), (1, 0), (2, 0), (9, 0), (100, 800), (100, 801), (u64::MAX, 5), (7, 3)] {
        let most = may_take(free, held);
        let allows = |amount: u64| {
            amount <= free
                && u128::from(held) + u128::from(amount)
                    <= u128::from(FACTOR) * (u128::from(free) - u128::from(amount))
        };
        assert!(most == 0 || allows(most), "{free} {held} {most}");
        if free < u64::MAX / FACTOR {
            assert!(most == free || !allows(most + 1), "{free} {held} {most}");
        }
    }
}

#[test]
fn a_share_grows_shrinks_and_splits() {
    let shares = Shares::new(90);
    let mut share = shares.try_acquire(&"a", 10).expect("room");
    assert!(share.grow(70));
    assert!(!share.grow(1));
    share.shrink(20);
    let part = share.split(5);
    assert_eq!((share.amount(), part.amount(), shares.held(&"a")), (15, 5, 20));
    drop(share);
    assert_eq!(shares.held(&"a"), 5);
    drop(part);
    assert_eq!(shares.free(), 90);
}

#[tokio::test]
async fn those_who_wait_are_served_one_holder_after_the_other() {
    let shares = Shares::new(9);
    let held = shares.try_acquire(&"a", 8).expect("room");
    let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
    for (key, number) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5)] {
        let (waiting, told) = (shares.clone(), told.clone());
        tokio::spawn(async move {
            let share = waiting.acquire(&key, 8, LONG).await;
            told.send(number).expect("the test receives it");
            drop(share);
        });
        while shares.state().lines.get(key).is_none_or(|line| line.is_empty())
            || shares.state().lines.values().map(VecDeque::len).sum::<usize>() < number
        {
            tokio::task::yield_now().await;
        }
    }
    drop(held);
    let mut served = Vec::new();
    for _ in 0..5 {
        served.push(order.recv().await.expect("a number"));
    }
    assert_eq!(served, [1, 4, 5, 2, 3]);
    assert_eq!(shares.free(), 9);
}

#[tokio::test]
async fn one_that_gives_up_leaves_nothing_behind() {
    let shares = Shares::new(9);
    let held = shares.try_acquire(&"a", 8).expect("room");
    assert!(shares.acquire(&"a", 1, Duration::ZERO).await.is_none());
    assert!(shares.acquire(&"b", 9, LONG).await.is_none(), "more than one holder can have");
    drop(held);
    assert_eq!((shares.free(), shares.state().turns.len()), (9, 0));
    assert!(shares.try_acquire(&"a", 8).is_some());
}
