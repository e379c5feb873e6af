//! Lookups that wait on one branch while v1 leads to another already.

use anyhow::{Context, ensure};
use proto::users::v1;
use proto::users::v1::user_service_client::UserServiceClient;
use suite::{System, eventually};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::{MARKED, branch_of, fork, mark, switch};
use crate::sessions::backends;
use crate::users_metrics::telling;

/// What a user is called, asked for in the background.
fn name_of(users: &UserServiceClient<Channel>, id: i32) -> JoinHandle<anyhow::Result<String>> {
    let mut users = users.clone();
    tokio::spawn(async move {
        let answer = users.get_user(v1::GetUserRequest { id }).await?;
        let user = answer.into_inner().user.context("a user")?;
        anyhow::Ok(user.name)
    })
}

/// Calls that share a query are of the branch that it was sent to. Those that come after
/// the turn-over share one of their own, however long the others wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_before_and_after_a_turn_over_share_no_query() -> anyhow::Result<()> {
    let system = System::start().await?;
    let one = branch_of(&system).await?;
    let other = fork(&system, "other").await?;
    for branch in [&one, &other] {
        mark(&system, branch, branch.as_str()).await?;
    }
    let (service, probes) = telling(&system, &[]).await?;
    let users = UserServiceClient::new(suite::channel(service.address()).await?);
    // Two: a transaction sees pg_stat_activity as it was when it first looked.
    let locker = system.emulator.connect(&one).await?;
    let owner = system.emulator.connect(&one).await?;
    locker
        .batch_execute("BEGIN; LOCK TABLE users.users IN ACCESS EXCLUSIVE MODE")
        .await?;
    // The first is sent alone, and the others together if they come close enough.
    let before = [1, 2, 3].map(|id| name_of(&users, id));
    eventually("all are sent, and wait", async || {
        const WAIT: &str = "wait_event_type = 'Lock' AND query";
        let shared = backends(&owner, &format!("{WAIT} LIKE '%ANY%'")).await?;
        let alone = backends(&owner, &format!("{WAIT} NOT LIKE '%ANY%'")).await?;
        let sent = alone.len() + 2 * shared.len();
        ensure!(sent >= before.len(), "{sent}");
        Ok(())
    })
    .await?;

    // The switch is over when nobody waits on the branch before.
    tokio::try_join!(switch(&system, &other, false), async {
        let turned_over = async || probes.says("pool_turnovers{version=\"v1\"}", 1.0).await;
        eventually("it has turned over", turned_over).await?;
        let after: Vec<_> = (1..=MARKED).map(|id| name_of(&users, id)).collect();
        for call in after {
            let name = call.await??;
            ensure!(name == other.as_str(), "after the turn-over: {name}");
        }
        let is_locked = before.iter().all(|call| !call.is_finished());
        ensure!(is_locked, "the branch before has answered already");
        locker.batch_execute("ROLLBACK").await?;
        for call in before {
            let name = call.await??;
            ensure!(name == one.as_str(), "before the turn-over: {name}");
        }
        anyhow::Ok(())
    })?;
    service.process.stop().await?;
    system.finish().await
}
