//! The account's budget, and equal requests that come together.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use proto::broker::v1 as pb;
use proto::broker::v1::branch_service_client::BranchServiceClient;
use serde_json::json;
use suite::{Broker, EmulatorProcess, Faults, Folder, count};

const BRANCHES: &str = "/projects/{project_id}/branches";
const ONE: &str = "/projects/{project_id}/branches/{branch_id}";
/// Connections that the callers share: HTTP/2 carries many calls on each.
const CONNECTIONS: usize = 8;

/// An emulator, and a broker that declares nothing.
async fn start(variables: &[(&str, &str)]) -> anyhow::Result<(Folder, EmulatorProcess, Broker)> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let config = folder.join("broker.toml");
    std::fs::write(&config, "[leases]\n")?;
    let listen = suite::free_address()?;
    let broker = Broker::start_with(&listen, &folder, &emulator, &config, variables).await?;
    broker.is_ready().await?;
    Ok((folder, emulator, broker))
}

#[tokio::test]
async fn many_callers_for_one_missing_branch_cause_one_creation() -> anyhow::Result<()> {
    let (_folder, emulator, broker) = start(&[]).await?;
    let faults = Faults::of(&emulator);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(broker.branches().await?);
    }
    let operations = broker.operations().await?;
    let callers = (0..count(200, 10_000)).map(|caller| {
        let mut branches: BranchServiceClient<_> = connections[caller % CONNECTIONS].clone();
        let mut operations = operations.clone();
        tokio::spawn(async move {
            let request = pb::CreateBranchRequest {
                branch: Some(pb::Branch {
                    display_name: "wanted".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let mut operation = branches.create_branch(request).await?.into_inner();
            while !operation.done {
                let request = proto::google::longrunning::WaitOperationRequest {
                    name: operation.name,
                    timeout: None,
                };
                operation = operations.wait_operation(request).await?.into_inner();
            }
            crate::broker_branches::made_by(operation)
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut names = std::collections::BTreeSet::new();
    for caller in callers {
        names.insert(caller.await??);
    }
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(faults.count("POST", BRANCHES, Some(201)).await?, 1);
    let creations = faults.requests().await?;
    let creations = creations
        .iter()
        .filter(|request| request.method == "POST" && request.route == BRANCHES)
        .count();
    assert_eq!(creations, 1, "one was sent");
    broker.process.stop().await?;
    emulator.stop().await
}

/// Asks for so many different branches, none of which is there, at once.
async fn ask(broker: &Broker, branches: usize) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let client = broker.branches().await?;
    let calls = (0..branches).map(|number| {
        let mut client = client.clone();
        let name = format!("branches/br-none-{number}");
        tokio::spawn(async move { client.get_branch(pb::GetBranchRequest { name }).await })
    });
    let calls: Vec<_> = calls.collect();
    for call in calls {
        let status = call.await?.err().context("there is no such branch")?;
        ensure!(status.code() == tonic::Code::NotFound, "{status:?}");
    }
    Ok(begun.elapsed())
}

#[tokio::test]
async fn a_route_gets_no_more_requests_than_its_budget() -> anyhow::Result<()> {
    let (_folder, emulator, broker) = start(&[("NEON_REQUESTS_PER_SECOND_PER_ROUTE", "8")]).await?;
    // Two at once, then six a second.
    let took = ask(&broker, 20).await?;
    assert!(took >= Duration::from_millis(2_900), "{took:?}");
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn the_account_gets_no_more_requests_than_its_budget() -> anyhow::Result<()> {
    // At its start the broker lists the branches, once or more.
    let (_folder, emulator, broker) = start(&[("NEON_REQUESTS_PER_MINUTE", "240")]).await?;
    // Sixty at once, then three a second.
    let took = ask(&broker, 70).await?;
    assert!(took >= Duration::from_millis(2_900), "{took:?}");
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn who_is_told_to_wait_waits_and_so_do_those_behind() -> anyhow::Result<()> {
    let (_folder, emulator, broker) = start(&[]).await?;
    let faults = Faults::of(&emulator);
    let effect = json!({"fault": "too_many_requests", "retry_after_seconds": 2});
    let fault = faults.on_route("GET", ONE, effect).await?;
    ask(&broker, 1).await?;
    faults.happened(fault).await?;
    let effect = json!({"fault": "too_many_requests", "retry_after_seconds": 2});
    let fault = faults.on_route("GET", ONE, effect).await?;
    let before = faults.count("GET", ONE, Some(404)).await?;
    let begun = Instant::now();
    let first = {
        let mut client = broker.branches().await?;
        let name = "branches/br-none-first".to_owned();
        tokio::spawn(async move { client.get_branch(pb::GetBranchRequest { name }).await })
    };
    faults.happened(fault).await?;
    // Asked now, when the route is closed: nothing is sent before it opens.
    ask(&broker, 5).await?;
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(first.await?.is_err());
    assert_eq!(faults.count("GET", ONE, Some(404)).await? - before, 6);
    assert_eq!(faults.count("GET", ONE, Some(429)).await?, 2);
    broker.process.stop().await?;
    emulator.stop().await
}
