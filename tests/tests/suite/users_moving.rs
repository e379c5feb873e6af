//! What user-service's callers see while its branch is switched, reset, restored,
//! suspended and killed under it.

mod load;
mod normal;
mod refreshed;
mod turned_over;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use neon_api::BranchId;
use neon_api::types::{EndpointState, OperationAction, OperationListQuery};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::broker::v1::restore_branch_request::Point;
use proto::broker::v1::{
    CreateBranchRequest, GetBindingRequest, ResetBranchRequest, RestoreBranchRequest,
    RotateCredentialsRequest, SwitchBindingRequest, UnwatchedPolicy,
};
use proto::google::longrunning::operation::Result as Ended;
use proto::google::longrunning::{Operation, WaitOperationRequest};
use suite::{Clock, Folder, System, count, eventually, example_config};
use tokio::time::Instant;
use uuid::Uuid;

use load::{CALLERS, Load, MARKED, Meanwhile, Outcome};
use normal::Normal;

const V1: &str = "services/users/versions/v1";
/// Calls between two events.
const BETWEEN: u64 = 40;
/// The same where what the first one cut off is to be over before the second.
fn between_crashes() -> u64 {
    BETWEEN.max(u64::from(rate()) / 2)
}

/// Where the ids of another branch begin: those of its new users are nobody's here.
const OTHER_IDS: i32 = 1_000_000;
/// Where those of the first one do: beyond the marked rows.
const IDS: i32 = 1_000;

/// How often the health is asked for while the branch is suspended.
const HEALTH_PROBES: usize = 20;

/// Where some calls may fail, of so many one may: far more than do (docs/BENCHMARKS.md),
/// and far fewer than all of a kind.
const ONE_FAILS_OF: usize = 10;

/// Longer than an idle endpoint stays awake, in seconds.
const IDLE_SECONDS: i64 = 301;

/// Calls a second: as many as the issue asks for, or enough to have some under way at
/// any moment.
fn rate() -> u32 {
    u32::try_from(count(300, 2_000)).unwrap_or(300)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_the_binding_is_switched_and_rotated() -> anyhow::Result<()> {
    let system = System::start().await?;
    let one = branch_of(&system).await?;
    let other = fork(&system, "other").await?;
    for branch in [&one, &other] {
        mark(&system, branch, branch.as_str()).await?;
    }
    begin_ids_at(&system, &one, IDS).await?;
    begin_ids_at(&system, &other, OTHER_IDS).await?;
    let normal = Normal::of(&system).await?;
    let ids = BTreeMap::from([
        (one.to_string(), IDS..OTHER_IDS),
        (other.to_string(), OTHER_IDS..i32::MAX),
    ]);
    let meanwhile = Meanwhile::Moves(ids);
    let load = Load::begin(&system.users, rate(), one.as_str(), meanwhile).await?;
    load.goes_on(BETWEEN).await?;
    let mut at = &one;
    for round in 0..count(4, 50) {
        let to = if at == &one { &other } else { &one };
        load.may_be(to.as_str());
        switch(&system, to, round % 2 == 1).await?;
        load.is(to.as_str());
        load.goes_on(BETWEEN).await?;
        at = to;
        normal.has_sessions(&system, at).await?;
    }
    for _ in 0..count(2, 10) {
        let request = RotateCredentialsRequest {
            name: V1.to_owned(),
            ..Default::default()
        };
        system
            .broker
            .bindings()
            .await?
            .rotate_credentials(request)
            .await?;
        load.goes_on(BETWEEN).await?;
        normal.has_sessions(&system, at).await?;
    }
    let outcome = load.end().await?;
    ensure!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    // A switch copies no rows: each is where its create was answered.
    is_kept(&system, &[&one, &other], &outcome).await?;
    tell("switch and rotate", &outcome);
    normal.is_back(&system, at).await?;
    system.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_in_a_reset_or_a_restore_asks_to_try_again() -> anyhow::Result<()> {
    let system = System::start().await?;
    let parent = branch_of(&system).await?;
    let branch = fork(&system, "in_place").await?;
    switch(&system, &branch, false).await?;
    mark(&system, &parent, "parent").await?;
    mark(&system, &branch, "child 0").await?;
    for marked in [&parent, &branch] {
        begin_ids_at(&system, marked, IDS).await?;
    }
    let normal = Normal::of(&system).await?;
    let load = Load::begin(&system.users, rate(), "child 0", Meanwhile::TakenBack).await?;
    let events = AtomicUsize::new(0);
    let mut kept_since = Instant::now();
    for round in 1..=count(1, 10) {
        load.goes_on(BETWEEN).await?;
        load.may_be("parent");
        events.fetch_add(1, Ordering::Relaxed);
        let request = ResetBranchRequest {
            name: resource(&branch),
            ..Default::default()
        };
        let begun = system
            .broker
            .branches()
            .await?
            .reset_branch(request)
            .await?;
        done(&system, begun.into_inner()).await?;
        load.is("parent");
        kept_since = Instant::now();
        load.goes_on(BETWEEN).await?;
        normal.has_sessions(&system, &branch).await?;

        let (old, new) = (format!("old {round}"), format!("child {round}"));
        for name in [&old, &new] {
            load.may_be(name);
            mark(&system, &branch, name).await?;
            load.is(name);
            load.goes_on(BETWEEN).await?;
        }
    }
    for round in 1..=count(1, 10) {
        let (old, new) = (format!("then {round}"), format!("now {round}"));
        load.may_be(&old);
        load.may_be(&new);
        // What was reset or restored has no history of before, for a moment.
        eventually("the branch is restored", async || {
            let lsn = mark(&system, &branch, &old).await?;
            mark(&system, &branch, &new).await?;
            load.goes_on(BETWEEN).await?;
            let request = RestoreBranchRequest {
                name: resource(&branch),
                preserve_under_name: format!("before_{}", Uuid::new_v4().simple()),
                point: Some(Point::Lsn(lsn)),
                ..Default::default()
            };
            events.fetch_add(1, Ordering::Relaxed);
            let mut branches = system.broker.branches().await?;
            let begun = branches.restore_branch(request).await?;
            done(&system, begun.into_inner()).await
        })
        .await?;
        load.is(&old);
        kept_since = Instant::now();
        load.goes_on(BETWEEN).await?;
        normal.has_sessions(&system, &branch).await?;
    }
    let mut outcome = load.end().await?;
    only_what_can_be_cut_off_fails(&outcome, events.into_inner())?;
    tell("reset and restore", &outcome);
    // What came before is taken back, by definition.
    outcome.kept.retain(|_, kept| kept.asked > kept_since);
    outcome.gone.retain(|_, asked| *asked > kept_since);
    is_kept(&system, &[&branch], &outcome).await?;
    normal.is_back(&system, &branch).await?;
    system.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_in_a_suspension_or_a_crash_asks_to_try_again() -> anyhow::Result<()> {
    let system = System::start().await?;
    let branch = branch_of(&system).await?;
    mark(&system, &branch, "it").await?;
    begin_ids_at(&system, &branch, IDS).await?;
    let normal = Normal::of(&system).await?;
    let load = Load::begin(&system.users, rate(), "it", Meanwhile::Stays).await?;
    let rounds = count(2, 10);
    for _ in 0..rounds {
        load.goes_on(between_crashes()).await?;
        system.emulator.suspend(&branch).await?;
        load.goes_on(between_crashes()).await?;
        kill_postgres(&system, &branch)?;
        load.goes_on(between_crashes()).await?;
        normal.has_sessions(&system, &branch).await?;
    }
    let outcome = load.end().await?;
    only_what_can_be_cut_off_fails(&outcome, 2 * rounds)?;
    is_kept(&system, &[&branch], &outcome).await?;
    tell("suspend and kill", &outcome);
    normal.is_back(&system, &branch).await?;
    system.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_when_an_idle_branch_was_suspended() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let clock = Clock::in_folder(&folder);
    let system = System::start_clocked(folder, &example_config(), &clock).await?;
    let branch = branch_of(&system).await?;
    mark(&system, &branch, "it").await?;
    begin_ids_at(&system, &branch, IDS).await?;
    let normal = Normal::of(&system).await?;
    let mut all = Outcome::default();
    let seconds = AtomicI64::new(0);
    for _ in 0..count(3, 50) {
        let load = Load::begin(&system.users, rate(), "it", Meanwhile::Stays).await?;
        load.goes_on(BETWEEN).await?;
        let outcome = load.end().await?;
        ensure!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        all.kept.extend(outcome.kept);
        all.gone.extend(outcome.gone);
        all.answered += outcome.answered;
        eventually("the branch is suspended", async || {
            clock.set(seconds.fetch_add(IDLE_SECONDS, Ordering::Relaxed) + IDLE_SECONDS)?;
            let state = system.emulator.endpoint(&branch).await?.current_state;
            ensure!(state == EndpointState::Idle, "{state:?}");
            Ok(())
        })
        .await?;
        // Health and what the pool does by itself wake nothing.
        for _ in 0..HEALTH_PROBES {
            system.users.is_ready().await?;
        }
        let action = newest_action(&system, &branch).await?;
        ensure!(action == OperationAction::SuspendCompute, "{action:?}");
    }
    is_kept(&system, &[&branch], &all).await?;
    println!("idle suspend: {} answered, 0 failed", all.answered);
    normal.is_back(&system, &branch).await?;
    system.finish().await
}

/// Reads are done again, and creates under their id. Of the others an event cuts off
/// what is under way, which is one call of each caller at most.
fn only_what_can_be_cut_off_fails(outcome: &Outcome, events: usize) -> anyhow::Result<()> {
    for failed in &outcome.failed {
        let (call, message) = (failed.call, &failed.message);
        ensure!(call.may_be_cut_off(), "{call:?}: {message}");
    }
    let failed = outcome.failed.len();
    let all = usize::try_from(outcome.answered)? + failed;
    let most = (events * CALLERS).min(all / ONE_FAILS_OF);
    ensure!(
        failed <= most,
        "{failed} of {all} failed in {events} events, more than {most}"
    );
    Ok(())
}

/// What the engine did last with the branch.
async fn newest_action(system: &System, branch: &BranchId) -> anyhow::Result<OperationAction> {
    let (client, project) = (system.emulator.client(), system.emulator.project());
    let query = OperationListQuery::default();
    let operations = client.list_operations(project, &query).await?.operations;
    let mut of_branch = operations
        .into_iter()
        .filter(|one| one.branch_id.as_ref() == Some(branch));
    Ok(of_branch.next().context("it was suspended")?.action)
}

fn tell(what: &str, outcome: &Outcome) {
    let (answered, failed, rate) = (outcome.answered, outcome.failed.len(), outcome.rate);
    println!("{what}: {answered} answered, {rate:.0} a second, {failed} failed");
    let mut calls = HashMap::<_, usize>::new();
    for failed in &outcome.failed {
        *calls.entry(format!("{:?}", failed.call)).or_default() += 1;
    }
    println!("those that failed: {calls:?}");
}

/// The branch that v1 leads to.
async fn branch_of(system: &System) -> anyhow::Result<BranchId> {
    let request = GetBindingRequest {
        name: V1.to_owned(),
    };
    let answer = system.broker.bindings().await?.get_binding(request).await?;
    let binding = answer.into_inner().binding.context("a binding")?;
    id(&binding.branch)
}

/// Another branch, forked from v1's.
pub(crate) async fn fork(system: &System, name: &str) -> anyhow::Result<BranchId> {
    let request = CreateBranchRequest {
        branch: Some(proto::broker::v1::Branch {
            display_name: name.to_owned(),
            parent: resource(&branch_of(system).await?),
            ..Default::default()
        }),
        ..Default::default()
    };
    let begun = system
        .broker
        .branches()
        .await?
        .create_branch(request)
        .await?;
    done(system, begun.into_inner()).await?;
    let (client, project) = (system.emulator.client(), system.emulator.project());
    let found = client.list_all_branches(project, Some(name)).await?;
    let branch = found.branches.into_iter().find(|one| one.name == name);
    Ok(branch.context("the fork")?.id)
}

/// Waits until an operation has succeeded.
async fn done(system: &System, operation: Operation) -> anyhow::Result<()> {
    let request = WaitOperationRequest {
        name: operation.name,
        timeout: None,
    };
    let mut operations = system.broker.operations().await?;
    let ended = operations.wait_operation(request).await?.into_inner();
    ensure!(ended.done, "{ended:?}");
    if let Some(Ended::Error(status)) = &ended.result {
        anyhow::bail!("{status:?}");
    }
    Ok(())
}

/// Moves v1 there, and waits until everybody has.
pub(crate) async fn switch(system: &System, to: &BranchId, fence: bool) -> anyhow::Result<()> {
    let request = SwitchBindingRequest {
        name: V1.to_owned(),
        branch: resource(to),
        fence,
        unwatched: UnwatchedPolicy::Proceed.into(),
        ..Default::default()
    };
    let answer = system
        .broker
        .bindings()
        .await?
        .switch_binding(request)
        .await?;
    let mut progress = answer.into_inner();
    while progress.message().await?.is_some() {}
    ensure!(branch_of(system).await? == *to, "it has not moved");
    Ok(())
}

/// Has the rows that say which branch they are of say this. Returns the place in the
/// branch's log after it.
async fn mark(system: &System, branch: &BranchId, mark: &str) -> anyhow::Result<String> {
    let session = system.emulator.connect(branch).await?;
    session
        .execute(
            "INSERT INTO users.users (id, name, email) \
             SELECT n, $1, 'marked-' || n || '@example.com' FROM generate_series(1, $2) n \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name",
            &[&mark, &MARKED],
        )
        .await?;
    let lsn = session
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await?;
    Ok(lsn.get(0))
}

/// Has the branch give its new users ids from there on.
async fn begin_ids_at(system: &System, branch: &BranchId, first: i32) -> anyhow::Result<()> {
    let session = system.emulator.connect(branch).await?;
    let query = "SELECT setval(pg_get_serial_sequence('users.users', 'id'), $1::bigint)";
    session.execute(query, &[&i64::from(first)]).await?;
    Ok(())
}

/// Fails unless each user who was created, and changed, and deleted is so on one of the
/// branches.
async fn is_kept(system: &System, branches: &[&BranchId], outcome: &Outcome) -> anyhow::Result<()> {
    ensure!(!outcome.kept.is_empty(), "nothing was created");
    let mut found = HashMap::<String, String>::new();
    for branch in branches {
        let session = system.emulator.connect(branch).await?;
        let rows = session
            .query("SELECT email, name FROM users.users", &[])
            .await?;
        found.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
    }
    let is_there = |(email, kept): &(&String, &load::Kept)| {
        let name = found.get(*email);
        name.is_some_and(|name| kept.names.contains(name))
    };
    let lost: Vec<_> = outcome.kept.iter().filter(|one| !is_there(one)).collect();
    ensure!(lost.is_empty(), "{} were lost: {lost:?}", lost.len());
    let gone = outcome.gone.keys();
    let back: Vec<_> = gone.filter(|email| found.contains_key(*email)).collect();
    ensure!(back.is_empty(), "{} came back: {back:?}", back.len());
    Ok(())
}

/// Ends the branch's Postgres as a crash does.
fn kill_postgres(system: &System, branch: &BranchId) -> anyhow::Result<()> {
    let folder = system
        .emulator
        .data()
        .join("branches")
        .join(branch.as_str());
    let text = std::fs::read_to_string(folder.join("postmaster.pid"));
    let text = text.context("the branch is awake")?;
    let pid = text.lines().next().context("a pid")?.trim().parse()?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    Ok(())
}

fn resource(branch: &BranchId) -> String {
    format!("branches/{branch}")
}

fn id(resource: &str) -> anyhow::Result<BranchId> {
    let id = resource.strip_prefix("branches/").context("a branch")?;
    Ok(id.parse()?)
}
