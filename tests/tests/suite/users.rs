//! users.v1 and users.v2: every call, and every bad input.

use anyhow::Context;
use prost_types::FieldMask;
use proto::users::{v1, v2};
use suite::System;
use tonic::Code;

use crate::details::refused;

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    })
}

fn user(name: &str, email: &str) -> v1::User {
    v1::User {
        id: 0,
        name: name.to_owned(),
        email: email.to_owned(),
    }
}

fn user2(name: &str, email: &str) -> v2::User {
    v2::User {
        name: name.to_owned(),
        email: email.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn v1_creates_reads_changes_and_deletes() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    let create = v1::CreateUserRequest {
        user: Some(user("Carol", "carol@example.com")),
    };
    let carol = users
        .create_user(create.clone())
        .await?
        .into_inner()
        .user
        .context("a user")?;
    assert!(carol.id > 2, "{carol:?}");
    let get = v1::GetUserRequest { id: carol.id };
    let read = users.get_user(get).await?.into_inner().user;
    assert_eq!(read.as_ref(), Some(&carol));
    refused(
        users.create_user(create).await,
        Code::AlreadyExists,
        Some("user.email"),
    );

    let renamed = v1::User {
        name: "Caroline".to_owned(),
        email: "not looked at".to_owned(),
        ..carol.clone()
    };
    let update = v1::UpdateUserRequest {
        user: Some(renamed),
        update_mask: mask(&["name"]),
    };
    let changed = users.update_user(update).await?.into_inner().user;
    let wanted = v1::User {
        name: "Caroline".to_owned(),
        ..carol.clone()
    };
    assert_eq!(changed, Some(wanted), "the mask alone decides");
    let taken = v1::UpdateUserRequest {
        user: Some(v1::User {
            email: "bob@example.com".to_owned(),
            ..carol.clone()
        }),
        update_mask: mask(&["email"]),
    };
    refused(
        users.update_user(taken).await,
        Code::AlreadyExists,
        Some("user.email"),
    );

    let delete = v1::DeleteUserRequest { id: carol.id };
    users.delete_user(delete).await?;
    refused(users.delete_user(delete).await, Code::NotFound, None);
    refused(users.get_user(get).await, Code::NotFound, None);
    system.finish().await
}

#[tokio::test]
async fn v2_knows_age_and_city() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v2().await?;
    let carol = v2::User {
        age: Some(0),
        city: Some("Zürich".to_owned()),
        ..user2("Carol", "carol@example.com")
    };
    let created = users
        .create_user(v2::CreateUserRequest { user: Some(carol) })
        .await?
        .into_inner()
        .user
        .context("a user")?;
    assert_eq!(
        (created.age, created.city.as_deref()),
        (Some(0), Some("Zürich"))
    );
    let get = v2::GetUserRequest { id: created.id };
    let read = users.get_user(get).await?.into_inner().user;
    assert_eq!(read.as_ref(), Some(&created));

    // A masked field that is left out is cleared.
    let update = v2::UpdateUserRequest {
        user: Some(v2::User {
            id: created.id,
            age: Some(150),
            ..Default::default()
        }),
        update_mask: mask(&["age", "city"]),
    };
    let changed = users.update_user(update).await?.into_inner().user;
    let wanted = v2::User {
        age: Some(150),
        city: None,
        ..created.clone()
    };
    assert_eq!(changed, Some(wanted));
    // Without a mask, what is set changes.
    let update = v2::UpdateUserRequest {
        user: Some(v2::User {
            id: created.id,
            city: Some("Bern".to_owned()),
            ..Default::default()
        }),
        update_mask: None,
    };
    let changed = users.update_user(update).await?.into_inner().user;
    let wanted = v2::User {
        age: Some(150),
        city: Some("Bern".to_owned()),
        ..created.clone()
    };
    assert_eq!(changed, Some(wanted));
    users
        .delete_user(v2::DeleteUserRequest { id: created.id })
        .await?;
    refused(users.get_user(get).await, Code::NotFound, None);
    system.finish().await
}

#[tokio::test]
async fn pages_are_whole_and_tokens_are_not_to_be_forged() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    for number in 0..5 {
        let request = v1::CreateUserRequest {
            user: Some(user("Someone", &format!("someone{number}@example.com"))),
        };
        users.create_user(request).await?;
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListUsersRequest {
            page_size: 3,
            page_token: page_token.clone(),
        };
        let page = users.list_users(request).await?.into_inner();
        assert!((1..=3).contains(&page.users.len()));
        seen.extend(page.users.iter().map(|user| user.id));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
        // Neither a row that comes nor one that goes moves the others.
        let late = v1::CreateUserRequest {
            user: Some(user("Late", &format!("late{}@example.com", seen.len()))),
        };
        users.create_user(late).await?;
        let first = v1::DeleteUserRequest { id: seen[0] };
        let _ = users.delete_user(first).await;
    }
    let mut sorted = seen.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(seen, sorted, "in order, none twice");
    for id in 1..=7 {
        assert!(seen.contains(&id), "{id} of {seen:?}");
    }

    let other = system
        .users_v2()
        .await?
        .list_users(v2::ListUsersRequest {
            page_size: 1,
            ..Default::default()
        })
        .await?
        .into_inner()
        .next_page_token;
    assert!(!other.is_empty());
    let mut tampered = page_token.clone();
    let last = if tampered.ends_with('A') { 'B' } else { 'A' };
    tampered.replace_range(tampered.len() - 1.., &last.to_string());
    for token in ["x", "MTA", &tampered, &other] {
        let request = v1::ListUsersRequest {
            page_size: 3,
            page_token: token.to_owned(),
        };
        refused(
            users.list_users(request).await,
            Code::InvalidArgument,
            Some("page_token"),
        );
    }
    for page_size in [-1, 1_001, i32::MIN] {
        let request = v1::ListUsersRequest {
            page_size,
            page_token: String::new(),
        };
        refused(
            users.list_users(request).await,
            Code::InvalidArgument,
            Some("page_size"),
        );
    }
    system.finish().await
}

#[tokio::test]
async fn bad_input_names_its_field_and_changes_nothing() -> anyhow::Result<()> {
    let system = System::start().await?;
    let (mut v1, mut v2) = (system.users_v1().await?, system.users_v2().await?);
    let long = "x".repeat(201);
    let invalid = Code::InvalidArgument;
    for (name, email, field) in [
        ("", "carol@example.com", "user.name"),
        ("  ", "carol@example.com", "user.name"),
        (&*long, "carol@example.com", "user.name"),
        ("Ca\0rol", "carol@example.com", "user.name"),
        ("Carol", "", "user.email"),
        ("Carol", "carol", "user.email"),
        ("Carol", "carol@", "user.email"),
        ("Carol", "carol at example.com", "user.email"),
    ] {
        let request = v1::CreateUserRequest {
            user: Some(user(name, email)),
        };
        refused(v1.create_user(request).await, invalid, Some(field));
        let request = v2::CreateUserRequest {
            user: Some(user2(name, email)),
        };
        refused(v2.create_user(request).await, invalid, Some(field));
        let request = v1::UpdateUserRequest {
            user: Some(v1::User {
                id: 1,
                ..user(name, email)
            }),
            update_mask: mask(&["name", "email"]),
        };
        refused(v1.update_user(request).await, invalid, Some(field));
    }
    let none = v1::CreateUserRequest { user: None };
    refused(v1.create_user(none).await, invalid, Some("user"));
    let with_id = v1::CreateUserRequest {
        user: Some(v1::User {
            id: 7,
            ..user("Carol", "carol@example.com")
        }),
    };
    refused(v1.create_user(with_id).await, invalid, Some("user.id"));
    for (age, city, field) in [
        (Some(-1), None, "user.age"),
        (Some(151), None, "user.age"),
        (None, Some(long.clone()), "user.city"),
    ] {
        let request = v2::CreateUserRequest {
            user: Some(v2::User {
                age,
                city,
                ..user2("Carol", "carol@example.com")
            }),
        };
        refused(v2.create_user(request).await, invalid, Some(field));
    }
    for paths in [
        &["nickname"][..],
        &["id"],
        &["user.name"],
        &["age"],
        &["name", "*"],
    ] {
        let request = v1::UpdateUserRequest {
            user: Some(v1::User {
                id: 1,
                ..user("Carol", "carol@example.com")
            }),
            update_mask: mask(paths),
        };
        refused(v1.update_user(request).await, invalid, Some("update_mask"));
    }
    for id in [0, -1, i32::MIN] {
        refused(
            v1.get_user(v1::GetUserRequest { id }).await,
            invalid,
            Some("id"),
        );
        refused(
            v2.get_user(v2::GetUserRequest { id }).await,
            invalid,
            Some("id"),
        );
        refused(
            v1.delete_user(v1::DeleteUserRequest { id }).await,
            invalid,
            Some("id"),
        );
    }
    let missing = v1::UpdateUserRequest {
        user: Some(v1::User {
            id: 4_711,
            ..user("Carol", "carol@example.com")
        }),
        update_mask: mask(&["name"]),
    };
    refused(v1.update_user(missing).await, Code::NotFound, None);
    let get = v2::GetUserRequest { id: 4_711 };
    refused(v2.get_user(get).await, Code::NotFound, None);

    let users = v1
        .list_users(v1::ListUsersRequest::default())
        .await?
        .into_inner();
    let names: Vec<_> = users.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["Alice", "Bob"], "nothing changed");
    system.finish().await
}
