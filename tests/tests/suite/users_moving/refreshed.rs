//! Calls of v2 while it catches up with v1.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, ensure};
use proto::broker::v1::{
    RefreshBindingRequest, RefreshBindingResponse, RefreshPhase, RefreshReport,
};
use proto::users::{v1, v2};
use suite::{System, eventually};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::emulator_history::ledger::has_history;

const V2: &str = "services/users/versions/v2";
/// Callers, each with one call under way.
const CALLERS: u64 = 4;
/// Calls before the refresh, while it goes on, and after it.
const BETWEEN: u64 = 40;

/// Creates and looks, one call after the other, until it is told to stop. The emails of
/// those who were created.
async fn call(
    system: &System,
    caller: u64,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> anyhow::Result<JoinSet<anyhow::Result<Vec<String>>>> {
    let mut users = system.users_v2().await?;
    let mut calling = JoinSet::new();
    calling.spawn(async move {
        let mut created = Vec::new();
        for number in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let email = format!("{caller}-{number}@example.org");
            let request = v2::CreateUserRequest {
                user: Some(v2::User {
                    name: "Caller".to_owned(),
                    email: email.clone(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            users.create_user(request).await?;
            created.push(email);
            users.get_user(v2::GetUserRequest { id: 1 }).await?;
            answered.fetch_add(2, Ordering::Relaxed);
        }
        Ok(created)
    });
    Ok(calling)
}

async fn goes_on(answered: &AtomicU64) -> anyhow::Result<()> {
    let before = answered.load(Ordering::Relaxed);
    eventually("more calls are answered", async || {
        let now = answered.load(Ordering::Relaxed);
        ensure!(now >= before + BETWEEN, "{} of {BETWEEN}", now - before);
        Ok(())
    })
    .await
}

/// The emails on a branch that callers have written.
async fn written(system: &System, branch: &str) -> anyhow::Result<Vec<String>> {
    let id = super::id(branch)?;
    let session = system.emulator.connect(&id).await?;
    let query = "SELECT email FROM users.users WHERE name = 'Caller'";
    let rows = session.query(query, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Its last answer.
async fn refresh(system: &System) -> anyhow::Result<RefreshBindingResponse> {
    let request = RefreshBindingRequest {
        name: V2.to_owned(),
        branch_display_name: format!("refreshed-{}", Uuid::new_v4()),
        ..Default::default()
    };
    let mut bindings = system.broker.bindings().await?;
    let mut progress = bindings.refresh_binding(request).await?.into_inner();
    let mut last = RefreshBindingResponse::default();
    while let Some(told) = progress.message().await? {
        last = told;
    }
    Ok(last)
}

fn counted(report: &RefreshReport) -> anyhow::Result<i64> {
    let mut tables = report.tables.iter();
    let users = tables.find(|one| one.table == "users").context("users")?;
    let count = |rows: &Option<proto::broker::v1::RefreshedRows>| {
        rows.as_ref().map_or(0, |rows| rows.count)
    };
    Ok(count(&users.only_in_old) + count(&users.differing))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_a_version_catches_up() -> anyhow::Result<()> {
    let system = System::start().await?;
    // From here on it is known with what a branch is forked.
    has_history(system.emulator.data(), &super::branch_of(&system).await?).await?;
    refresh(&system).await?;
    let request = v1::CreateUserRequest {
        user: Some(v1::User {
            name: "Newer".to_owned(),
            email: "newer@example.org".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    system.users_v1().await?.create_user(request).await?;
    let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let mut callers = Vec::new();
    for caller in 0..CALLERS {
        callers.push(call(&system, caller, Arc::clone(&stop), Arc::clone(&answered)).await?);
    }
    goes_on(&answered).await?;
    let last = refresh(&system).await?;
    goes_on(&answered).await?;
    stop.store(true, Ordering::Relaxed);
    let mut created = Vec::new();
    for mut caller in callers {
        while let Some(ended) = caller.join_next().await {
            created.extend(ended??);
        }
    }
    ensure!(last.phase() == RefreshPhase::Done, "{last:?}");

    // Each is where its create was answered, and nowhere else.
    let old = written(&system, &last.kept_branch).await?;
    let mut all = written(&system, &last.branch).await?;
    ensure!(
        !old.is_empty() && !all.is_empty(),
        "{} and {}",
        old.len(),
        all.len()
    );
    all.extend(old.iter().cloned());
    all.sort();
    created.sort();
    ensure!(all == created, "{all:?} and not {created:?}");
    // And all that was written to the old branch is told: nobody wrote there after that.
    let report = last.report.context("a report")?;
    ensure!(report.compared_with_fork, "{report:?}");
    assert_eq!(counted(&report)?, i64::try_from(old.len())?);
    let list = v2::ListUsersRequest {
        page_size: 1_000,
        ..Default::default()
    };
    let there = system
        .users_v2()
        .await?
        .list_users(list)
        .await?
        .into_inner();
    let newer = there
        .users
        .iter()
        .any(|user| user.email == "newer@example.org");
    ensure!(newer, "{there:?}");
    system.finish().await
}
