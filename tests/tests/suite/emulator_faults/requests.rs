//! Requests that are answered badly.

use std::time::Duration;

use anyhow::Context;
use neon_api::Error;
use neon_api::types::BranchCreateRequest;
use serde_json::{Value, json};
use suite::{EmulatorProcess, Faults, Folder};

use super::{BRANCHES, create, is_exchange};

#[tokio::test]
async fn requests_fail_as_they_would_on_neon() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    for expected in [
        refusal(423, json!({"fault": "locked"})),
        refusal(503, json!({"fault": "unavailable"})),
        Expected {
            retry_after: Some(Duration::from_secs(7)),
            ..refusal(
                429,
                json!({"fault": "too_many_requests", "retry_after_seconds": 7}),
            )
        },
        gateway_timeout(false),
        gateway_timeout(true),
        Expected {
            is_it: is_exchange,
            status: None,
            ..gateway_timeout(true)
        }
        .with(json!({"fault": "lost_answer"})),
        Expected {
            is_it: is_exchange,
            status: Some(201),
            ..gateway_timeout(true)
        }
        .with(json!({"fault": "truncated"})),
    ] {
        check(&emulator, &faults, &expected)
            .await
            .with_context(|| expected.effect.to_string())?;
    }
    emulator.stop().await
}

async fn check(
    emulator: &EmulatorProcess,
    faults: &Faults,
    expected: &Expected,
) -> anyhow::Result<()> {
    let effect = expected.effect.clone();
    let before = faults.count("POST", BRANCHES, expected.status).await?;
    let fault = faults.on_route("POST", BRANCHES, effect).await?;
    let error = match create(emulator, "made-or-not").await {
        Err(error) => error,
        Ok(created) => anyhow::bail!("created: {created:?}"),
    };
    assert!((expected.is_it)(&error), "{error:?}");
    assert_eq!(error.outcome_is_unknown(), expected.outcome_is_unknown);
    assert_eq!(error.may_repeat(), expected.may_repeat);
    assert_eq!(error.retry_after(), expected.retry_after);
    if let Error::Api { request_id, .. } = &error {
        assert!(request_id.is_some(), "{error:?}");
    }
    faults.happened(fault).await?;
    let after = faults.count("POST", BRANCHES, expected.status).await?;
    assert_eq!(after, before + 1);

    let (client, project) = (emulator.client(), emulator.project());
    let found = client
        .list_all_branches(project, Some("made-or-not"))
        .await?
        .branches;
    assert_eq!(found.len(), usize::from(expected.is_done));
    // Once is once: the next creation is answered well.
    if found.is_empty() {
        let created = create(emulator, "made-or-not").await?;
        emulator.finished(&created.operations).await?;
    }
    let found = client
        .list_all_branches(project, Some("made-or-not"))
        .await?
        .branches;
    settle(emulator).await?;
    let deleted = client.delete_branch(project, &found[0].id).await?;
    emulator
        .finished(&deleted.context("it was there")?.operations)
        .await
}

#[tokio::test]
async fn a_late_request_is_done_though_its_caller_gave_up() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    let (project, patient) = (emulator.project(), emulator.client());
    let timeouts = neon_api::Timeouts {
        request: Duration::from_millis(1_000),
        ..neon_api::Timeouts::default()
    };
    let hasty = patient.clone().with_timeouts(timeouts)?;
    for after in [false, true] {
        let effect = json!({"fault": "delay", "milliseconds": 5_000, "after": after});
        faults.on_route("POST", BRANCHES, effect).await?;
        let name = format!("late-{after}");
        let request = BranchCreateRequest::named(&name);
        let error = hasty.create_branch(project, &request).await;
        let error = error.err().context("it is too late")?;
        assert!(is_exchange(&error), "{error:?}");
        assert!(error.outcome_is_unknown());
        let at_once = patient.list_all_branches(project, Some(&name)).await?;
        assert_eq!(at_once.branches.len(), usize::from(after));
        suite::eventually("the branch is made", async || {
            let found = patient.list_all_branches(project, Some(&name)).await?;
            anyhow::ensure!(found.branches.len() == 1, "{:?}", found.branches);
            Ok(())
        })
        .await?;
    }
    emulator.stop().await
}

/// What a creation with a fault is to look like.
struct Expected {
    effect: Value,
    is_it: fn(&Error) -> bool,
    outcome_is_unknown: bool,
    may_repeat: bool,
    retry_after: Option<Duration>,
    is_done: bool,
    /// As the emulator counts it.
    status: Option<u16>,
}

fn refusal(status: u16, effect: Value) -> Expected {
    Expected {
        effect,
        is_it: |error| matches!(error, Error::Api { .. }),
        outcome_is_unknown: false,
        may_repeat: true,
        retry_after: None,
        is_done: false,
        status: Some(status),
    }
}

fn gateway_timeout(after: bool) -> Expected {
    Expected {
        effect: json!({"fault": "gateway_timeout", "after": after}),
        is_it: |error| {
            matches!(error, Error::NotJson { status: 524, excerpt, .. }
                if excerpt.contains("A timeout occurred"))
        },
        outcome_is_unknown: true,
        may_repeat: false,
        retry_after: None,
        is_done: after,
        status: Some(524),
    }
}

impl Expected {
    fn with(self, effect: Value) -> Self {
        Self { effect, ..self }
    }
}

/// Waits until the project has nothing left to do.
async fn settle(emulator: &EmulatorProcess) -> anyhow::Result<()> {
    let query = neon_api::types::OperationListQuery::default();
    suite::eventually("every operation is final", async || {
        let page = emulator
            .client()
            .list_operations(emulator.project(), &query)
            .await?;
        let mut operations = page.operations.iter();
        anyhow::ensure!(operations.all(|operation| operation.status.is_final()));
        Ok(())
    })
    .await
}
