//! Many callers at once, on several threads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;

/// What callers write and read among all that can go wrong: a row is its version.
struct Rows {
    versions: [AtomicU64; 8],
    queries: AtomicUsize,
    callers: AtomicUsize,
}

impl Source for Arc<Rows> {
    type Key = usize;
    type Value = u64;
    type Error = Refused;

    async fn fetch(&self, keys: Vec<usize>) -> Result<BTreeMap<usize, u64>, Refused> {
        let number = self.queries.fetch_add(1, Ordering::SeqCst);
        for _ in 0..number % 5 {
            yield_now().await;
        }
        if keys.len() > 1 && number.is_multiple_of(7) {
            return Err(Refused(0));
        }
        let read = |key: usize| (key, self.versions[key].load(Ordering::SeqCst));
        let found = keys.into_iter().map(read).collect();
        if number.is_multiple_of(11) {
            sleep(Duration::from_millis(3)).await;
        }
        Ok(found)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everybody_reads_what_they_wrote_among_failures_and_callers_that_go_away() {
    const CALLERS: usize = 64;
    const CALLS: usize = 300;
    let rows = Arc::new(Rows {
        versions: Default::default(),
        queries: AtomicUsize::new(0),
        callers: AtomicUsize::new(0),
    });
    let limits = Limits {
        keys_max: 20,
        queries_usual: 2,
        queries_max: 4,
        yields: 1,
        wait_microseconds_max: 1_000,
    };
    let lookups = Arc::new(Lookups::new(Arc::clone(&rows), limits));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (rows, lookups) = (Arc::clone(&rows), Arc::clone(&lookups));
        callers.spawn(async move {
            for call in 0..CALLS {
                let key = (caller * 5 + call) % rows.versions.len();
                let written = rows.versions[key].fetch_add(1, Ordering::SeqCst) + 1;
                if (caller + call).is_multiple_of(6) {
                    let mut gone = Box::pin(lookups.get(key));
                    poll_fn(|cx| Poll::Ready(gone.as_mut().poll(cx).is_ready())).await;
                    yield_now().await;
                    continue;
                }
                let read = lookups.get(key).await.unwrap().unwrap();
                assert!(read >= written, "{read} of {written}");
                rows.callers.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let all = async { while callers.join_next().await.transpose().unwrap().is_some() {} };
    timeout(PATIENCE, all).await.expect("all are answered");
    let [queries, callers] = [&rows.queries, &rows.callers].map(|of| of.load(Ordering::SeqCst));
    assert_eq!(callers, CALLERS * CALLS * 5 / 6);
    assert!(queries < callers / 2, "{queries} for {callers} callers");
    let quiet = async {
        while lookups.shared.gathering().under_way > 0 {
            yield_now().await;
        }
    };
    timeout(PATIENCE, quiet).await.expect("every turn ends");
    assert!(lookups.shared.gathering().waiting.is_empty());
}
