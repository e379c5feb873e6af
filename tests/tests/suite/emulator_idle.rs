//! Scale to zero: endpoints that nobody uses are suspended.

use anyhow::{Context, bail, ensure};
use neon_api::BranchId;
use neon_api::types::{
    EndpointState, EndpointUpdate, EndpointUpdateRequest, OperationAction, OperationListQuery,
};
use serde_json::json;
use suite::{Clock, EmulatorProcess, Folder, Http, Psql, eventually};
use tokio_postgres::SimpleQueryMessage;

/// Longer than Neon's default.
const LATER: i64 = 301;
/// The longest that there is.
const WEEK: i64 = 604_800;

#[tokio::test]
async fn an_idle_endpoint_is_suspended_and_wakes() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let clock = Clock::in_folder(&folder);
    let emulator = start(&folder, &clock).await?;
    let main = emulator.main_branch().await?;
    let never = emulator.branch("never", Some(&main)).await?.branch.id;
    suspend_after(&emulator, &never, -1).await?;
    let week = emulator.branch("week", Some(&main)).await?.branch.id;
    suspend_after(&emulator, &week, WEEK).await?;
    let uri = emulator.uri(&main).await?;
    let mut client = Psql::start(uri.expose())?;
    client.send("SELECT 'before';").await?;
    // Sessions that have done something, and now do nothing. (A prepared statement
    // would be closed some time later: simple queries alone.)
    let watcher = emulator.connect(&main).await?;
    eventually("the client is idle", async || {
        let found = watcher
            .query(
                "SELECT FROM pg_stat_activity WHERE state = 'idle' \
                 AND application_name = 'psql' AND query LIKE '%before%'",
                &[],
            )
            .await?;
        ensure!(!found.is_empty());
        Ok(())
    })
    .await?;
    let mut seconds = 0;
    is_suspended_in_time(&emulator, &main, &clock, &mut seconds).await?;
    let query = OperationListQuery::default();
    let (api, project) = (emulator.client(), emulator.project());
    let operations = api.list_operations(project, &query).await?.operations;
    let endpoint = emulator.endpoint(&main).await?;
    assert!(operations.iter().any(|operation| {
        operation.action == OperationAction::SuspendCompute
            && operation.endpoint_id.as_ref() == Some(&endpoint.id)
    }));
    assert!(endpoint.suspended_at.is_some());
    // As on Neon: 57P01 in its words, then the end.
    client.send("SELECT 'after';").await?;
    let printed = client.finish().await?;
    assert_eq!(printed.rows, "before");
    assert!(
        printed
            .errors
            .contains("terminating connection due to administrator command"),
        "{}",
        printed.errors
    );
    assert!(watcher.simple_query("SELECT 1").await.is_err());
    for branch in [&never, &week] {
        is(&emulator, branch, EndpointState::Active).await?;
    }
    // Held: its end would count as a use.
    let _woken = emulator.connect(&main).await?;
    is(&emulator, &main, EndpointState::Active).await?;
    // The others' time comes, or never.
    clock.set(seconds + WEEK)?;
    is(&emulator, &week, EndpointState::Idle).await?;
    seconds += WEEK;
    is_suspended_in_time(&emulator, &main, &clock, &mut seconds).await?;
    is(&emulator, &never, EndpointState::Active).await?;
    emulator.stop().await
}

#[tokio::test]
async fn an_endpoint_in_use_is_not_suspended() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let clock = Clock::in_folder(&folder);
    let emulator = start(&folder, &clock).await?;
    let main = emulator.main_branch().await?;
    // Each in a branch of its own: an open transaction, a query that runs, a
    // replica that is connected; and one that tells when all were looked at.
    let mut used = Vec::new();
    for (name, statement) in [
        ("transaction", "BEGIN; SELECT 1;"),
        ("query", "SELECT pg_sleep(3600);"),
        ("replica", "IDENTIFY_SYSTEM;"),
    ] {
        let branch = emulator.branch(name, Some(&main)).await?.branch.id;
        let mut uri = emulator.uri(&branch).await?.expose().to_owned();
        if name == "replica" {
            uri.push_str("&replication=database");
        }
        let mut psql = Psql::start(&uri)?;
        psql.send(statement).await?;
        let watcher = emulator.connect(&branch).await?;
        eventually("the client has begun", async || {
            let found = watcher
                .simple_query(
                    "SELECT FROM pg_stat_activity WHERE application_name = 'psql' \
                     AND (state IN ('active', 'idle in transaction') OR backend_type = 'walsender')",
                )
                .await?;
            ensure!(rows(&found) > 0);
            Ok(())
        })
        .await?;
        used.push((name, branch, psql));
    }
    // It is idle: when it is suspended, all have been looked at.
    let mut held = Vec::new();
    for round in 1..=2 {
        held.push(emulator.connect(&main).await?);
        clock.set(round * LATER)?;
        is(&emulator, &main, EndpointState::Idle).await?;
        for (name, branch, _) in &used {
            let state = emulator.endpoint(branch).await?.current_state;
            assert_eq!(state, EndpointState::Active, "round {round}: {name}");
        }
    }
    // What they did is over. Then their time comes.
    let mut seconds = 2 * LATER;
    for (_, branch, psql) in used {
        drop(psql);
        emulator
            .connect(&branch)
            .await?
            .simple_query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE application_name = 'psql'",
            )
            .await?;
        is_suspended_in_time(&emulator, &branch, &clock, &mut seconds).await?;
    }
    emulator.stop().await
}

/// The default branch is beside the limit. Who suspends one can start another.
#[tokio::test]
async fn no_more_endpoints_are_active_than_may_be() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (data, address) = (folder.join("data"), suite::free_address()?);
    let flags = ["--active-computes-max", "2"];
    let emulator = EmulatorProcess::start_with(&data, &address, &flags).await?;
    let project = emulator.project();
    let [first, second] = [
        emulator.branch("first", None).await?.branch.id,
        emulator.branch("second", None).await?.branch.id,
    ];
    let http = Http::of(&emulator);
    let third = json!({"branch": {"name": "third"}});
    let path = format!("/projects/{project}/branches");
    let third = http.expect(201, "POST", &path, third).await?;
    let third = third.text("/branch/id").to_owned();
    let refused = async |path: &str, body: serde_json::Value| {
        let answer = http.expect(422, "POST", path, body).await?;
        let code = answer.text("/code");
        ensure!(code == "ACTIVE_ENDPOINTS_LIMIT_EXCEEDED", "{answer:?}");
        anyhow::Ok(())
    };
    let endpoints = format!("/projects/{project}/endpoints");
    let create = |kind: &str| json!({"endpoint": {"branch_id": third, "type": kind}});
    let with_branch = json!({"endpoints": [{"type": "read_write"}]});
    eventually("the third branch is there", async || {
        refused(&endpoints, create("read_write")).await
    })
    .await?;
    refused(&endpoints, create("read_only")).await?;
    refused(&path, with_branch).await?;
    // One that does not run.
    let mut disabled = create("read_write");
    disabled["endpoint"]["disabled"] = json!(true);
    http.expect(201, "POST", &endpoints, disabled).await?;

    emulator.suspend(&first).await?;
    let third = third.parse()?;
    emulator.disable(&third, false).await?;
    emulator.connect(&third).await?;
    let start = emulator.endpoint(&first).await?.id;
    let start = format!("/projects/{project}/endpoints/{start}/start");
    refused(&start, serde_json::Value::Null).await?;
    let turned_away = emulator.connect(&first).await;
    let reason = format!("{:#}", turned_away.err().context("it is turned away")?);
    ensure!(reason.contains("concurrently active endpoints"), "{reason}");
    // The default branch's always may.
    let main = emulator.main_branch().await?;
    emulator.suspend(&main).await?;
    emulator.connect(&main).await?;
    emulator.suspend(&second).await?;
    emulator.connect(&first).await?;
    emulator.stop().await
}

/// Time counts from the last use, not from the last look.
#[tokio::test]
async fn use_puts_the_suspension_off() -> anyhow::Result<()> {
    const STEP: i64 = 250;
    let folder = Folder::new()?;
    let clock = Clock::in_folder(&folder);
    let emulator = start(&folder, &clock).await?;
    let main = emulator.main_branch().await?;
    let other = emulator.branch("other", Some(&main)).await?.branch.id;
    let session = emulator.connect(&main).await?;
    for round in 1..=3 {
        // The clock has moved, and the session is used after that.
        clock.set(round * STEP)?;
        // Asked for anything that has a time, the emulator sees the clock.
        suspend_after(&emulator, &main, 0).await?;
        session.simple_query("SELECT 1").await?;
    }
    // More than the time in all, less in each step: the other one's time is over.
    is(&emulator, &other, EndpointState::Idle).await?;
    let state = emulator.endpoint(&main).await?.current_state;
    assert_eq!(state, EndpointState::Active);
    session.simple_query("SELECT 1").await?;
    clock.set(3 * STEP + LATER)?;
    is(&emulator, &main, EndpointState::Idle).await?;
    emulator.stop().await
}

#[tokio::test]
async fn the_time_of_idleness_has_bounds() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    let endpoint = emulator.endpoint(&main).await?.id;
    let http = Http::of(&emulator);
    let path = format!("/projects/{}/endpoints/{endpoint}", emulator.project());
    let body = |seconds: i64| json!({"endpoint": {"suspend_timeout_seconds": seconds}});
    for seconds in [-2, 1, 59, 604_801] {
        let refused = http.expect(400, "PATCH", &path, body(seconds)).await?;
        let message = refused.text("/message");
        assert!(message.contains("suspend_timeout_seconds"), "{message}");
    }
    for seconds in [-1, 0, 60, 604_800] {
        let kept = http.expect(200, "PATCH", &path, body(seconds)).await?;
        assert_eq!(kept.at("/endpoint/suspend_timeout_seconds"), seconds);
    }
    emulator.stop().await?;

    // A test of somebody else's need not wait, nor move a clock.
    let flags = ["--unsafe-suspend-seconds-min", "1"];
    let listen = suite::free_address()?;
    let emulator = EmulatorProcess::start_with(&folder.join("data"), &listen, &flags).await?;
    suspend_after(&emulator, &main, 1).await?;
    is(&emulator, &main, EndpointState::Idle).await?;
    emulator.stop().await?;

    let flags = ["--suspend-seconds-default", "1"];
    let listen = suite::free_address()?;
    let emulator = EmulatorProcess::start_with(&folder.join("data"), &listen, &flags).await?;
    suspend_after(&emulator, &main, 0).await?;
    emulator.connect(&main).await?;
    is(&emulator, &main, EndpointState::Idle).await?;
    emulator.stop().await
}

fn rows(messages: &[SimpleQueryMessage]) -> usize {
    let is_row = |message: &&SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(_));
    messages.iter().filter(is_row).count()
}

async fn start(folder: &Folder, clock: &Clock) -> anyhow::Result<EmulatorProcess> {
    let listen = suite::free_address()?;
    EmulatorProcess::start_with(&folder.join("data"), &listen, &clock.flags()?).await
}

async fn suspend_after(
    emulator: &EmulatorProcess,
    branch: &BranchId,
    seconds: i64,
) -> anyhow::Result<()> {
    let endpoint = emulator.endpoint(branch).await?.id;
    let request = EndpointUpdateRequest {
        endpoint: EndpointUpdate {
            suspend_timeout_seconds: Some(seconds),
            ..EndpointUpdate::default()
        },
    };
    let (client, project) = (emulator.client(), emulator.project());
    client.update_endpoint(project, &endpoint, &request).await?;
    Ok(())
}

/// Moves the clock on until the branch's endpoint is suspended: what its clients
/// did last may be seen after the clock has moved.
async fn is_suspended_in_time(
    emulator: &EmulatorProcess,
    branch: &BranchId,
    clock: &Clock,
    seconds: &mut i64,
) -> anyhow::Result<()> {
    eventually("the endpoint is suspended", || {
        *seconds += LATER;
        let moved = clock.set(*seconds);
        async move {
            moved?;
            let found = emulator.endpoint(branch).await?;
            ensure!(found.current_state == EndpointState::Idle, "{found:?}");
            Ok(())
        }
    })
    .await?;
    is(emulator, branch, EndpointState::Idle).await
}

/// Waits until the branch's endpoint is in this state.
async fn is(
    emulator: &EmulatorProcess,
    branch: &BranchId,
    state: EndpointState,
) -> anyhow::Result<()> {
    eventually("the endpoint's state", async || {
        let found = emulator.endpoint(branch).await?;
        if found.current_state == state && found.pending_state.is_none() {
            return Ok(());
        }
        bail!("{:?}, not {state:?}", found.current_state)
    })
    .await
}
