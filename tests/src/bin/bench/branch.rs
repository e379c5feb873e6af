//! A ready branch of the seeded database, and a second start of everything.

use std::time::Instant;

use anyhow::{Context, ensure};
use neon_api::types::BranchCreateRequest;
use suite::{Broker, EmulatorProcess, Folder, UserService, example_config};

use crate::table::{Row, milliseconds};

/// From the create request to the first query answered.
pub(crate) async fn branches(rounds: usize) -> anyhow::Result<Row> {
    let folder = Folder::on_disk()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let broker = Broker::start(&folder, &emulator, &example_config()).await?;
    broker.is_ready().await?;
    broker.process.stop().await?;
    let (client, project) = (emulator.client(), emulator.project());
    let branches = client.list_all_branches(project, None).await?.branches;
    let parent = branches
        .iter()
        .find(|branch| branch.name == "api_v1_branch")
        .context("the broker made api_v1_branch")?;
    let mut times = Vec::new();
    for round in 0..rounds {
        let begun = Instant::now();
        let request = BranchCreateRequest::named(format!("bench-{round}"))
            .parent(parent.id.clone())
            .read_write_endpoint();
        let created = client.create_branch(project, &request).await?;
        emulator.finished(&created.operations).await?;
        let session = emulator.connect(&created.branch.id).await?;
        let row = session
            .query_one("SELECT count(*) FROM users.users", &[])
            .await?;
        times.push(milliseconds(begun));
        ensure!(
            row.get::<_, i64>(0) == 2,
            "the branch has its parent's rows"
        );
        let deleted = client
            .delete_branch(project, &created.branch.id)
            .await?
            .context("it was there")?;
        emulator.finished(&deleted.operations).await?;
    }
    emulator.stop().await?;
    Ok(Row::new("ready branch of the seeded database", times).below(300.0))
}

/// Emulator, broker and user-service on a folder that is there already, as
/// `cargo xtask up` starts them: until both versions of users answer.
pub(crate) async fn second_starts(starts: usize) -> anyhow::Result<Row> {
    let folder = Folder::on_disk()?;
    let mut times = Vec::new();
    for start in 0..=starts {
        let begun = Instant::now();
        let emulator = EmulatorProcess::start(&folder.join("data")).await?;
        let broker = Broker::start(&folder, &emulator, &example_config()).await?;
        broker.is_ready().await?;
        let users = UserService::start(&folder, &broker).await?;
        users.is_ready().await?;
        // The first one makes everything.
        if start > 0 {
            times.push(milliseconds(begun));
        }
        users.process.stop().await?;
        broker.process.stop().await?;
        emulator.stop().await?;
    }
    Ok(Row::new("second start of the whole system", times).below(5_000.0))
}
