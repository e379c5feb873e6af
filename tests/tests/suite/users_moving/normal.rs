//! What user-service holds when nothing goes on, and whether it has come back to that.

use std::path::Path;

use anyhow::ensure;
use neon_api::BranchId;
use suite::{System, eventually};
use tokio_postgres::Client;

/// What user-service holds when nothing goes on.
pub(super) struct Normal {
    /// Descriptors that are no sessions.
    descriptors: usize,
}

/// As many as a pool may have.
const MOST_SESSIONS: usize = 24;
/// Descriptors that come and go by themselves: of the streams to the broker, and of who
/// asks for the health.
const SLACK: usize = 8;

impl Normal {
    /// Before any load.
    pub(super) async fn of(system: &System) -> anyhow::Result<Self> {
        Ok(Self {
            descriptors: descriptors(system)?,
        })
    }

    /// Fails unless user-service comes to have its sessions of v1 on this branch and on
    /// no other, and no more than it may.
    pub(super) async fn has_sessions(&self, system: &System, at: &BranchId) -> anyhow::Result<()> {
        let (client, project) = (system.emulator.client(), system.emulator.project());
        for branch in client.list_all_branches(project, None).await?.branches {
            if branch.name == "api_v2_branch" || system.emulator.endpoint(&branch.id).await.is_err()
            {
                continue;
            }
            let most = if branch.id == *at { MOST_SESSIONS } else { 0 };
            eventually("the sessions are where they belong", async || {
                let session = system.emulator.connect(&branch.id).await?;
                let (all, _) = sessions(&session).await?;
                ensure!(all <= most, "{all} on {}", branch.name);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// The same when the load is over: none of them is busy, and no descriptor is left
    /// over.
    pub(super) async fn is_back(&self, system: &System, at: &BranchId) -> anyhow::Result<()> {
        self.has_sessions(system, at).await?;
        let session = system.emulator.connect(at).await?;
        eventually(
            "no session is busy, no descriptor is left over",
            async || {
                let (all, busy) = sessions(&session).await?;
                ensure!(busy == 0, "{busy} are busy");
                let open = descriptors(system)?;
                let most = self.descriptors + all + SLACK;
                ensure!(open <= most, "{open} are open, not {most}");
                Ok(())
            },
        )
        .await
    }
}

/// How many descriptors user-service has open.
fn descriptors(system: &System) -> anyhow::Result<usize> {
    let pid = system.users.process.pid()?.to_string();
    let folder = Path::new("/proc").join(pid).join("fd");
    Ok(std::fs::read_dir(&folder)?.count())
}

/// How many sessions user-service has on a branch, and how many of them are busy.
async fn sessions(session: &Client) -> anyhow::Result<(usize, usize)> {
    let row = session
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE state <> 'idle') FROM pg_stat_activity \
             WHERE application_name LIKE 'user-service%'",
            &[],
        )
        .await?;
    let number = |index: usize| usize::try_from(row.get::<_, i64>(index));
    Ok((number(0)?, number(1)?))
}
