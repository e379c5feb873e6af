//! The messages of users.v2, as far as they are measured.
#![allow(
    clippy::needless_update,
    reason = "fields that are added to the messages stay empty here"
)]

use proto::users::v2::{
    GetUserRequest, GetUserResponse, ListUsersRequest, ListUsersResponse, User,
};
use tokio_postgres::Row;

use crate::wire::Call;

pub(super) const GET: &str = "/users.v2.UserService/GetUser";
pub(super) const LIST: &str = "/users.v2.UserService/ListUsers";
/// The columns that [`of_row`] reads, in their order.
pub(super) const COLUMNS: &str = "id, name, email, age, city";
/// As the issue has it.
pub(super) const PAGE_ROWS: i32 = 100;

pub(super) fn get_user(id: i32) -> Call {
    let request = GetUserRequest {
        id,
        ..GetUserRequest::default()
    };
    Call::new(GET, &request)
}

pub(super) fn list_users(page_token: &str) -> Call {
    let request = ListUsersRequest {
        page_size: PAGE_ROWS,
        page_token: page_token.to_owned(),
        ..ListUsersRequest::default()
    };
    Call::new(LIST, &request)
}

pub(super) fn found(user: User) -> GetUserResponse {
    GetUserResponse {
        user: Some(user),
        ..GetUserResponse::default()
    }
}

pub(super) fn page(users: Vec<User>, next_page_token: String) -> ListUsersResponse {
    ListUsersResponse {
        users,
        next_page_token,
        ..ListUsersResponse::default()
    }
}

pub(super) fn of_row(row: &Row) -> Result<User, tokio_postgres::Error> {
    Ok(User {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        email: row.try_get(2)?,
        age: row.try_get(3)?,
        city: row.try_get(4)?,
        ..User::default()
    })
}
