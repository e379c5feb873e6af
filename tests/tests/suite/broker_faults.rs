//! The broker against a Neon API that goes wrong at the creation of a branch: it
//! becomes ready, and makes nothing twice.

use anyhow::Context;
use serde_json::{Value, json};
use suite::{Broker, EmulatorProcess, Faults, Folder, Request};

const BRANCHES: &str = "/projects/{project_id}/branches";
const NAMES: [&str; 2] = ["api_v1_branch", "api_v2_branch"];

#[tokio::test]
async fn a_creation_that_was_refused_is_repeated() -> anyhow::Result<()> {
    for (effect, status) in [
        (json!({"fault": "locked", "count": 2}), 423),
        (
            json!({"fault": "too_many_requests", "retry_after_seconds": 1}),
            429,
        ),
        (json!({"fault": "unavailable", "count": 2}), 503),
    ] {
        let count = effect["count"].as_u64().unwrap_or(1);
        let requests = start_with(effect).await?;
        let creations = creations(&requests);
        let refused = of_status(&creations, Some(status));
        assert_eq!(refused as u64, count, "{creations:?}");
        assert_eq!(of_status(&creations, Some(201)), 2, "{creations:?}");
        assert_eq!(creations.len() as u64, 2 + count, "{creations:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_creation_that_was_lost_is_found_and_not_repeated() -> anyhow::Result<()> {
    for effect in [
        json!({"fault": "gateway_timeout", "after": true}),
        json!({"fault": "lost_answer"}),
        json!({"fault": "truncated"}),
    ] {
        let requests = start_with(effect.clone()).await?;
        let creations = creations(&requests);
        assert_eq!(creations.len(), 2, "{effect}: {creations:?}");
        assert!(
            looks_after_the_first(&requests)? > 0,
            "{effect}: {requests:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_creation_that_a_gateway_swallowed_is_looked_for_and_repeated() -> anyhow::Result<()> {
    let effect = json!({"fault": "gateway_timeout", "after": false});
    let requests = start_with(effect).await?;
    let creations = creations(&requests);
    assert_eq!(of_status(&creations, Some(524)), 1, "{creations:?}");
    assert_eq!(of_status(&creations, Some(201)), 2, "{creations:?}");
    assert!(looks_after_the_first(&requests)? > 0, "{requests:?}");
    Ok(())
}

#[tokio::test]
async fn a_creation_that_is_late_is_sent_once() -> anyhow::Result<()> {
    for after in [false, true] {
        let effect = json!({"fault": "delay", "milliseconds": 3_000, "after": after});
        let requests = start_with(effect).await?;
        let creations = creations(&requests);
        assert_eq!(of_status(&creations, Some(201)), 2, "{creations:?}");
        assert_eq!(creations.len(), 2, "{creations:?}");
    }
    Ok(())
}

/// Starts a broker with a fault waiting for its first creation. Once it is
/// ready, each branch is there once, and the fault has happened. What it asked
/// of the API.
async fn start_with(effect: Value) -> anyhow::Result<Vec<Request>> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    let fault = faults.on_route("POST", BRANCHES, effect).await?;
    let broker = Broker::start(&folder, &emulator, &suite::example_config()).await?;
    broker.is_ready().await?;
    faults.happened(fault).await?;
    let requests = faults.requests().await?;
    let found = emulator
        .client()
        .list_all_branches(emulator.project(), None)
        .await?;
    let mut names: Vec<&str> = found
        .branches
        .iter()
        .filter(|branch| !branch.default)
        .map(|branch| branch.name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, NAMES);
    broker.process.stop().await?;
    emulator.stop().await?;
    Ok(requests)
}

fn creations(requests: &[Request]) -> Vec<&Request> {
    requests
        .iter()
        .filter(|request| is_creation(request))
        .collect()
}

fn is_creation(request: &Request) -> bool {
    request.method == "POST" && request.route == BRANCHES
}

fn of_status(requests: &[&Request], status: Option<u16>) -> usize {
    let found = requests.iter().filter(|request| request.status == status);
    found.count()
}

/// How often, after its first creation and before its second, the broker looked
/// whether the first had been carried out.
fn looks_after_the_first(requests: &[Request]) -> anyhow::Result<usize> {
    let mut at = requests
        .iter()
        .enumerate()
        .filter(|(_, request)| is_creation(request))
        .map(|(at, _)| at);
    let first = at.next().context("a creation")?;
    let second = at.next().context("a second one")?;
    let looks = requests[first + 1..second].iter().filter(|request| {
        request.method == "GET"
            && request.route == BRANCHES
            && request.path.contains(&format!("search={}", NAMES[0]))
    });
    Ok(looks.count())
}
