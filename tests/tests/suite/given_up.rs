//! Calls that end before the database has answered: by their deadline, or
//! because the connection was lost.

use std::time::Duration;

use anyhow::{Context, ensure};
use proto::users::v1;
use suite::{System, eventually};
use tokio_postgres::Client;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::details::refused;

/// Long enough that the query is seen waiting for its lock before it passes.
const DEADLINE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_query_ends_with_its_call_and_takes_its_connection_along() -> anyhow::Result<()> {
    let system = System::start().await?;
    // Two: a transaction sees pg_stat_activity as it was when it first looked.
    let (locker, owner) = (owner(&system).await?, owner(&system).await?);
    let mut users = system.users_v1().await?;
    // The pool has a connection.
    users.get_user(v1::GetUserRequest { id: 1 }).await?;

    for round in 0..3 {
        locker
            .batch_execute("BEGIN; LOCK TABLE users.users IN ACCESS EXCLUSIVE MODE")
            .await?;
        let call = tokio::spawn({
            let mut users = users.clone();
            let mut request = Request::new(rename_bob("Robert"));
            request.set_timeout(DEADLINE);
            async move { users.update_user(request).await }
        });
        let backend = waiting_backend(&owner).await?;
        let status = call.await?.err().context("answered without the lock")?;
        // Whose timer was first, the server's or this client's.
        let codes = [Code::DeadlineExceeded, Code::Cancelled];
        assert!(codes.contains(&status.code()), "{status:?}");
        // Gone while the lock is still held: it was not the lock that ended it.
        eventually("its session is gone", async || {
            let alive = owner
                .query(
                    "SELECT state FROM pg_stat_activity WHERE pid = $1",
                    &[&backend],
                )
                .await?;
            ensure!(
                alive.is_empty(),
                "{:?}",
                alive[0].get::<_, Option<String>>(0)
            );
            Ok(())
        })
        .await
        .with_context(|| format!("round {round}: {}", system.users.process.log()))?;
        locker.batch_execute("ROLLBACK").await?;

        // What the pool hands out now answers its own question.
        for id in [1, 2, 1, 2] {
            let answer = users.get_user(v1::GetUserRequest { id }).await?;
            let user = answer.into_inner().user.context("a user")?;
            assert_eq!(
                (user.id, &*user.name),
                (id, ["Alice", "Bob"][id as usize - 1])
            );
        }
        let busy = owner
            .query_one(
                "SELECT count(*) FROM pg_stat_activity \
                 WHERE application_name LIKE 'user-service%' AND state <> 'idle'",
                &[],
            )
            .await?;
        assert_eq!(busy.get::<_, i64>(0), 0);
    }
    system.finish().await
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_not_to_be_repeated_blindly() -> anyhow::Result<()> {
    let system = System::start().await?;
    let (locker, owner) = (owner(&system).await?, owner(&system).await?);
    let users = system.users_v1().await?;
    let end_it = async |backend: i32| {
        let ended = owner
            .query_one("SELECT pg_terminate_backend($1)", &[&backend])
            .await?;
        ensure!(ended.get::<_, bool>(0), "{backend} is gone already");
        anyhow::Ok(())
    };
    locker
        .batch_execute("BEGIN; LOCK TABLE users.users IN ACCESS EXCLUSIVE MODE")
        .await?;

    let create = tokio::spawn({
        let mut users = users.clone();
        let carol = v1::User {
            name: "Carol".to_owned(),
            email: "carol@example.com".to_owned(),
            ..Default::default()
        };
        let request = v1::CreateUserRequest { user: Some(carol) };
        async move { users.create_user(request).await }
    });
    end_it(waiting_backend(&owner).await?).await?;
    let status = refused(create.await?, Code::Unknown, None);
    let reason = status.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("OUTCOME_UNKNOWN"));
    assert!(status.get_details_retry_info().is_none(), "{status:?}");

    // A change that can be made twice may be tried again.
    let (update, backend) = eventually("an update waits for the lock", async || {
        let mut users = users.clone();
        let update = tokio::spawn(async move { users.update_user(rename_bob("Robert")).await });
        tokio::select! {
            backend = waiting_backend(&owner) => Ok((update, backend?)),
            // It got the connection that was cut off a moment ago.
            () = is_finished(&update) => {
                anyhow::bail!("it was refused")
            }
        }
    })
    .await?;
    end_it(backend).await?;
    let status = refused(update.await?, Code::Unavailable, None);
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    locker.batch_execute("ROLLBACK").await?;
    system.finish().await
}

fn rename_bob(name: &str) -> v1::UpdateUserRequest {
    v1::UpdateUserRequest {
        user: Some(v1::User {
            id: 2,
            name: name.to_owned(),
            ..Default::default()
        }),
        update_mask: None,
    }
}

/// A session of the owner on v1's branch.
async fn owner(system: &System) -> anyhow::Result<Client> {
    let (client, project) = (system.emulator.client(), system.emulator.project());
    let found = client
        .list_all_branches(project, Some("api_v1_branch"))
        .await?;
    let branch = found.branches.first().context("v1's branch")?;
    system.emulator.connect(&branch.id).await
}

async fn is_finished<T>(task: &tokio::task::JoinHandle<T>) {
    const LOOK_MS: u64 = 10;
    while !task.is_finished() {
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

/// The backend of user-service that waits for a lock.
async fn waiting_backend(owner: &Client) -> anyhow::Result<i32> {
    eventually("a query waits for the lock", async || {
        let rows = owner
            .query(
                "SELECT pid FROM pg_stat_activity \
                 WHERE application_name LIKE 'user-service%' AND wait_event_type = 'Lock'",
                &[],
            )
            .await?;
        Ok(rows.first().context("none")?.get(0))
    })
    .await
}
