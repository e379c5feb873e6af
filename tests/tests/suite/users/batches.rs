//! Many users by their ids.

use anyhow::Context;
use proto::users::{v1, v2};
use suite::System;
use tonic::Code;
use tonic_types::StatusExt;

use super::{create, user};
use crate::details::refused;

#[tokio::test]
async fn users_come_in_the_order_in_which_they_are_asked_for() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    for number in 0..3 {
        let new = user("Someone", &format!("someone{number}@example.com"));
        users.create_user(create(new)).await?;
    }
    let mut get = async |ids: Vec<i32>| {
        let request = v1::BatchGetUsersRequest { ids };
        users.batch_get_users(request).await
    };
    let got = get(vec![4, 1, 4, 2]).await?.into_inner().users;
    assert!(got.iter().map(|user| user.id).eq([4, 1, 4, 2]), "{got:?}");
    assert_eq!(got[0], got[2], "asked for twice, there twice");
    assert_eq!(got[1].name, "Alice");
    let single = system.users_v1().await?;
    let alice = single
        .clone()
        .get_user(v1::GetUserRequest { id: 1 })
        .await?;
    let alice = alice.into_inner().user.context("a user")?;
    assert_eq!(got[1], alice, "with its etag");
    let many: Vec<i32> = (0..1_000).map(|number| number % 5 + 1).collect();
    let got = get(many.clone()).await?.into_inner().users;
    assert!(got.iter().map(|user| user.id).eq(many));

    // All or none, and all that are missing are named.
    let status = refused(get(vec![1, 4_711, 2, 4_712]).await, Code::NotFound, None);
    let bad = status.get_details_bad_request().context("fields")?;
    let fields: Vec<_> = bad.field_violations.iter().map(|v| &*v.field).collect();
    assert_eq!(fields, ["ids[1]", "ids[3]"], "{status:?}");
    let info = status.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "USER_NOT_FOUND");
    // More than a header takes.
    let none: Vec<i32> = (10_000..11_000).collect();
    let status = refused(get(none).await, Code::NotFound, Some("ids[0]"));
    assert!(status.message().contains("999 more"), "{status:?}");
    system.finish().await
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused_by_its_field() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v2().await?;
    for (ids, field) in [
        (vec![], "ids"),
        (vec![1; 1_001], "ids"),
        (vec![1, 2, 0], "ids[2]"),
        (vec![-1], "ids[0]"),
        (vec![i32::MIN; 1_000], "ids[31]"),
    ] {
        let request = v2::BatchGetUsersRequest { ids };
        let answer = users.batch_get_users(request).await;
        refused(answer, Code::InvalidArgument, Some(field));
    }
    let request = v2::BatchGetUsersRequest { ids: vec![2, 1] };
    let got = users.batch_get_users(request).await?.into_inner().users;
    let ages: Vec<_> = got.iter().map(|user| user.age).collect();
    assert_eq!(ages, [Some(30), Some(25)]);
    system.finish().await
}
