//! Etags: who has not read the last change makes none.

use anyhow::Context;
use prost_types::FieldMask;
use proto::users::v1::user_service_client::UserServiceClient;
use proto::users::{v1, v2};
use suite::System;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{create, create2, mask, user, user2};
use crate::details::refused;

fn rename(known: &v1::User, name: &str) -> v1::UpdateUserRequest {
    v1::UpdateUserRequest {
        user: Some(v1::User {
            name: name.to_owned(),
            ..known.clone()
        }),
        update_mask: mask(&["name"]),
    }
}

#[track_caller]
fn mismatch<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let status = refused(answer, Code::Aborted, None);
    let reason = status.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("ETAG_MISMATCH"), "{status:?}");
}

async fn get(users: &mut UserServiceClient<Channel>, id: i32) -> anyhow::Result<v1::User> {
    let answer = users.get_user(v1::GetUserRequest { id }).await?;
    answer.into_inner().user.context("a user")
}

#[tokio::test]
async fn a_change_with_another_etag_is_refused_and_leaves_nothing() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    let first = users
        .create_user(create(user("Carol", "carol@example.com")))
        .await?
        .into_inner()
        .user
        .context("a user")?;
    assert_eq!(get(&mut users, first.id).await?, first, "the same etag");
    let changed = users.update_user(rename(&first, "Caroline")).await?;
    let changed = changed.into_inner().user.context("a user")?;
    assert_eq!(changed.name, "Caroline");
    assert_ne!(changed.etag, first.etag);
    assert_eq!(get(&mut users, first.id).await?, changed);

    mismatch(users.update_user(rename(&first, "Carola")).await);
    let nonsense = v1::User {
        etag: "nonsense".to_owned(),
        ..changed.clone()
    };
    mismatch(users.update_user(rename(&nonsense, "Carola")).await);
    // Nothing to change: the etag is looked at all the same.
    let nothing = |known: &v1::User| v1::UpdateUserRequest {
        user: Some(v1::User {
            id: known.id,
            etag: known.etag.clone(),
            ..Default::default()
        }),
        update_mask: None,
    };
    mismatch(users.update_user(nothing(&first)).await);
    let same = users.update_user(nothing(&changed)).await?;
    assert_eq!(same.into_inner().user.as_ref(), Some(&changed));
    let taken = v1::UpdateUserRequest {
        user: Some(v1::User {
            email: "bob@example.com".to_owned(),
            ..changed.clone()
        }),
        update_mask: mask(&["email"]),
    };
    let taken = users.update_user(taken).await;
    refused(taken, Code::AlreadyExists, Some("user.email"));
    assert_eq!(get(&mut users, first.id).await?, changed);

    // It hashes what the user is, and not how often that was written.
    let back = users.update_user(rename(&changed, "Carol")).await?;
    assert_eq!(back.into_inner().user.as_ref(), Some(&first));
    let missing = v1::User {
        id: 4_711,
        ..first.clone()
    };
    let missing = users.update_user(rename(&missing, "Nobody")).await;
    refused(missing, Code::NotFound, Some("user.id"));
    system.finish().await
}

#[tokio::test]
async fn a_user_is_deleted_as_known_or_not_at_all() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    let alice = get(&mut users, 1).await?;
    let delete = |etag: &str, allow_missing| v1::DeleteUserRequest {
        id: 1,
        etag: etag.to_owned(),
        allow_missing,
    };
    for allow_missing in [false, true] {
        mismatch(users.delete_user(delete("another", allow_missing)).await);
    }
    assert_eq!(get(&mut users, 1).await?, alice);
    users.delete_user(delete(&alice.etag, false)).await?;
    for etag in ["", "another", &alice.etag] {
        let answer = users.delete_user(delete(etag, false)).await;
        refused(answer, Code::NotFound, Some("id"));
        users.delete_user(delete(etag, true)).await?;
    }
    // One that is there goes, whether it may be missing or not.
    let bob = v1::DeleteUserRequest {
        id: 2,
        allow_missing: true,
        ..Default::default()
    };
    users.delete_user(bob).await?;
    let get = users.get_user(v1::GetUserRequest { id: 2 }).await;
    refused(get, Code::NotFound, None);
    system.finish().await
}

#[tokio::test]
async fn an_etag_of_v2_is_of_all_that_v2_knows() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v2().await?;
    let new = create2(user2("Carol", "carol@example.com"));
    let mut known = users
        .create_user(new)
        .await?
        .into_inner()
        .user
        .context("a user")?;
    let mut etags = vec![known.etag.clone()];
    for (age, city) in [
        (Some(0), None),
        (Some(41), None),
        (Some(41), Some("Bern")),
        (None, Some("Bern")),
    ] {
        let request = v2::UpdateUserRequest {
            user: Some(v2::User {
                age,
                city: city.map(str::to_owned),
                ..known.clone()
            }),
            update_mask: Some(FieldMask {
                paths: vec!["age".to_owned(), "city".to_owned()],
            }),
        };
        let answer = users.update_user(request.clone()).await?;
        mismatch(users.update_user(request).await);
        known = answer.into_inner().user.context("a user")?;
        assert_eq!((known.age, known.city.as_deref()), (age, city));
        etags.push(known.etag.clone());
    }
    let all = etags.len();
    etags.sort_unstable();
    etags.dedup();
    assert_eq!(etags.len(), all, "{etags:?}");
    system.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_changes_at_once_none_is_lost() -> anyhow::Result<()> {
    const CALLERS: usize = 4;
    let changes = suite::count(10, 100);
    let system = System::start().await?;
    let users = system.users_v1().await?;
    let mut counter = users.clone();
    let zero = v1::User {
        id: 1,
        ..user("0", "alice@example.com")
    };
    counter.update_user(rename(&zero, "0")).await?;

    // With one etag, one of all changes is made.
    let known = get(&mut counter, 1).await?;
    let mut calls = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut users, known) = (users.clone(), known.clone());
        calls.spawn(async move { users.update_user(rename(&known, "1")).await });
    }
    let mut made = 0;
    while let Some(call) = calls.join_next().await {
        match call? {
            Ok(_) => made += 1,
            answer => mismatch(answer),
        }
    }
    assert_eq!(made, 1);

    // Each counts from what it has read: a change that is lost is a number that is.
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut users = users.clone();
        callers.spawn(async move {
            for _ in 0..changes {
                loop {
                    let known = get(&mut users, 1).await?;
                    let next = known.name.parse::<usize>()? + 1;
                    match users.update_user(rename(&known, &next.to_string())).await {
                        Ok(_) => break,
                        answer => mismatch(answer),
                    }
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    let counted = get(&mut counter, 1).await?.name;
    assert_eq!(counted, (1 + CALLERS * changes).to_string());
    system.finish().await
}
