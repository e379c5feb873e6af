//! A binding moves to another branch, and user-service goes with it: nobody
//! restarts anything, and no call fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use neon_api::BranchId;
use proto::broker::v1::{ApplyRequest, StepAction};
use proto::users::v1;
use proto::users::v1::user_service_client::UserServiceClient;
use suite::{Config, Folder, System, eventually};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tonic::transport::Channel;

const CALLERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_to_the_branch_that_the_binding_was_moved_to() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let config = Config::copy(&folder)?;
    let system = System::start_on(folder, &config.path()).await?;
    let mut users = system.users_v1().await?;
    assert_eq!(name_of(&mut users, 1).await?, "Alice");
    let old = session(&system, "api_v1_branch").await?;
    ensure!(
        sessions(&old).await? > 0,
        "the service is on the old branch"
    );

    let calls = Calls::begin(&users);
    let text = config.text()?;
    let moved = text.replace(
        "branch = \"api_v1_branch\"\n#",
        "branch = \"api_v1_next\"\nparent = \"api_v1_branch\"\n#",
    );
    ensure!(moved != text, "broker.toml has v1's branch");
    config.write(&moved)?;
    let applied = system
        .broker
        .config()
        .await?
        .apply(ApplyRequest::default())
        .await?;
    let steps = applied.into_inner().steps;
    let made = |step: &proto::broker::v1::Step| step.action() == StepAction::CreateBranch;
    assert_eq!(
        steps.iter().filter(|step| made(step)).count(),
        1,
        "{steps:?}"
    );

    // Reads and writes are the new branch's.
    let new = session(&system, "api_v1_next").await?;
    let mark = "UPDATE users.users SET name = 'Alice of the new branch' WHERE id = 1";
    assert_eq!(new.execute(mark, &[]).await?, 1);
    eventually("v1 reads the new branch", async || {
        let name = name_of(&mut users.clone(), 1).await?;
        ensure!(name == "Alice of the new branch", "{name}");
        Ok(())
    })
    .await?;
    let carol = v1::User {
        name: "Carol".to_owned(),
        email: "carol@example.com".to_owned(),
        ..Default::default()
    };
    let request = v1::CreateUserRequest {
        user: Some(carol),
        ..Default::default()
    };
    users.create_user(request).await?;
    let carols = "SELECT count(*) FROM users.users WHERE name = 'Carol'";
    assert_eq!(count(&new, carols).await?, 1);
    assert_eq!(count(&old, carols).await?, 0);

    // The old branch is left, for good.
    eventually("nobody is left on the old branch", async || {
        let left = sessions(&old).await?;
        ensure!(left == 0, "{left} sessions");
        Ok(())
    })
    .await?;
    let so_far = calls.answered();
    eventually("many more calls", async || {
        ensure!(sessions(&old).await? == 0, "a session on the old branch");
        let more = calls.answered() - so_far;
        ensure!(more > 50, "{more}");
        Ok(())
    })
    .await?;
    assert_eq!(sessions(&old).await?, 0);
    ensure!(
        sessions(&new).await? > 0,
        "the service is on the new branch"
    );
    calls.end().await?;
    system.finish().await
}

/// Calls that read and calls that write, without a pause.
struct Calls {
    running: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: JoinSet<anyhow::Result<()>>,
}

impl Calls {
    fn begin(users: &UserServiceClient<Channel>) -> Self {
        let running = Arc::new(AtomicBool::new(true));
        let answered = Arc::new(AtomicUsize::new(0));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let mut users = users.clone();
            let (running, answered) = (Arc::clone(&running), Arc::clone(&answered));
            callers.spawn(async move {
                while running.load(Ordering::Relaxed) {
                    name_of(&mut users, 1).await?;
                    let bob = v1::User {
                        id: 2,
                        name: "Bob".to_owned(),
                        ..Default::default()
                    };
                    let request = v1::UpdateUserRequest {
                        user: Some(bob),
                        update_mask: None,
                    };
                    users.update_user(request).await?;
                    answered.fetch_add(2, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Self {
            running,
            answered,
            callers,
        }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Fails if one call did.
    async fn end(mut self) -> anyhow::Result<()> {
        self.running.store(false, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended?.context("a call during the move")?;
        }
        Ok(())
    }
}

async fn name_of(users: &mut UserServiceClient<Channel>, id: i32) -> anyhow::Result<String> {
    let answer = users.get_user(v1::GetUserRequest { id }).await?;
    Ok(answer.into_inner().user.context("a user")?.name)
}

async fn session(system: &System, branch: &str) -> anyhow::Result<Client> {
    system
        .emulator
        .connect(&branch_id(system, branch).await?)
        .await
}

async fn branch_id(system: &System, name: &str) -> anyhow::Result<BranchId> {
    let (client, project) = (system.emulator.client(), system.emulator.project());
    let found = client.list_all_branches(project, Some(name)).await?;
    let branch = found.branches.into_iter().find(|one| one.name == name);
    Ok(branch.with_context(|| name.to_owned())?.id)
}

/// How many sessions user-service has on a branch.
async fn sessions(session: &Client) -> anyhow::Result<i64> {
    let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'user-service%'";
    count(session, query).await
}

async fn count(session: &Client, query: &str) -> anyhow::Result<i64> {
    Ok(session.query_one(query, &[]).await?.get(0))
}
