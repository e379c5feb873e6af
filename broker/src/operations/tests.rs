#![allow(clippy::unwrap_used)]

use prost_types::Any;
use tokio::sync::Notify;

use super::*;
use crate::names::BranchName;
use crate::state::RequestKey;

fn asked(request: &str) -> Asked {
    Asked {
        caller: "token:ci".to_owned(),
        method: "DeleteBranch",
        request: request.as_bytes().to_vec(),
        branch: String::new(),
        id: None,
        is_waited_for: false,
    }
}

fn asked_as(id: u128, request: &str) -> Asked {
    let key = RequestKey {
        caller: "token:ci".to_owned(),
        method: "DeleteBranch",
        id: Uuid::from_u128(id),
    };
    let body = request.as_bytes().to_vec();
    Asked {
        id: Some(RequestId { key, body }),
        ..asked(request)
    }
}

fn failed(text: &str) -> Ended {
    Ended::Error(proto::google::rpc::Status {
        message: text.to_owned(),
        ..Default::default()
    })
}

fn done() -> Ended {
    Ended::Response(Any {
        type_url: "done".to_owned(),
        value: Vec::new(),
    })
}

/// A process among those that share a state.
fn process(state: &Arc<State>, clock: &Clock) -> Arc<Operations> {
    let ends = Ends {
        cancelled: failed("cancelled"),
        lost: failed("lost"),
    };
    Arc::new(Operations::new(Arc::clone(state), clock.clone(), ends))
}

fn operations() -> Arc<Operations> {
    process(&Arc::new(State::in_memory()), &Clock::system())
}

/// Begins work that ends when it is told to.
async fn begin(operations: &Arc<Operations>, asked: Asked) -> (Record, Arc<Notify>) {
    let told = Arc::new(Notify::new());
    let until = Arc::clone(&told);
    let perform = |_, work: Work| async move {
        until.notified().await;
        work.describe("branches/br-a".to_owned());
        done()
    };
    (operations.begin(asked, perform).await.unwrap(), told)
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_operation_is_followed_to_its_end() {
    let operations = operations();
    let (record, told) = begin(&operations, asked("a")).await;
    let name = record.name;
    assert_eq!(operations.get(name).unwrap(), record);
    let waited = operations.wait(name, Duration::ZERO).await.unwrap();
    assert_eq!(waited.result, None);
    let running = operations.forget(name).await.unwrap_err();
    assert!(matches!(running, Error::Running(_)), "{running}");
    told.notify_one();
    let ended = operations.wait(name, LONG).await.unwrap();
    assert_eq!(ended.result, Some(done()));
    assert_eq!(ended.branch, "branches/br-a");
    assert!(ended.end_time.unwrap() >= ended.create_time);
    assert_eq!(operations.list(), std::slice::from_ref(&ended));
    operations.forget(name).await.unwrap();
    let gone = operations.get(name).unwrap_err();
    assert!(matches!(gone, Error::NotFound(_)), "{gone}");
    assert!(operations.list().is_empty());
}

#[tokio::test]
async fn the_same_request_shares_what_is_under_way() {
    let operations = operations();
    let (first, told) = begin(&operations, asked("a")).await;
    let (same, _) = begin(&operations, asked("a")).await;
    let (other, _) = begin(&operations, asked("b")).await;
    assert_eq!(same.name, first.name);
    assert_ne!(other.name, first.name);
    told.notify_one();
    operations.wait(first.name, LONG).await.unwrap();
    let (later, _) = begin(&operations, asked("a")).await;
    assert_ne!(later.name, first.name);
}

#[tokio::test]
async fn a_request_id_is_one_operation_for_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let offset = folder.path().join("offset");
    let clock = Clock::with_offset_file(&offset).unwrap();
    let state = Arc::new(State::in_memory());
    let (one, other) = (process(&state, &clock), process(&state, &clock));
    let (first, told) = begin(&one, asked_as(1, "a")).await;
    told.notify_one();
    let first = one.wait(first.name, LONG).await.unwrap();
    let (again, _) = begin(&other, asked_as(1, "a")).await;
    assert_eq!(again, first, "whichever broker it comes to");
    assert_eq!(
        other.repeated(&asked_as(1, "a")).unwrap(),
        Some(first.clone())
    );
    let reused = other.repeated(&asked_as(1, "b")).unwrap_err();
    assert!(matches!(reused, Error::RequestId(_)), "{reused}");
    let reused = other.begin(asked_as(1, "b"), |_, _| async { done() }).await;
    assert!(matches!(reused, Err(Error::RequestId(_))), "{reused:?}");
    std::fs::write(&offset, (25 * 3_600).to_string()).unwrap();
    let (anew, _) = begin(&other, asked_as(1, "b")).await;
    assert_ne!(anew.name, first.name);
}

#[tokio::test]
async fn who_waits_may_try_again_what_failed() {
    let operations = operations();
    let fail = |_, _| async { failed("away") };
    let first = operations.begin(asked_as(1, "a"), fail).await.unwrap();
    let first = operations.wait(first.name, LONG).await.unwrap();
    let told = operations.repeated(&asked_as(1, "a")).unwrap();
    assert_eq!(told, Some(first.clone()), "who does not wait is told of it");
    let waits = Asked {
        is_waited_for: true,
        ..asked_as(1, "a")
    };
    assert_eq!(operations.repeated(&waits).unwrap(), None);
    let (second, told) = begin(&operations, waits.clone()).await;
    assert_ne!(second.name, first.name);
    told.notify_one();
    let second = operations.wait(second.name, LONG).await.unwrap();
    assert_eq!(operations.repeated(&waits).unwrap(), Some(second));
}

#[tokio::test]
async fn what_has_changed_nothing_can_be_cancelled_and_the_rest_cannot() {
    let operations = operations();
    let (early, _) = begin(&operations, asked("early")).await;
    operations.cancel(early.name).await.unwrap();
    let early = operations.wait(early.name, LONG).await.unwrap();
    assert_eq!(early.result, Some(failed("cancelled")));

    let (committed, told) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (say, until) = (Arc::clone(&committed), Arc::clone(&told));
    let perform = |_, work: Work| async move {
        commit(&work).await.unwrap();
        say.notify_one();
        until.notified().await;
        done()
    };
    let late = operations.begin(asked("late"), perform).await.unwrap();
    committed.notified().await;
    operations.cancel(late.name).await.unwrap();
    told.notify_one();
    let late = operations.wait(late.name, LONG).await.unwrap();
    assert_eq!(late.result, Some(done()));
}

#[tokio::test]
async fn work_that_breaks_ends_its_operation() {
    let operations = operations();
    let breaks = |_, _| async { panic!("broken") };
    let broken = operations.begin(asked("a"), breaks).await.unwrap();
    let broken = operations.wait(broken.name, LONG).await.unwrap();
    assert_eq!(broken.result, Some(failed("lost")));
}

#[derive(Debug)]
enum Refused {
    Stopped,
    Otherwise,
}

impl From<Stopped> for Refused {
    fn from(_: Stopped) -> Self {
        Refused::Stopped
    }
}

impl From<state::Error> for Refused {
    fn from(_: state::Error) -> Self {
        Refused::Otherwise
    }
}

async fn commit(work: &Work) -> Result<(), Refused> {
    work.commit(Some("note".to_owned()), |_| Ok(())).await
}

#[tokio::test]
async fn what_is_refused_with_a_commit_commits_nothing() {
    let operations = operations();
    let perform = |_, work: Work| async move {
        let refuse = |_: &mut Draft<'_>| Err(Refused::Otherwise);
        match work.commit(None, refuse).await {
            Err(Refused::Otherwise) => failed("refused"),
            _ => done(),
        }
    };
    let record = operations.begin(asked("a"), perform).await.unwrap();
    let record = operations.wait(record.name, LONG).await.unwrap();
    assert_eq!(record.result, Some(failed("refused")));
    let committed = |data: &state::Data| data.operations[&record.name.uuid()].committed;
    assert!(!operations.state.read(committed));
}

/// A runner that says nothing any more loses its operation to another: that one
/// knows what was written down, and the first can neither commit nor end it.
#[tokio::test]
async fn what_a_runner_leaves_is_taken_up_and_no_more_the_runners() {
    let folder = tempfile::tempdir().unwrap();
    let offset = folder.path().join("offset");
    let clock = Clock::with_offset_file(&offset).unwrap();
    let state = Arc::new(State::in_memory());
    let (one, other) = (process(&state, &clock), process(&state, &clock));
    let (committed, told) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (say, until) = (Arc::clone(&committed), Arc::clone(&told));
    let (heard, mut hear) = tokio::sync::mpsc::unbounded_channel();
    let perform = |_, work: Work| async move {
        commit(&work).await.unwrap();
        say.notify_one();
        // What goes on although it is aborted: a request that is on its way.
        tokio::spawn(async move {
            until.notified().await;
            heard.send(commit(&work).await).unwrap();
        });
        std::future::pending::<Ended>().await
    };
    let begun = one.begin(asked("a"), perform).await.unwrap();
    committed.notified().await;

    let seen = Arc::new(Mutex::new(Vec::new()));
    let taking = {
        let (other, seen) = (Arc::clone(&other), Arc::clone(&seen));
        let perform = move |record: Record, work: Work| {
            let note = work.note().map(str::to_owned);
            seen.lock()
                .unwrap()
                .push((record.name, work.is_taken_up(), note));
            async { done() }
        };
        tokio::spawn(async move { other.take_up(perform).await })
    };
    let waited = other
        .wait(begun.name, Duration::from_millis(1_500))
        .await
        .unwrap();
    assert_eq!(waited.result, None, "its runner is there");
    std::fs::write(&offset, "16").unwrap();
    let ended = other.wait(begun.name, LONG).await.unwrap();
    assert_eq!(ended.result, Some(done()));
    let note = Some("note".to_owned());
    assert_eq!(*seen.lock().unwrap(), [(begun.name, true, note)], "once");
    told.notify_one();
    let late = hear.recv().await.unwrap();
    assert!(matches!(late, Err(Refused::Stopped)), "{late:?}");
    one.end(begun.name, &failed("late"), None).await;
    assert_eq!(one.get(begun.name).unwrap().result, Some(done()));
    taking.abort();
}

#[tokio::test]
async fn a_branch_is_held_while_its_data_change() {
    let operations = operations();
    let state = Arc::clone(&operations.state);
    let branch: neon_api::BranchId = "br-a".parse().unwrap();
    let held = || state.read(|data| data.is_held(&branch));
    let (committed, told) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (say, until) = (Arc::clone(&committed), Arc::clone(&told));
    let reset = Asked {
        method: "ResetBranch",
        branch: "branches/br-a".to_owned(),
        ..asked("a")
    };
    let perform = |_, work: Work| async move {
        until.notified().await;
        commit(&work).await.unwrap();
        say.notify_one();
        until.notified().await;
        done()
    };
    let begun = operations.begin(reset, perform).await.unwrap();
    assert!(!held());
    told.notify_one();
    committed.notified().await;
    assert!(held());
    let change = {
        let branch = branch.clone();
        move |draft: &mut Draft<'_>| draft.is_held(&branch)
    };
    assert!(state.change(change).await.unwrap());
    told.notify_one();
    operations.wait(begun.name, LONG).await.unwrap();
    assert!(!held());
}

#[tokio::test]
async fn the_ledger_tells_whose_a_branch_is() {
    let state = Arc::new(State::in_memory());
    let ledger = crate::ledger::Ledger::new(Arc::clone(&state), Clock::system());
    let name = |text: &str| text.parse::<BranchName>().unwrap();
    let id: neon_api::BranchId = "br-a".parse().unwrap();
    let (dev, other) = (name("dev"), name("other"));
    ledger.intend_create(&dev).await.unwrap();
    assert!(!ledger.owns(&id));
    assert_eq!(ledger.unsettled(ledger.now()).len(), 1);
    ledger.created(&dev, &id).await.unwrap();
    assert!(ledger.owns(&id) && ledger.unsettled(ledger.now()).is_empty());
    assert_eq!(ledger.is_kept(&id), Some(false));
    ledger.intend_create(&dev).await.unwrap();
    assert!(ledger.owns(&id), "what is there is not about to be made");
    ledger.renamed(&id, &other).await.unwrap();
    assert!(ledger.owns(&id) && ledger.row(&other).unwrap().branch == Some(id.clone()));
    ledger.intend_delete(&other, &id).await.unwrap();
    assert!(ledger.owns(&id));
    ledger.deleted(&id).await.unwrap();
    assert!(!ledger.owns(&id) && ledger.own().is_empty());
    ledger.kept(&dev, &id).await.unwrap();
    assert_eq!(ledger.is_kept(&id), Some(true));
    ledger.gone(&dev).await.unwrap();
    assert_eq!((ledger.owns(&id), ledger.is_kept(&id)), (false, None));
}
