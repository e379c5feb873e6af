//! Calls that end before the database has answered: by their deadline, or
//! because the connection was lost.

use std::time::Duration;

use anyhow::{Context, ensure};
use proto::users::v1;
use suite::{System, eventually};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::details::refused;
use crate::sessions::{another_waiting_backend, end, owner, waiting_backend};

/// Long enough that the query is seen waiting for its lock before it passes.
const DEADLINE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_query_ends_with_its_call_before_its_connection_is_used_again() -> anyhow::Result<()> {
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
        // At rest while the lock is still held: it was not the lock that ended it.
        eventually("its session is at rest", async || {
            let found = owner
                .query_one(
                    "SELECT state FROM pg_stat_activity WHERE pid = $1",
                    &[&backend],
                )
                .await?;
            let state: Option<String> = found.get(0);
            ensure!(state.as_deref() == Some("idle"), "{state:?}");
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
    let end_it = async |backend: i32| end(&owner, backend).await;
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
        let request = v1::CreateUserRequest {
            user: Some(carol),
            ..Default::default()
        };
        async move { users.create_user(request).await }
    });
    end_it(waiting_backend(&owner).await?).await?;
    let status = refused(create.await?, Code::Unknown, None);
    let reason = status.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("OUTCOME_UNKNOWN"));
    assert!(status.get_details_retry_info().is_none(), "{status:?}");

    // A change that was sent is not made again by itself: others may have made theirs
    // since. Its caller, who names no etag, may ask again.
    let mut changing = users.clone();
    let update = tokio::spawn(async move { changing.update_user(rename_bob("Robert")).await });
    end_it(waiting_backend(&owner).await?).await?;
    let status = refused(update.await?, Code::Unavailable, None);
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    locker.batch_execute("ROLLBACK").await?;
    let mut users = users;
    let answer = users.update_user(rename_bob("Robert")).await?;
    let bob = answer.into_inner().user.context("a user")?;
    assert_eq!(bob.name, "Robert");
    system.finish().await
}

/// A create under an id is made again by itself, and by its caller when that is in
/// vain: whatever became of the first, there is one user.
#[tokio::test]
async fn a_create_under_an_id_is_repeated_and_done_once() -> anyhow::Result<()> {
    let system = System::start().await?;
    let (locker, owner) = (owner(&system).await?, owner(&system).await?);
    let users = system.users_v1().await?;
    let lock = "BEGIN; LOCK TABLE users.users IN ACCESS EXCLUSIVE MODE";
    locker.batch_execute(lock).await?;
    let carol = v1::User {
        name: "Carol".to_owned(),
        email: "carol@example.com".to_owned(),
        ..Default::default()
    };
    let request = v1::CreateUserRequest {
        user: Some(carol),
        request_id: uuid::Uuid::new_v4().to_string(),
    };
    let call = || {
        let (mut users, request) = (users.clone(), request.clone());
        tokio::spawn(async move { users.create_user(request).await })
    };
    let create = call();
    let first = waiting_backend(&owner).await?;
    end(&owner, first).await?;
    let second = another_waiting_backend(&owner, first).await?;
    end(&owner, second).await?;
    let status = refused(create.await?, Code::Unavailable, None);
    assert!(status.get_details_retry_info().is_some(), "{status:?}");

    let create = call();
    let first = another_waiting_backend(&owner, second).await?;
    end(&owner, first).await?;
    another_waiting_backend(&owner, first).await?;
    locker.batch_execute("ROLLBACK").await?;
    let carol = create.await??.into_inner().user.context("a user")?;
    let again = call().await??.into_inner().user;
    assert_eq!(again.as_ref(), Some(&carol));
    let carols = "SELECT count(*) FROM users.users WHERE email = 'carol@example.com'";
    assert_eq!(owner.query_one(carols, &[]).await?.get::<_, i64>(0), 1);
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
