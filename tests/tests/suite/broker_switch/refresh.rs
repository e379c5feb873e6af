//! A version that catches up with the one that its branch was forked from.

use anyhow::{Context, ensure};
use proto::broker::v1::{
    Access, ApplyRequest, PlanRequest, RefreshBindingRequest, RefreshBindingResponse, RefreshPhase,
    RefreshReport, RefreshedRows, SwitchPhase, WatchBindingRequest,
};
use suite::{Broker, PATIENCE};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::{Bench, Consumer, branch_made, current, proceeding, switch, to};
use crate::broker_leasing::{V1, V2, on_binding, seconds};
use crate::details::refused;
use crate::emulator_history::ledger::has_history;

/// A refresh, as its caller sees it.
pub(super) struct Refreshing(Streaming<RefreshBindingResponse>);

impl Refreshing {
    pub(super) async fn begin(
        broker: &Broker,
        request: RefreshBindingRequest,
    ) -> Result<Refreshing, Status> {
        let bindings = broker.bindings().await;
        let mut bindings = bindings.map_err(|error| Status::unknown(format!("{error:#}")))?;
        let begun = bindings.refresh_binding(request).await?;
        Ok(Refreshing(begun.into_inner()))
    }

    /// Reads until it ends. Its last answer, and the phases before it.
    pub(super) async fn end(
        &mut self,
    ) -> Result<(RefreshBindingResponse, Vec<RefreshPhase>), Status> {
        let (mut last, mut phases) = (RefreshBindingResponse::default(), Vec::new());
        let reading = async {
            while let Some(told) = self.0.message().await? {
                if phases.last() != Some(&told.phase()) {
                    phases.push(told.phase());
                }
                last = told;
            }
            Ok((last, phases))
        };
        let ended = tokio::time::timeout(PATIENCE, reading).await;
        ended.unwrap_or_else(|_| Err(Status::unknown("it does not end")))
    }
}

pub(super) fn v2() -> RefreshBindingRequest {
    RefreshBindingRequest {
        name: V2.to_owned(),
        ack_timeout: Some(seconds(600)),
        drain_timeout: Some(seconds(600)),
        ..Default::default()
    }
}

/// A consumer of v2 that has acknowledged what is current.
pub(super) async fn join(broker: &Broker) -> anyhow::Result<Consumer> {
    let request = on_binding(V2, Access::ReadWrite);
    let given = broker.leases().await?.acquire_lease(request).await?;
    let lease = given.into_inner().lease.context("a lease")?;
    let mut consumer = Consumer::watch(broker, lease, WatchBindingRequest::default()).await?;
    consumer.ack_current(broker).await?;
    Ok(consumer)
}

/// Goes along with a switch to its end.
pub(super) async fn go_along(consumer: &mut Consumer) -> anyhow::Result<()> {
    let generation = consumer.pending().await?;
    consumer.ack(generation).await?;
    let is_over = |state: &proto::broker::v1::WatchBindingResponse| {
        state.pause.is_some() || current(state) == generation
    };
    consumer.until("it is to hold back", is_over).await?;
    if let Some(pause) = consumer.state.pause.clone() {
        consumer.ack(pause.generation).await?;
    }
    consumer.taken_over(generation).await?;
    consumer.drained(generation).await
}

/// A session on a branch, as its owner, that sees the service's tables.
async fn owner(bench: &Bench, branch: &str) -> anyhow::Result<tokio_postgres::Client> {
    let id = bench.branch_named(branch).await?;
    let session = bench.emulator.connect(&id).await?;
    session.batch_execute("SET search_path = users").await?;
    Ok(session)
}

async fn names(session: &tokio_postgres::Client) -> anyhow::Result<Vec<String>> {
    let rows = session.query("SELECT name FROM users ORDER BY name", &[]);
    Ok(rows.await?.iter().map(|row| row.get(0)).collect())
}

/// Has v2 live on `second`, whose fork is in the history of that branch: that of a branch
/// which was just made begins some seconds later.
async fn forked_in_history(bench: &Bench, parent: &str) -> anyhow::Result<()> {
    let id = bench.branch_named(parent).await?;
    has_history(&bench.folder.join("data"), &id).await?;
    let request = RefreshBindingRequest {
        branch_display_name: "second".to_owned(),
        ..v2()
    };
    Refreshing::begin(&bench.broker, request)
        .await?
        .end()
        .await?;
    Ok(())
}

pub(super) async fn branch_names(bench: &Bench) -> anyhow::Result<Vec<String>> {
    let mut names: Vec<String> = bench
        .branches()
        .await?
        .into_iter()
        .map(|one| one.name)
        .collect();
    names.sort();
    Ok(names)
}

/// `only_in_old differing deleted_in_old`, each as its keys.
fn rows(report: &RefreshReport, table: &str) -> anyhow::Result<String> {
    let found = report.tables.iter().find(|one| one.table == table);
    let found = found.with_context(|| format!("{table}: {report:?}"))?;
    let keys = |rows: &Option<RefreshedRows>| -> anyhow::Result<String> {
        let rows = rows.as_ref().context("rows")?;
        ensure!(usize::try_from(rows.count)? == rows.keys.len(), "{rows:?}");
        let keys = rows.keys.iter().map(|key| key.values.join("/"));
        Ok(keys.collect::<Vec<_>>().join(","))
    };
    let all = [&found.only_in_old, &found.differing, &found.deleted_in_old];
    let all: anyhow::Result<Vec<String>> = all.into_iter().map(keys).collect();
    Ok(all?.join(" | "))
}

pub(super) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map_or(String::new(), |info| info.reason)
}

/// Nothing is left to do, nothing is deleted, and nothing moves back.
async fn is_settled(bench: &Bench) -> anyhow::Result<()> {
    let (before, led_to) = (branch_names(bench).await?, leads_to(&bench.broker).await?);
    let mut config = bench.broker.config().await?;
    for prune in [false, true] {
        let plan = config.plan(PlanRequest { prune }).await?.into_inner();
        ensure!(plan.steps.is_empty(), "{plan:?}");
        let applied = config.apply(ApplyRequest { prune }).await?.into_inner();
        ensure!(applied.steps.is_empty(), "{applied:?}");
    }
    assert_eq!(branch_names(bench).await?, before);
    assert_eq!(leads_to(&bench.broker).await?, led_to);
    Ok(())
}

async fn leads_to(broker: &Broker) -> anyhow::Result<(String, i64)> {
    let request = proto::broker::v1::GetBindingRequest {
        name: V2.to_owned(),
    };
    let answer = broker.bindings().await?.get_binding(request).await?;
    let binding = answer.into_inner().binding.context("a binding")?;
    Ok((binding.branch_display_name, binding.generation))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refreshed_version_has_what_its_parent_has() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    forked_in_history(&bench, "api_v1_branch").await?;
    let mut one = join(&bench.broker).await?;
    let (v1, old) = (
        owner(&bench, "api_v1_branch").await?,
        owner(&bench, "second").await?,
    );
    old.batch_execute(
        "INSERT INTO users (id, name, email) VALUES (100, 'Own', 'own@example.org'),
                                                   (101, 'Two', 'two@example.org');
         UPDATE users SET city = 'Oslo' WHERE name = 'Alice';
         DELETE FROM users WHERE name = 'Bob';
         CREATE TABLE log (line text); INSERT INTO log VALUES ('a'), ('a');
         CREATE TABLE pairs (a text, b int, PRIMARY KEY (b, a));
         INSERT INTO pairs VALUES ('x', 1);",
    )
    .await?;
    v1.batch_execute(
        "INSERT INTO users (id, name, email) VALUES (50, 'New', 'new@example.org'),
                                                   (101, 'Other', 'other@example.org')",
    )
    .await?;
    let (_, generation) = leads_to(&bench.broker).await?;
    let mut refreshing = Refreshing::begin(&bench.broker, v2()).await?;
    go_along(&mut one).await?;
    let (done, phases) = refreshing.end().await?;
    assert_eq!(
        phases,
        [
            RefreshPhase::Creating,
            RefreshPhase::Preparing,
            RefreshPhase::Switching,
            RefreshPhase::Comparing,
            RefreshPhase::Done,
        ]
    );
    assert_eq!(
        done.switch.clone().unwrap_or_default().phase(),
        SwitchPhase::Done
    );
    let name = &done.branch_display_name;
    let time = name.strip_prefix("api_v2_branch-").context("a name")?;
    ensure!(time.len() == "20261127T181500".len(), "{name}");
    assert_eq!(leads_to(&bench.broker).await?.0, *name);
    ensure!(leads_to(&bench.broker).await?.1 > generation);
    assert_eq!(done.kept_display_name, "second");
    let kept = bench.branch_named("second").await?;
    assert_eq!(done.kept_branch, format!("branches/{kept}"));

    // It is v1's rows that are there, and the seed has run.
    let new = owner(&bench, name).await?;
    assert_eq!(names(&new).await?, ["Alice", "Bob", "New", "Other"]);
    let query = "SELECT city FROM users WHERE name = 'Alice'";
    let city: String = new.query_one(query, &[]).await?.get(0);
    assert_eq!(city, "New York");
    // What was written before is on the old one.
    assert_eq!(names(&old).await?, ["Alice", "Own", "Two"]);

    let report = done.report.context("a report")?;
    ensure!(report.compared_with_fork, "{report:?}");
    assert_eq!((&*report.message, &*report.fork_message), ("", ""));
    assert_eq!(rows(&report, "users")?, "100 | 1,101 | 2");
    assert_eq!(rows(&report, "requests")?, " |  | ");
    let uncompared: Vec<_> = report.not_compared.iter().map(|one| &*one.table).collect();
    assert_eq!(uncompared, ["log", "pairs"]);
    let told = format!("{report:?}");
    for value in ["Own", "own@example.org", "Oslo", "New York"] {
        ensure!(!told.contains(value), "{told}");
    }
    // What it was compared with is gone.
    assert_eq!(
        branch_names(&bench).await?,
        ["api_v1_branch", "api_v2_branch", name, "main", "second"]
    );
    is_settled(&bench).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_follows_its_parent_and_names_what_it_is_told_to() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    // v1 lives elsewhere by now.
    let next = branch_made(&bench, "next", Default::default()).await?;
    let mut moving = switch(&bench.broker, proceeding(to(&next))).await?;
    moving.end().await?;
    owner(&bench, "next")
        .await?
        .batch_execute("INSERT INTO users (name, email) VALUES ('Next', 'next@example.org')")
        .await?;
    has_history(
        &bench.folder.join("data"),
        &bench.branch_named("next").await?,
    )
    .await?;
    let request = RefreshBindingRequest {
        branch_display_name: "second".to_owned(),
        keep_as: "first".to_owned(),
        ..v2()
    };
    let mut refreshing = Refreshing::begin(&bench.broker, request.clone()).await?;
    let (done, _) = refreshing.end().await?;
    assert_eq!((&*done.parent, &*done.message), (&*next, ""));
    assert_eq!(
        (&*done.branch_display_name, &*done.kept_display_name),
        ("second", "first")
    );
    assert_eq!(leads_to(&bench.broker).await?.0, "second");
    assert_eq!(
        names(&owner(&bench, "second").await?).await?,
        ["Alice", "Bob", "Next"]
    );
    assert_eq!(
        branch_names(&bench).await?,
        ["api_v1_branch", "first", "main", "next", "second"]
    );
    is_settled(&bench).await?;

    // Names that others have are refused before anything is made.
    for (name, keep_as, field) in [
        ("first", "third", "branch_display_name"),
        ("third", "first", "keep_as"),
    ] {
        let request = RefreshBindingRequest {
            branch_display_name: name.to_owned(),
            keep_as: keep_as.to_owned(),
            ..v2()
        };
        let refusal = Refreshing::begin(&bench.broker, request).await.map(|_| ());
        let status = refused(refusal, Code::AlreadyExists, Some(field));
        assert_eq!(reason(&status), "BRANCH_EXISTS");
    }
    // And again, from where it is now. What it was forked from then is v1's of now.
    let query = "INSERT INTO users (id, name, email) VALUES (7000, 'Own', 'own@example.org')";
    owner(&bench, "second").await?.batch_execute(query).await?;
    let mut refreshing = Refreshing::begin(&bench.broker, v2()).await?;
    let (done, _) = refreshing.end().await?;
    assert_eq!(done.kept_display_name, "second");
    let report = done.report.context("a report")?;
    ensure!(report.compared_with_fork, "{report:?}");
    assert_eq!(rows(&report, "users")?, "7000 |  | ");
    is_settled(&bench).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_fork_a_branch_is_compared_as_it_is() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    // v2 lives on a fork of its own branch, which has rows from there.
    let query = "INSERT INTO users (id, name, email) VALUES (100, 'Own', 'own@example.org')";
    owner(&bench, "api_v2_branch")
        .await?
        .batch_execute(query)
        .await?;
    let branch = proto::broker::v1::Branch {
        display_name: "fork".to_owned(),
        parent: format!("branches/{}", bench.branch_named("api_v2_branch").await?),
        ..Default::default()
    };
    let request = proto::broker::v1::CreateBranchRequest {
        branch: Some(branch),
        ..Default::default()
    };
    let made = bench
        .broker
        .branches()
        .await?
        .create_branch(request)
        .await?;
    let request = proto::google::longrunning::WaitOperationRequest {
        name: made.into_inner().name,
        timeout: None,
    };
    bench
        .broker
        .operations()
        .await?
        .wait_operation(request)
        .await?;
    let fork = format!("branches/{}", bench.branch_named("fork").await?);
    let request = proto::broker::v1::SwitchBindingRequest {
        name: V2.to_owned(),
        ..to(&fork)
    };
    switch(&bench.broker, request).await?.end().await?;
    owner(&bench, "api_v1_branch")
        .await?
        .batch_execute("DELETE FROM users WHERE name = 'Bob'")
        .await?;

    let mut refreshing = Refreshing::begin(&bench.broker, v2()).await?;
    let (done, _) = refreshing.end().await?;
    let report = done.report.context("a report")?;
    ensure!(
        !report.compared_with_fork && !report.fork_message.is_empty(),
        "{report:?}"
    );
    // The one is its own, the other was deleted in v1: nobody knows.
    assert_eq!(rows(&report, "users")?, "100,2 |  | ");
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_refreshed_is_refused_before_anything_is_made() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let before = branch_names(&bench).await?;
    let request = RefreshBindingRequest {
        name: V1.to_owned(),
        ..v2()
    };
    let refusal = Refreshing::begin(&bench.broker, request).await.map(|_| ());
    let status = refused(refusal, Code::FailedPrecondition, None);
    assert_eq!(reason(&status), "PARENT_NOT_DECLARED");
    // A lease that nobody watches.
    bench.acquire(on_binding(V2, Access::ReadWrite)).await?;
    let refusal = Refreshing::begin(&bench.broker, v2()).await.map(|_| ());
    let status = refused(refusal, Code::FailedPrecondition, None);
    assert_eq!(reason(&status), "LEASES_UNWATCHED");
    let request = RefreshBindingRequest {
        branch_display_name: "same".to_owned(),
        keep_as: "same".to_owned(),
        ..v2()
    };
    let refusal = Refreshing::begin(&bench.broker, request).await.map(|_| ());
    refused(refusal, Code::InvalidArgument, Some("keep_as"));
    assert_eq!(branch_names(&bench).await?, before);
    bench.stop().await
}
