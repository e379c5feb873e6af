//! A point that is the head of the moment in which it is asked for.

use neon_api::types::{BranchCreateRequest, BranchRestoreRequest};
use serde_json::json;
use suite::{EmulatorProcess, Faults, Folder};

use super::ledger::{has_history, state, write};

/// What is written before the operation is done is after the point.
#[tokio::test]
async fn the_head_as_a_point_is_that_point() -> anyhow::Result<()> {
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
    let dev = emulator.branch("dev", Some(&main)).await?.branch.id;
    let head = write(&session, 1..=3, 0).await?.remove(2);
    let faults = Faults::of(&emulator);
    let delay = json!({"fault": "delay", "milliseconds": 1_000, "after": false, "count": 2});
    let delayed = faults.on_operation("create_branch", delay).await?;

    let request = BranchCreateRequest::named("then")
        .parent(main.clone())
        .at_lsn(head.lsn.clone())
        .read_write_endpoint();
    let then = client.create_branch(project, &request).await?;
    let after = write(&session, 4..=6, 3).await?.remove(2);
    emulator.finished(&then.operations).await?;
    let found = emulator.connect(&then.branch.id).await?;
    assert_eq!(state(&found).await?, (3, 3));

    let request = BranchRestoreRequest::from_branch(main.clone()).at_lsn(after.lsn.clone());
    let restored = client.restore_branch(project, &dev, &request).await?;
    write(&session, 7..=9, 6).await?;
    emulator.finished(&restored.operations).await?;
    faults.happened(delayed).await?;
    let found = emulator.connect(&dev).await?;
    assert_eq!(state(&found).await?, (6, 6));
    for (branch, lsn) in [(&then.branch.id, head.lsn), (&dev, after.lsn)] {
        let record = client.get_branch(project, branch).await?.branch;
        assert_eq!(record.parent_lsn, Some(lsn));
    }
    emulator.stop().await
}
