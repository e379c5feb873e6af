//! users.v1 and users.v2: every call, and every bad input.

mod batches;
mod creates;
mod etags;
mod limits;
mod lists;
mod streams;

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
        name: name.to_owned(),
        email: email.to_owned(),
        ..Default::default()
    }
}

/// A request to create that user.
fn create(user: v1::User) -> v1::CreateUserRequest {
    v1::CreateUserRequest {
        user: Some(user),
        ..Default::default()
    }
}

/// The same of v2.
fn create2(user: v2::User) -> v2::CreateUserRequest {
    v2::CreateUserRequest {
        user: Some(user),
        ..Default::default()
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
    let request = create(user("Carol", "carol@example.com"));
    let carol = users
        .create_user(request.clone())
        .await?
        .into_inner()
        .user
        .context("a user")?;
    assert!(carol.id > 2, "{carol:?}");
    let get = v1::GetUserRequest { id: carol.id };
    let read = users.get_user(get).await?.into_inner().user;
    assert_eq!(read.as_ref(), Some(&carol));
    refused(
        users.create_user(request).await,
        Code::AlreadyExists,
        Some("user.email"),
    );

    let renamed = v1::User {
        name: "Caroline".to_owned(),
        email: "not looked at".to_owned(),
        etag: String::new(),
        ..carol.clone()
    };
    let update = v1::UpdateUserRequest {
        user: Some(renamed),
        update_mask: mask(&["name"]),
    };
    let changed = users.update_user(update).await?.into_inner().user;
    let changed = changed.context("a user")?;
    assert_ne!(changed.etag, carol.etag);
    let wanted = v1::User {
        name: "Caroline".to_owned(),
        etag: changed.etag.clone(),
        ..carol.clone()
    };
    assert_eq!(changed, wanted, "the mask alone decides");
    let taken = v1::UpdateUserRequest {
        user: Some(v1::User {
            email: "bob@example.com".to_owned(),
            ..wanted
        }),
        update_mask: mask(&["email"]),
    };
    refused(
        users.update_user(taken).await,
        Code::AlreadyExists,
        Some("user.email"),
    );

    let delete = v1::DeleteUserRequest {
        id: carol.id,
        ..Default::default()
    };
    users.delete_user(delete.clone()).await?;
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
        .create_user(create2(carol))
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
    let changed = changed.context("a user")?;
    let wanted = v2::User {
        age: Some(150),
        city: None,
        etag: changed.etag.clone(),
        ..created.clone()
    };
    assert_eq!(changed, wanted);
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
    let changed = changed.context("a user")?;
    let wanted = v2::User {
        age: Some(150),
        city: Some("Bern".to_owned()),
        etag: changed.etag.clone(),
        ..created.clone()
    };
    assert_eq!(changed, wanted);
    let delete = v2::DeleteUserRequest {
        id: created.id,
        ..Default::default()
    };
    users.delete_user(delete).await?;
    refused(users.get_user(get).await, Code::NotFound, None);
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
        let request = create(user(name, email));
        refused(v1.create_user(request).await, invalid, Some(field));
        let request = create2(user2(name, email));
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
    let none = v1::CreateUserRequest::default();
    refused(v1.create_user(none).await, invalid, Some("user"));
    let none = v1::UpdateUserRequest::default();
    refused(v1.update_user(none).await, invalid, Some("user"));
    let with_id = v1::User {
        id: 7,
        ..user("Carol", "carol@example.com")
    };
    let with_id = v1.create_user(create(with_id)).await;
    refused(with_id, invalid, Some("user.id"));
    let with_etag = v2::User {
        etag: "of somebody".to_owned(),
        ..user2("Carol", "carol@example.com")
    };
    let with_etag = v2.create_user(create2(with_etag)).await;
    refused(with_etag, invalid, Some("user.etag"));
    for request_id in ["x", "6b8b4567", "6b8b4567-327b-43c6-a43c-98696633487g"] {
        let request = v2::CreateUserRequest {
            request_id: request_id.to_owned(),
            ..create2(user2("Carol", "carol@example.com"))
        };
        refused(v2.create_user(request).await, invalid, Some("request_id"));
    }
    for (age, city, field) in [
        (Some(-1), None, "user.age"),
        (Some(151), None, "user.age"),
        (None, Some(long.clone()), "user.city"),
        (None, Some(String::new()), "user.city"),
        (None, Some("Zü\0rich".to_owned()), "user.city"),
    ] {
        let living = v2::User {
            id: 1,
            age,
            city,
            ..user2("Carol", "carol@example.com")
        };
        let request = v2::UpdateUserRequest {
            user: Some(living.clone()),
            update_mask: None,
        };
        refused(v2.update_user(request).await, invalid, Some(field));
        let new = create2(v2::User { id: 0, ..living });
        refused(v2.create_user(new).await, invalid, Some(field));
    }
    for paths in [
        &["nickname"][..],
        &["id"],
        &["etag"],
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
        let delete = v2::DeleteUserRequest {
            id,
            allow_missing: true,
            ..Default::default()
        };
        refused(v2.delete_user(delete).await, invalid, Some("id"));
        let update = v1::UpdateUserRequest {
            user: Some(v1::User {
                id,
                ..user("Carol", "carol@example.com")
            }),
            update_mask: None,
        };
        refused(v1.update_user(update).await, invalid, Some("user.id"));
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
