//! Restores that cannot be.

use neon_api::types::BranchUpdateRequest;
use serde_json::json;
use suite::{EmulatorProcess, Folder, Http};

#[tokio::test]
async fn restores_that_cannot_be_are_refused() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let main = emulator.main_branch().await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    let other = emulator.branch("other", None).await?.branch.id;
    let protect = BranchUpdateRequest::default().protected(true);
    let (client, project) = (emulator.client(), emulator.project());
    client.update_branch(project, &other, &protect).await?;
    let past = "2026-01-01T00:00:00Z";
    for (target, body, status, word) in [
        (&dev, json!({}), 400, "source_branch_id"),
        (
            &dev,
            json!({"source_branch_id": "br-no-such-1"}),
            404,
            "branch not found",
        ),
        (
            &dev,
            json!({"source_branch_id": dev}),
            400,
            "source_timestamp",
        ),
        (
            &dev,
            json!({"source_branch_id": dev, "source_timestamp": past}),
            400,
            "preserve_under_name",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "source_timestamp": past}),
            422,
            "source_timestamp",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "source_lsn": "0/1"}),
            422,
            "source_lsn",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "source_lsn": "x"}),
            400,
            "source_lsn",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "source_lsn": "0/1", "source_timestamp": past}),
            400,
            "together",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "preserve_under_name": "main"}),
            409,
            "already exists",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "preserve_under_name": "x".repeat(257)}),
            400,
            "preserve_under_name",
        ),
        // A root branch is no exception: its children need somewhere to go.
        (
            &main,
            json!({"source_branch_id": dev}),
            422,
            "preserve_under_name",
        ),
        (&other, json!({"source_branch_id": main}), 422, "protected"),
    ] {
        let path = format!("/projects/{project}/branches/{target}/restore");
        let refused = http.expect(status, "POST", &path, body).await?;
        assert!(
            refused.text("/message").contains(word),
            "{word}: {refused:?}"
        );
    }
    assert_eq!(
        client
            .list_all_branches(project, None)
            .await?
            .branches
            .len(),
        3
    );
    emulator.stop().await
}
