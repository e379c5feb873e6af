//! A restore to the branch's own past that fails: nothing of it remains.

use anyhow::{Context, ensure};
use neon_api::types::{BranchRestoreRequest, BranchUpdate, BranchUpdateRequest, OperationStatus};
use serde_json::json;
use suite::{EmulatorProcess, Faults, Folder, eventually};

use super::ledger::{check_branch, has_history, state, write};

#[tokio::test]
async fn a_restore_that_fails_costs_no_history_and_no_rename() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start_with_admin(&data).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    has_history(&data, &main).await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute("CREATE TABLE entry (number bigint, filler text)")
        .await?;
    let ledger = write(&session, 1..=30, 0).await?;

    let delay = json!({"fault": "delay", "milliseconds": 2_000, "after": false});
    let faults = Faults::of(&emulator);
    let delayed = faults.on_operation("create_branch", delay).await?;
    let request = BranchRestoreRequest::from_branch(main.clone())
        .at_lsn(ledger[9].lsn.clone())
        .preserve_under_name("kept");
    let restored = client.restore_branch(project, &main, &request).await?;
    faults.happened(delayed).await?;
    // Where the old data are to go there is a file: the exchange fails, at its end.
    let kept = restored.branch.parent_id.context("the old data's branch")?;
    let in_the_way = data.join("branches").join(kept.as_str());
    std::fs::write(&in_the_way, "in the way")?;
    let rename = BranchUpdateRequest {
        branch: BranchUpdate {
            name: Some("renamed".to_owned()),
            ..BranchUpdate::default()
        },
    };
    client.update_branch(project, &main, &rename).await?;
    let operation = restored.operations[0].id;
    eventually("the restore has failed", async || {
        let found = client.get_operation(project, operation).await?.operation;
        ensure!(found.status == OperationStatus::Failed, "{found:?}");
        Ok(())
    })
    .await?;
    std::fs::remove_file(&in_the_way)?;

    let branch = client.get_branch(project, &main).await?.branch;
    assert_eq!(branch.name, "renamed");
    assert_eq!(branch.current_state.as_str(), "ready");
    assert_eq!(branch.parent_id, None);
    assert!(client.get_branch(project, &kept).await.is_err());
    let session = emulator.connect(&main).await?;
    assert_eq!(state(&session).await?, (30, 30));
    // What was after the point is still the branch's past, and goes on.
    let more = write(&session, 31..=40, 30).await?;
    let points = [&ledger[4], &ledger[9], &ledger[15], &ledger[28], &more[3]];
    for (round, entry) in points.into_iter().enumerate() {
        check_branch(&emulator, &main, entry, round).await?;
        check_branch(&emulator, &main, entry, 100 + round + 1).await?;
    }
    // Tried again, it is done.
    let restored = client.restore_branch(project, &main, &request).await?;
    emulator.finished(&restored.operations).await?;
    let session = emulator.connect(&main).await?;
    assert_eq!(state(&session).await?, (10, 10));
    emulator.stop().await
}
