#![allow(clippy::unwrap_used)]

use tokio::sync::Notify;

use super::*;

fn asked(request: &str) -> Asked {
    Asked {
        caller: Some("token:ci".to_owned()),
        method: "DeleteBranch",
        request: request.as_bytes().to_vec(),
    }
}

fn ends() -> Ends {
    Ends {
        cancelled: Ended::Error(b"cancelled".to_vec()),
        lost: Ended::Error(b"lost".to_vec()),
    }
}

fn operations() -> Arc<Operations> {
    Arc::new(Operations::new(Clock::system()))
}

/// Begins work that ends when it is told to.
fn begin(operations: &Arc<Operations>, request: &str) -> (Arc<Record>, Arc<Notify>) {
    let told = Arc::new(Notify::new());
    let until = Arc::clone(&told);
    let record = operations
        .begin(asked(request), String::new(), ends(), |work| async move {
            until.notified().await;
            work.describe("branches/br-a".to_owned());
            Ended::Response(b"done".to_vec())
        })
        .unwrap();
    (record, told)
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_operation_is_followed_to_its_end() {
    let operations = operations();
    let (record, told) = begin(&operations, "a");
    assert_eq!(operations.get(record.name).unwrap(), record);
    let waited = operations.wait(record.name, Duration::ZERO).await.unwrap();
    assert_eq!(waited.result, None);
    assert_eq!(
        operations.forget(record.name),
        Err(Error::Running(record.name))
    );
    told.notify_one();
    let done = operations.wait(record.name, LONG).await.unwrap();
    assert_eq!(done.result, Some(Ended::Response(b"done".to_vec())));
    assert_eq!(done.metadata, "branches/br-a");
    assert!(done.end_time.unwrap() >= done.create_time);
    assert_eq!(operations.list(), std::slice::from_ref(&done));
    operations.forget(done.name).unwrap();
    assert_eq!(operations.get(done.name), Err(Error::NotFound(done.name)));
}

#[tokio::test]
async fn the_same_request_shares_what_is_under_way() {
    let operations = operations();
    let (first, told) = begin(&operations, "a");
    let (same, _) = begin(&operations, "a");
    let (other, _) = begin(&operations, "b");
    assert_eq!(same.name, first.name);
    assert_ne!(other.name, first.name);
    told.notify_one();
    operations.wait(first.name, LONG).await.unwrap();
    let (later, _) = begin(&operations, "a");
    assert_ne!(later.name, first.name);
}

#[tokio::test]
async fn what_has_changed_nothing_can_be_cancelled_and_the_rest_cannot() {
    let operations = operations();
    let (early, _) = begin(&operations, "early");
    operations.cancel(early.name).unwrap();
    let early = operations.wait(early.name, LONG).await.unwrap();
    assert_eq!(early.result, Some(Ended::Error(b"cancelled".to_vec())));

    let (committed, told) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (say, until) = (Arc::clone(&committed), Arc::clone(&told));
    let late = operations
        .begin(asked("late"), String::new(), ends(), |work| async move {
            work.commit().unwrap();
            say.notify_one();
            until.notified().await;
            Ended::Response(b"done".to_vec())
        })
        .unwrap();
    committed.notified().await;
    operations.cancel(late.name).unwrap();
    told.notify_one();
    let late = operations.wait(late.name, LONG).await.unwrap();
    assert_eq!(late.result, Some(Ended::Response(b"done".to_vec())));
}

#[tokio::test]
async fn work_that_breaks_ends_its_operation() {
    let operations = operations();
    let broken = operations
        .begin(asked("a"), String::new(), ends(), |_| async {
            panic!("broken")
        })
        .unwrap();
    let broken = operations.wait(broken.name, LONG).await.unwrap();
    assert_eq!(broken.result, Some(Ended::Error(b"lost".to_vec())));
}
