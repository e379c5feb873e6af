//! Users that are created under the id of a request.

use anyhow::{Context, ensure};
use proto::users::{v1, v2};
use suite::System;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;
use uuid::Uuid;

use super::{create, user, user2};
use crate::details::refused;
use crate::sessions::owner;

fn under(request_id: &str, user: v1::User) -> v1::CreateUserRequest {
    v1::CreateUserRequest {
        request_id: request_id.to_owned(),
        ..create(user)
    }
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

#[tokio::test]
async fn the_same_request_has_the_first_answer_and_another_one_none() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    let id = id();
    let request = under(&id, user("Carol", "carol@example.com"));
    let mut ask = async |request: v1::CreateUserRequest| {
        let answer = users.create_user(request).await;
        answer.map(|answer| answer.into_inner().user)
    };
    let first = ask(request.clone()).await?.context("a user")?;
    assert_eq!(ask(request.clone()).await?.as_ref(), Some(&first));
    // An id is written in more than one way.
    let shouted = under(&id.to_uppercase(), user("Carol", "carol@example.com"));
    assert_eq!(ask(shouted).await?.as_ref(), Some(&first));

    for other in [
        user("Carola", "carol@example.com"),
        user("Carol", "carola@example.com"),
        user("Alice", "alice@example.com"),
    ] {
        let status = refused(
            ask(under(&id, other)).await,
            Code::InvalidArgument,
            Some("request_id"),
        );
        let info = status.get_details_error_info().context("a reason")?;
        assert_eq!(info.reason, "REQUEST_ID_REUSED");
    }

    // The first answer stays what it was, whatever becomes of the user.
    let mut others = system.users_v1().await?;
    let renamed = v1::UpdateUserRequest {
        user: Some(v1::User {
            id: first.id,
            ..user("Caroline", "caroline@example.com")
        }),
        update_mask: None,
    };
    others.update_user(renamed).await?;
    assert_eq!(ask(request.clone()).await?.as_ref(), Some(&first));
    let delete = v1::DeleteUserRequest {
        id: first.id,
        ..Default::default()
    };
    others.delete_user(delete).await?;
    assert_eq!(ask(request).await?.as_ref(), Some(&first));
    let get = v1::GetUserRequest { id: first.id };
    refused(others.get_user(get).await, Code::NotFound, None);
    system.finish().await
}

#[tokio::test]
async fn a_refusal_is_not_remembered_and_versions_know_nothing_of_each_other() -> anyhow::Result<()>
{
    let system = System::start().await?;
    let (mut v1, mut v2) = (system.users_v1().await?, system.users_v2().await?);
    let id = id();
    let taken = under(&id, user("Bobby", "bob@example.com"));
    for _ in 0..2 {
        let answer = v1.create_user(taken.clone()).await;
        refused(answer, Code::AlreadyExists, Some("user.email"));
    }
    // Bob goes: what was refused is done.
    let delete = v1::DeleteUserRequest {
        id: 2,
        ..Default::default()
    };
    v1.delete_user(delete).await?;
    let bobby = v1.create_user(taken.clone()).await?.into_inner().user;
    let again = v1.create_user(taken).await?.into_inner().user;
    assert_eq!(bobby, again);

    // The same id in v2: another request of another service.
    let request = v2::CreateUserRequest {
        user: Some(v2::User {
            age: Some(41),
            ..user2("Carol", "carol@example.com")
        }),
        request_id: id.clone(),
    };
    let carol = v2.create_user(request.clone()).await?.into_inner().user;
    assert_eq!(
        v2.create_user(request.clone()).await?.into_inner().user,
        carol
    );
    assert_eq!(carol.context("a user")?.age, Some(41));
    for (age, city) in [(None, None), (Some(42), None), (Some(41), Some("Bern"))] {
        let other = v2::CreateUserRequest {
            user: Some(v2::User {
                age,
                city: city.map(str::to_owned),
                ..user2("Carol", "carol@example.com")
            }),
            ..request.clone()
        };
        let answer = v2.create_user(other).await;
        refused(answer, Code::InvalidArgument, Some("request_id"));
    }
    system.finish().await
}

/// The request is remembered with the user or not at all.
#[tokio::test]
async fn a_create_that_is_refused_leaves_its_id_to_any_other() -> anyhow::Result<()> {
    let system = System::start().await?;
    let owner = owner(&system).await?;
    let mut users = system.users_v1().await?;
    let remembered = async || -> anyhow::Result<i64> {
        let count = "SELECT count(*) FROM users.requests";
        Ok(owner.query_one(count, &[]).await?.get(0))
    };
    let id = id();
    let taken = under(&id, user("Bobby", "bob@example.com"));
    let answer = users.create_user(taken.clone()).await;
    refused(answer, Code::AlreadyExists, Some("user.email"));
    assert_eq!(remembered().await?, 0);

    let other = under(&id, user("Carol", "carol@example.com"));
    let carol = users.create_user(other.clone()).await?.into_inner().user;
    let again = users.create_user(other).await?.into_inner().user;
    assert_eq!(carol, again);
    assert_eq!(remembered().await?, 1);
    // What was refused as somebody's address is another request by now.
    let answer = users.create_user(taken).await;
    let status = refused(answer, Code::InvalidArgument, Some("request_id"));
    let info = status.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "REQUEST_ID_REUSED");
    system.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_many_times_at_once_makes_one_user() -> anyhow::Result<()> {
    const CALLERS: usize = 16;
    let system = System::start().await?;
    let owner = owner(&system).await?;
    let users = system.users_v1().await?;
    for round in 0..suite::count(5, 50) {
        let request = under(&id(), user("Carol", &format!("carol{round}@example.com")));
        let mut calls = JoinSet::new();
        for _ in 0..CALLERS {
            let (mut users, request) = (users.clone(), request.clone());
            calls.spawn(async move { users.create_user(request).await });
        }
        let mut answers = Vec::new();
        while let Some(call) = calls.join_next().await {
            answers.push(call??.into_inner().user.context("a user")?);
        }
        assert!(
            answers.windows(2).all(|two| two[0] == two[1]),
            "{answers:?}"
        );
        let count = "SELECT count(*) FROM users.users WHERE email = $1";
        let email = &answers[0].email;
        let count: i64 = owner.query_one(count, &[email]).await?.get(0);
        assert_eq!(count, 1);
    }

    // Different requests under one id: one of them is made, and stays.
    let id = id();
    let mut calls = JoinSet::new();
    for number in 0..CALLERS {
        let mut users = users.clone();
        let request = under(&id, user("Dora", &format!("dora{number}@example.com")));
        calls.spawn(async move { users.create_user(request).await });
    }
    let mut made = 0;
    while let Some(call) = calls.join_next().await {
        match call? {
            Ok(_) => made += 1,
            answer => {
                refused(answer, Code::InvalidArgument, Some("request_id"));
            }
        }
    }
    let count = "SELECT count(*) FROM users.users WHERE name = 'Dora'";
    let count: i64 = owner.query_one(count, &[]).await?.get(0);
    assert_eq!((made, count), (1, 1));
    system.finish().await
}

#[tokio::test]
async fn requests_are_forgotten_after_a_day_and_not_before() -> anyhow::Result<()> {
    let system = System::start().await?;
    let owner = owner(&system).await?;
    let mut users = system.users_v1().await?;
    let old = "INSERT INTO users.requests (id, body, user_id, create_time)
               SELECT gen_random_uuid(), '', number, now() - interval '24 hours 1 second'
               FROM generate_series(1, 200) AS number";
    owner.batch_execute(old).await?;
    let young = "INSERT INTO users.requests (id, body, user_id, create_time)
                 SELECT gen_random_uuid(), '', number, now() - interval '23 hours'
                 FROM generate_series(1, 10) AS number";
    owner.batch_execute(young).await?;
    let count = async |old: bool| -> anyhow::Result<i64> {
        let count = "SELECT count(*) FROM users.requests
                     WHERE (create_time < now() - interval '24 hours') = $1";
        Ok(owner.query_one(count, &[&old]).await?.get(0))
    };
    // Some with the first, the rest with those that come later.
    let mut created = 0;
    while count(true).await? > 0 {
        ensure!(created < 200, "{} are left", count(true).await?);
        let new = user("Someone", &format!("someone{created}@example.com"));
        users.create_user(under(&id(), new)).await?;
        created += 1;
        assert_eq!(count(false).await?, 10 + created);
    }
    assert!(created > 1, "some at a time");
    system.finish().await
}
