//! Rows of users/v1.

use diesel::{
    AsChangeset, ExpressionMethods, Insertable, IntoSql, OptionalExtension, PgExpressionMethods,
    QueryDsl, QueryResult, Queryable, Selectable, SelectableHelper,
    pg::Pg,
    query_builder::{AstPass, QueryFragment, QueryId},
    result::Error::NotFound,
    sql_types::{self, Int4, Record, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio_stream::StreamExt;
use uuid::Uuid;

use super::{Query, Remembered, Rows, V1};
use crate::{
    listing::{By, Page, Wanted},
    schema::v1::users,
    user::{Change, Field, NewUser, User, UserId},
};

super::version!(V1, "v1", &[Field::Name, Field::Email], {
    name: sql_types::Text,
    email: sql_types::Text,
});

#[derive(Queryable, Selectable)]
#[diesel(table_name = users, check_for_backend(Pg))]
struct Row {
    id: i32,
    name: String,
    email: String,
}

#[derive(Insertable)]
#[diesel(table_name = users)]
struct Insert {
    name: String,
    email: String,
}

#[derive(AsChangeset)]
#[diesel(table_name = users)]
struct Set {
    name: Option<String>,
    email: Option<String>,
}

impl From<Row> for User {
    fn from(row: Row) -> Self {
        Self {
            id: UserId::of_row(row.id),
            name: row.name,
            email: row.email,
            age: None,
            city: None,
        }
    }
}

impl From<NewUser> for Insert {
    fn from(new: NewUser) -> Self {
        Self {
            name: new.name,
            email: new.email,
        }
    }
}

impl From<Change> for Set {
    fn from(change: Change) -> Self {
        Self {
            name: change.name,
            email: change.email,
        }
    }
}
