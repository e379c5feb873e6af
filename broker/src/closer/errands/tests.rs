#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use tokio::sync::Notify;

use super::*;

/// The branch, and which of its errands.
type Key = (u32, u32);

/// What becomes of an errand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Done,
    DoneAfter(Duration),
    Fails,
    Hangs,
}

/// Errands that are there, and what was done of them.
struct World {
    left: RefCell<BTreeMap<Key, Errand<Key>>>,
    way: fn(Key) -> Way,
    may: Cell<fn(Key) -> May>,
    begun: RefCell<Vec<Key>>,
    at_work: RefCell<BTreeSet<Key>>,
    at_work_max: Cell<usize>,
    changed: Notify,
}

/// Far beyond what anything here may take.
const LIMIT: Duration = Duration::from_secs(2 * 3_600);

impl World {
    fn new(way: fn(Key) -> Way) -> World {
        World {
            left: RefCell::default(),
            way,
            may: Cell::new(|_| May::Begin),
            begun: RefCell::default(),
            at_work: RefCell::default(),
            at_work_max: Cell::new(0),
            changed: Notify::new(),
        }
    }

    fn add(&self, keys: impl IntoIterator<Item = Key>, is_urgent: bool) {
        for key in keys {
            let branch = format!("br-branch-{:03}", key.0).parse().unwrap();
            let errand = Errand {
                branch,
                key,
                is_urgent,
            };
            self.left.borrow_mut().insert(key, errand);
        }
    }

    async fn work(&self, key: Key) -> bool {
        self.begun.borrow_mut().push(key);
        {
            let mut at_work = self.at_work.borrow_mut();
            let is_busy = at_work.iter().any(|other| other.0 == key.0);
            assert!(!is_busy, "two turns at once: {key:?} beside {at_work:?}");
            at_work.insert(key);
            self.at_work_max
                .set(self.at_work_max.get().max(at_work.len()));
        }
        let _leave = Leave { world: self, key };
        let is_done = match (self.way)(key) {
            Way::Done => true,
            Way::DoneAfter(time) => {
                tokio::time::sleep(time).await;
                true
            }
            Way::Fails => false,
            Way::Hangs => std::future::pending().await,
        };
        if is_done {
            self.left.borrow_mut().remove(&key);
        }
        is_done
    }

    /// Does errands until it holds. Says how long that took.
    async fn until(&self, holds: impl Fn(&World) -> bool) -> Duration {
        self.during(self.holds(holds)).await
    }

    /// Does errands until what is awaited has come.
    async fn during<T>(&self, awaited: impl Future<Output = T>) -> T {
        let mut looks = tokio::time::interval(Duration::from_secs(1));
        let woken = async || {
            looks.tick().await;
        };
        let all = || self.left.borrow().values().cloned().collect();
        let may = |errand: &Errand<Key>| (self.may.get())(errand.key);
        tokio::select! {
            () = run(woken, all, may, async |key| self.work(*key).await) => unreachable!(),
            came = tokio::time::timeout(LIMIT, awaited) => match came {
                Ok(came) => came,
                Err(_) => panic!("left: {:?}", self.left.borrow().keys()),
            },
        }
    }

    /// Waits until it holds, and says for how long.
    async fn holds(&self, holds: impl Fn(&World) -> bool) -> Duration {
        let begun = Instant::now();
        while !holds(self) {
            self.changed.notified().await;
        }
        begun.elapsed()
    }

    fn is_done(&self, key: Key) -> bool {
        !self.left.borrow().contains_key(&key)
    }

    fn times_begun(&self, key: Key) -> usize {
        let begun = self.begun();
        begun.iter().filter(|other| **other == key).count()
    }

    fn begun(&self) -> Vec<Key> {
        self.begun.borrow().clone()
    }
}

/// Leaves its work, though it be cut off.
struct Leave<'a> {
    world: &'a World,
    key: Key,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.world.at_work.borrow_mut().remove(&self.key);
        self.world.changed.notify_one();
    }
}

/// As many dead branches as have no slot at once, several times over.
const DEAD: u32 = 60;
const LIVE: u32 = 900;

fn one_each(branches: impl Iterator<Item = u32>) -> impl Iterator<Item = Key> {
    branches.map(|branch| (branch, 0))
}

fn live_or(key: Key, dead: Way) -> Way {
    if key.0 < LIVE { dead } else { Way::Done }
}

#[tokio::test(start_paused = true)]
async fn branches_that_hang_hold_up_no_other_for_ever() {
    let world = World::new(|key| live_or(key, Way::Hangs));
    world.add(one_each(0..DEAD), true);
    world.add(one_each(LIVE..LIVE + 20), false);
    let all_live = |world: &World| (LIVE..LIVE + 20).all(|live| world.is_done((live, 0)));
    world.until(all_live).await;
    assert_eq!(world.at_work_max.get(), BRANCHES_AT_ONCE_MAX);
    // Those are cut off, and tried again.
    let again = |world: &World| (0..DEAD).all(|dead| world.times_begun((dead, 0)) > 1);
    world.until(again).await;
}

#[tokio::test(start_paused = true)]
async fn beside_branches_that_hang_a_new_errand_waits_for_none_of_them() {
    let world = World::new(|key| live_or(key, Way::Hangs));
    world.add(one_each(0..DEAD), true);
    let tried = |world: &World| (0..DEAD).all(|dead| world.times_begun((dead, 0)) > 5);
    let later = async {
        world.holds(tried).await;
        world.add([(LIVE, 0)], false);
        world.holds(|world| world.is_done((LIVE, 0))).await
    };
    let waited = world.during(later).await;
    assert!(waited <= Duration::from_secs(1), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn branches_that_fail_hold_up_nobody_and_back_off() {
    let world = World::new(|key| live_or(key, Way::Fails));
    world.add(one_each(0..DEAD), true);
    world.add([(LIVE, 0)], false);
    let live = world.until(|world| world.is_done((LIVE, 0))).await;
    assert!(live <= Duration::from_secs(10), "{live:?}");
    let begun = Instant::now();
    let an_hour = Duration::from_secs(3_600);
    world.until(|_| begun.elapsed() >= an_hour).await;
    // Once a minute at last, and some more in the first.
    let tries = world.times_begun((0, 0));
    assert!((60..80).contains(&tries), "{tries} in an hour");
}

#[tokio::test(start_paused = true)]
async fn suspended_branches_take_no_slot() {
    let world = World::new(|_| Way::Done);
    world.add(one_each(0..DEAD), false);
    world.add([(LIVE, 0)], false);
    world.may.set(|key| match key.0 {
        LIVE.. => May::Begin,
        // Not known yet, of some.
        0..10 => May::NotYet,
        _ => May::NotBefore(Instant::now() + Duration::from_secs(10)),
    });
    let live = world.until(|world| world.is_done((LIVE, 0))).await;
    assert_eq!(live, Duration::ZERO);
    assert_eq!(world.begun(), [(LIVE, 0)]);
    // They are awake.
    world.may.set(|_| May::Begin);
    let awake = world.until(|world| world.left.borrow().is_empty()).await;
    assert!(awake <= Duration::from_secs(11), "{awake:?}");
}

#[tokio::test(start_paused = true)]
async fn a_branch_has_one_turn_at_a_time() {
    let world = World::new(|_| Way::DoneAfter(Duration::from_secs(3)));
    let keys = (0..3).flat_map(|branch| (0..40).map(move |errand| (branch, errand)));
    world.add(keys, false);
    // That there are no two at once, the work itself asserts.
    let took = world.until(|world| world.left.borrow().is_empty()).await;
    assert_eq!(world.at_work_max.get(), 3, "branches go side by side");
    let of_a_branch = Duration::from_secs(40 * 3);
    assert!(
        (of_a_branch..of_a_branch * 2).contains(&took),
        "one after the other on each: {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_urgent_goes_first() {
    let world = World::new(|_| Way::DoneAfter(Duration::from_secs(1)));
    world.add(one_each(0..30), false);
    world.add([(5, 1), (40, 0)], true);
    world.until(|world| world.left.borrow().is_empty()).await;
    let begun = world.begun();
    assert_eq!(begun[..2], [(5, 1), (40, 0)], "{begun:?}");
}

/// An errand that nothing can be done about, on a branch that answers.
#[tokio::test(start_paused = true)]
async fn one_that_always_fails_does_not_hold_up_its_branch() {
    let world = World::new(|key| match key {
        (_, 0) => Way::Fails,
        _ => Way::Done,
    });
    world.add((0..50).map(|errand| (1, errand)), true);
    let took = world.until(|world| world.left.borrow().len() == 1).await;
    assert!(!world.is_done((1, 0)));
    assert!(took <= Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_fails_is_tried_once_a_turn() {
    let world = World::new(|_| Way::Fails);
    world.add((0..50).map(|errand| (1, errand)), false);
    let begun = Instant::now();
    let a_minute = Duration::from_secs(60);
    world.until(|_| begun.elapsed() >= a_minute).await;
    // Each errand has its own pauses, doubled; its branch is not asked for each.
    let tries = world.begun().len();
    assert!(tries < 50, "{tries} tries");
}
