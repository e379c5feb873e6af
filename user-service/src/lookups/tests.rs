mod crowd;
mod limits;

use std::{future::poll_fn, pin::Pin, task::Poll};

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::*;

/// What no step takes: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// The values that the tests answer with.
const FOUND: [(u32, &str); 4] = [(1, "one"), (2, "two"), (4, "four"), (5, "five")];

const SMALL: Limits = Limits {
    keys_max: 3,
    queries_usual: 1,
    queries_max: 3,
    yields: 0,
    wait_microseconds_max: 5_000,
};

/// A source whose queries the test sees, and answers.
struct Seen(mpsc::UnboundedSender<Query>);

/// A query under way. Dropped, it makes the fetch panic.
struct Query {
    keys: Vec<u32>,
    answer: oneshot::Sender<Result<BTreeMap<u32, String>, Refused>>,
}

/// No two are equal, unless they are the same.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("refused, the {0}th time")]
struct Refused(u32);

type Call<'l> = Pin<Box<dyn Future<Output = Result<Option<String>, Refused>> + 'l>>;

impl Source for Seen {
    type Key = u32;
    type Value = String;
    type Error = Refused;

    async fn fetch(&self, keys: Vec<u32>) -> Result<BTreeMap<u32, String>, Refused> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Query { keys, answer }).unwrap();
        answered.await.expect("a fetch that panics")
    }
}

impl Query {
    /// With what there is of its keys.
    fn answers(self) {
        let found = FOUND.into_iter().filter(|(key, _)| self.keys.contains(key));
        let found = found.map(|(key, value)| (key, value.to_owned())).collect();
        self.answer.send(Ok(found)).unwrap();
    }

    fn says(self, key: u32, value: &str) {
        let found = BTreeMap::from([(key, value.to_owned())]);
        self.answer.send(Ok(found)).unwrap();
    }

    fn refuses(self, time: u32) {
        self.answer.send(Err(Refused(time))).unwrap();
    }
}

struct Queries(mpsc::UnboundedReceiver<Query>);

impl Queries {
    async fn next(&mut self) -> Query {
        let next = timeout(PATIENCE, self.0.recv()).await;
        next.expect("a query is sent").unwrap()
    }

    /// Lets all tasks run that can: none of them sends a query.
    async fn none(&mut self) {
        for _ in 0..100 {
            yield_now().await;
        }
        if let Ok(query) = self.0.try_recv() {
            panic!("a query of {:?} is sent", query.keys);
        }
    }
}

fn lookups(limits: Limits) -> (Lookups<Seen>, Queries) {
    let (seen, queries) = mpsc::unbounded_channel();
    (Lookups::new(Seen(seen), limits), Queries(queries))
}

/// A call that has arrived, and waits.
async fn arrived(lookups: &Lookups<Seen>, key: u32) -> Call<'_> {
    let mut call: Call<'_> = Box::pin(lookups.get(key));
    let waits = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending()));
    assert!(waits.await, "{key} waits");
    call
}

async fn value(call: Call<'_>) -> Option<String> {
    answer(call).await.unwrap()
}

async fn answer(call: Call<'_>) -> Result<Option<String>, Refused> {
    timeout(PATIENCE, call).await.expect("it is answered")
}

#[tokio::test(start_paused = true)]
async fn with_nothing_under_way_a_call_is_sent_at_once_and_alone() {
    let (lookups, mut queries) = lookups(SMALL);
    let begun = Instant::now();
    for (key, expected) in [(1, Some("one")), (3, None)] {
        let call = arrived(&lookups, key).await;
        let query = queries.0.try_recv().unwrap();
        assert_eq!(query.keys, [key]);
        query.answers();
        assert_eq!(value(call).await.as_deref(), expected);
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn calls_gather_while_a_query_is_under_way_and_go_when_it_comes_back() {
    let (lookups, mut queries) = lookups(Limits::default());
    let begun = Instant::now();
    let first = arrived(&lookups, 1).await;
    let others = [
        arrived(&lookups, 5).await,
        arrived(&lookups, 3).await,
        arrived(&lookups, 2).await,
        arrived(&lookups, 5).await,
    ];
    let query = queries.next().await;
    assert_eq!(query.keys, [1]);
    queries.none().await;
    query.answers();
    assert_eq!(value(first).await.as_deref(), Some("one"));
    let query = queries.next().await;
    assert_eq!(query.keys, [2, 3, 5], "each once, in order");
    query.answers();
    for (call, expected) in others
        .into_iter()
        .zip([Some("five"), None, Some("two"), Some("five")])
    {
        assert_eq!(value(call).await.as_deref(), expected);
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    queries.none().await;
}

#[tokio::test(start_paused = true)]
async fn who_can_arrive_before_a_query_is_sent_comes_along() {
    for (yields, together) in [(0, &[2][..]), (5, &[2, 4])] {
        let (lookups, mut queries) = lookups(Limits { yields, ..SMALL });
        let lookups = Arc::new(lookups);
        let begun = Instant::now();
        let first = arrived(&lookups, 1).await;
        let waits = arrived(&lookups, 2).await;
        let late = tokio::spawn({
            let lookups = Arc::clone(&lookups);
            async move {
                for _ in 0..3 {
                    yield_now().await;
                }
                lookups.get(4).await.unwrap()
            }
        });
        queries.next().await.answers();
        value(first).await;
        let query = queries.next().await;
        assert_eq!(query.keys, together, "after {yields}");
        query.answers();
        assert_eq!(value(waits).await.as_deref(), Some("two"));
        if yields == 0 {
            queries.next().await.answers();
        }
        assert_eq!(late.await.unwrap().as_deref(), Some("four"));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_is_answered_by_a_query_that_was_sent_before_it() {
    let (lookups, mut queries) = lookups(SMALL);
    let first = arrived(&lookups, 1).await;
    let alone = queries.next().await;
    let second = arrived(&lookups, 1).await;
    alone.says(1, "as it was");
    assert_eq!(value(first).await.as_deref(), Some("as it was"));
    let shared = queries.next().await;
    let third = arrived(&lookups, 1).await;
    shared.says(1, "changed");
    assert_eq!(value(second).await.as_deref(), Some("changed"));
    queries.next().await.says(1, "changed again");
    assert_eq!(value(third).await.as_deref(), Some("changed again"));
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_takes_nothing_from_the_others() {
    let (lookups, mut queries) = lookups(SMALL);
    for gone in [2, 4, 5] {
        let first = arrived(&lookups, 1).await;
        let mut others = Vec::new();
        for key in [2, 4, 5] {
            others.push((key, arrived(&lookups, key).await));
        }
        // Three are as many as gather.
        let query = queries.next().await;
        let shared = queries.next().await;
        assert_eq!(shared.keys, [2, 4, 5]);
        others.retain(|(key, _)| *key != gone);
        queries.none().await;
        assert!(!shared.answer.is_closed(), "two wait");
        shared.answers();
        for (_, call) in others {
            assert!(value(call).await.is_some());
        }
        query.answers();
        value(first).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_that_nobody_waits_for_is_given_up() {
    let (lookups, mut queries) = lookups(SMALL);
    let first = arrived(&lookups, 1).await;
    let others = [arrived(&lookups, 2).await, arrived(&lookups, 4).await];
    queries.next().await.answers();
    value(first).await;
    let mut shared = queries.next().await;
    let later = arrived(&lookups, 5).await;
    drop(others);
    let given_up = timeout(PATIENCE, shared.answer.closed()).await;
    given_up.expect("it is given up");
    let query = queries.next().await;
    assert_eq!(query.keys, [5], "the turn went on");
    query.answers();
    assert_eq!(value(later).await.as_deref(), Some("five"));
}

#[tokio::test(start_paused = true)]
async fn who_went_away_before_is_not_asked_for() {
    let (lookups, mut queries) = lookups(SMALL);
    let first = arrived(&lookups, 1).await;
    let gone = arrived(&lookups, 2).await;
    let waits = arrived(&lookups, 4).await;
    drop(gone);
    queries.next().await.answers();
    value(first).await;
    let query = queries.next().await;
    assert_eq!(query.keys, [4]);
    // Nobody at all is left for the next.
    drop(arrived(&lookups, 2).await);
    query.answers();
    value(waits).await;
    queries.none().await;
    let alone = arrived(&lookups, 5).await;
    queries.next().await.answers();
    assert_eq!(value(alone).await.as_deref(), Some("five"));
}

#[tokio::test(start_paused = true)]
async fn a_lone_call_that_goes_away_leaves_its_turn_to_the_others() {
    let (lookups, mut queries) = lookups(SMALL);
    let begun = Instant::now();
    let first = arrived(&lookups, 1).await;
    let other = arrived(&lookups, 2).await;
    let mut query = queries.next().await;
    drop(first);
    let given_up = timeout(PATIENCE, query.answer.closed()).await;
    given_up.expect("it is given up");
    queries.next().await.answers();
    assert_eq!(value(other).await.as_deref(), Some("two"));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn callers_of_a_query_that_fails_look_alone_each_with_an_error_of_its_own() {
    let (lookups, mut queries) = lookups(SMALL);
    let first = arrived(&lookups, 1).await;
    let (two, again, four) = (
        arrived(&lookups, 2).await,
        arrived(&lookups, 2).await,
        arrived(&lookups, 4).await,
    );
    queries.next().await.answers();
    value(first).await;
    let shared = queries.next().await;
    assert_eq!(shared.keys, [2, 4]);
    shared.refuses(0);
    let alone = async {
        for time in 1..=3 {
            let query = queries.next().await;
            match *query.keys {
                [2] => query.refuses(time),
                [4] => query.answers(),
                _ => panic!("{:?} are no key alone", query.keys),
            }
        }
    };
    let (two, again, four, ()) = tokio::join!(answer(two), answer(again), answer(four), alone);
    assert_eq!(four.unwrap().as_deref(), Some("four"));
    let (two, again) = (two.unwrap_err(), again.unwrap_err());
    assert!(two != again && two.0 > 0 && again.0 > 0, "{two} {again}");
    queries.none().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_of_one_caller_is_its_own_at_once() {
    let (lookups, mut queries) = lookups(SMALL);
    let first = arrived(&lookups, 1).await;
    let second = arrived(&lookups, 2).await;
    queries.next().await.refuses(1);
    assert_eq!(answer(first).await, Err(Refused(1)));
    queries.next().await.refuses(2);
    assert_eq!(answer(second).await, Err(Refused(2)));
    queries.none().await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_panics_holds_nobody_up() {
    let (lookups, mut queries) = lookups(SMALL);
    let lookups = Arc::new(lookups);
    let lone = tokio::spawn({
        let lookups = Arc::clone(&lookups);
        async move { lookups.get(1).await }
    });
    let query = queries.next().await;
    let (two, four) = (arrived(&lookups, 2).await, arrived(&lookups, 4).await);
    drop(query);
    assert!(lone.await.unwrap_err().is_panic());
    drop(queries.next().await);
    let alone = async {
        for _ in 0..2 {
            let query = queries.next().await;
            assert_eq!(query.keys.len(), 1);
            query.answers();
        }
    };
    let (two, four, ()) = tokio::join!(value(two), value(four), alone);
    assert_eq!(two.as_deref(), Some("two"));
    assert_eq!(four.as_deref(), Some("four"));
    let next = arrived(&lookups, 5).await;
    queries.0.try_recv().unwrap().answers();
    assert_eq!(value(next).await.as_deref(), Some("five"));
}
