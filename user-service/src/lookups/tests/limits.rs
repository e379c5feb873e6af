//! Bounds: how many share a query, how many queries there are, how long a call waits,
//! and what is left of those who went away.

use super::*;

#[tokio::test(start_paused = true)]
async fn as_many_as_a_query_takes_wait_for_nothing() {
    let (lookups, mut queries) = lookups(SMALL);
    let begun = Instant::now();
    let first = arrived(&lookups, 1).await;
    let slow = queries.next().await;
    let gathered = [
        arrived(&lookups, 2).await,
        arrived(&lookups, 2).await,
        arrived(&lookups, 5).await,
    ];
    let one_more = arrived(&lookups, 4).await;
    let query = queries.next().await;
    assert_eq!(query.keys, [2, 5]);
    queries.none().await;
    query.answers();
    for call in gathered {
        assert!(value(call).await.is_some());
    }
    queries.none().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    slow.answers();
    value(first).await;
    queries.next().await.answers();
    value(one_more).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_query_holds_nobody_up_for_longer_than_a_call_may_wait() {
    let (lookups, mut queries) = lookups(SMALL);
    let first = arrived(&lookups, 1).await;
    let slow = queries.next().await;
    for _ in 0..2 {
        let begun = Instant::now();
        let two = arrived(&lookups, 2).await;
        sleep(SMALL.wait() / 2).await;
        let four = arrived(&lookups, 4).await;
        queries.none().await;
        let query = queries.next().await;
        let waited = begun.elapsed();
        assert!(waited >= SMALL.wait(), "{waited:?}");
        assert!(
            waited <= SMALL.wait() + Duration::from_millis(1),
            "{waited:?}"
        );
        assert_eq!(query.keys, [2, 4]);
        // While there are two, others wait as well.
        let five = arrived(&lookups, 5).await;
        query.answers();
        assert!(value(two).await.is_some() && value(four).await.is_some());
        queries.none().await;
        queries.next().await.answers();
        assert_eq!(value(five).await.as_deref(), Some("five"));
    }
    slow.answers();
    assert_eq!(value(first).await.as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn there_are_never_more_queries_than_may_be() {
    let (lookups, mut queries) = lookups(SMALL);
    let (mut calls, mut under_way) = (Vec::new(), Vec::new());
    for _ in 0..1 + 2 * SMALL.keys_max {
        calls.push(arrived(&lookups, 1).await);
    }
    for _ in 0..SMALL.queries_max {
        under_way.push(queries.next().await);
    }
    let mut waits = Vec::new();
    for key in [2, 4, 5, 1] {
        waits.push(arrived(&lookups, key).await);
    }
    sleep(SMALL.wait() * 10).await;
    queries.none().await;
    under_way.pop().unwrap().answers();
    // Who has waited long goes with the first turn, as many as a query takes.
    for keys in [&[2, 4, 5][..], &[1]] {
        let query = queries.next().await;
        assert_eq!(query.keys, keys);
        queries.none().await;
        query.answers();
    }
    for query in under_way {
        query.answers();
    }
    for call in calls.into_iter().chain(waits) {
        assert!(value(call).await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_have_gone_away_hold_no_place() {
    let (lookups, mut queries) = lookups(Limits {
        keys_max: 1_000,
        ..SMALL
    });
    let first = arrived(&lookups, 1).await;
    let slow = queries.next().await;
    for key in 0..10_000 {
        drop(arrived(&lookups, key).await);
    }
    let places = lookups.shared.gathering().waiting.capacity();
    assert!(places <= 16, "{places}");
    slow.answers();
    value(first).await;
}

#[test]
fn a_runtime_that_ends_under_calls_ends() {
    for workers in [0, 2] {
        let mut runtime = match workers {
            0 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = runtime.enable_time().build().unwrap();
        let (lookups, mut queries) = lookups(SMALL);
        let lookups = Arc::new(lookups);
        let slow = runtime.block_on(async {
            for key in 1..=10 {
                let lookups = Arc::clone(&lookups);
                tokio::spawn(async move { lookups.get(key).await });
            }
            let mut slow = Vec::new();
            for _ in 0..SMALL.queries_max {
                slow.push(queries.next().await);
            }
            // As many as queries may be are under way: three callers at least, of the
            // ten, gather for the next.
            while lookups.shared.gathering().waiting.len() < 3 {
                yield_now().await;
            }
            slow
        });
        drop(runtime);
        drop(slow);
        let gathering = lookups.shared.gathering();
        assert_eq!((gathering.waiting.len(), gathering.under_way), (0, 0));
    }
}
