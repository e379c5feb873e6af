//! Rows of users/v2.

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

use super::{Query, Remembered, Rows, V2};
use crate::{
    listing::{By, Page, Wanted},
    schema::v2::users,
    user::{Change, Field, NewUser, User, UserId},
};

super::version!(V2, "v2", &[Field::Name, Field::Email, Field::Age, Field::City], {
    name: sql_types::Text,
    email: sql_types::Text,
    age: sql_types::Nullable<sql_types::Int4>,
    city: sql_types::Nullable<sql_types::Text>,
});

#[derive(Queryable, Selectable)]
#[diesel(table_name = users, check_for_backend(Pg))]
struct Row {
    id: i32,
    name: String,
    email: String,
    age: Option<i32>,
    city: Option<String>,
}

#[derive(Insertable)]
#[diesel(table_name = users)]
struct Insert {
    name: String,
    email: String,
    age: Option<i32>,
    city: Option<String>,
}

#[derive(AsChangeset)]
#[diesel(table_name = users)]
struct Set {
    name: Option<String>,
    email: Option<String>,
    age: Option<Option<i32>>,
    city: Option<Option<String>>,
}

impl From<Row> for User {
    fn from(row: Row) -> Self {
        Self {
            id: UserId::of_row(row.id),
            name: row.name,
            email: row.email,
            age: row.age,
            city: row.city,
        }
    }
}

impl From<NewUser> for Insert {
    fn from(new: NewUser) -> Self {
        Self {
            name: new.name,
            email: new.email,
            age: new.age,
            city: new.city,
        }
    }
}

impl From<Change> for Set {
    fn from(change: Change) -> Self {
        Self {
            name: change.name,
            email: change.email,
            age: change.age,
            city: change.city,
        }
    }
}
