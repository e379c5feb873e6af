//! The queries. Both versions ask the same of a table called `users` that has
//! other columns in each, so they are written once, and each version gives its
//! table and its rows.

use std::pin::Pin;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;

use crate::user::{Change, Field, NewUser, User, UserId};

mod v1;
mod v2;

/// The branch of users/v1.
#[derive(Debug, Clone, Copy)]
pub enum V1 {}

/// The branch of users/v2.
#[derive(Debug, Clone, Copy)]
pub enum V2 {}

/// A query under way on a borrowed connection.
pub type Query<'c, T> = Pin<Box<dyn Future<Output = QueryResult<T>> + Send + 'c>>;

/// What an API version is called, and its queries.
pub trait Version: Send + Sync + 'static {
    /// The binding's version, as in `v1`.
    const NAME: &'static str;
    /// The gRPC service, as in `users.v1.UserService`.
    const SERVICE: &'static str;
    /// The resource type, as in `users.v1.User`.
    const TYPE: &'static str;
    /// What a request can change.
    const FIELDS: &'static [Field];

    /// The user with the id.
    fn user_fetch(connection: &mut AsyncPgConnection, id: UserId) -> Query<'_, Option<User>>;

    /// At most `count` users with ids above `after`, by id.
    fn user_page(
        connection: &mut AsyncPgConnection,
        after: Option<UserId>,
        count: usize,
    ) -> Query<'_, Vec<User>>;

    /// Makes a user.
    fn user_insert(connection: &mut AsyncPgConnection, new: NewUser) -> Query<'_, User>;

    /// Changes a user in one statement; `change` must not be empty.
    fn user_update(
        connection: &mut AsyncPgConnection,
        id: UserId,
        change: Change,
    ) -> Query<'_, Option<User>>;

    /// Deletes a user; false when there was none.
    fn user_delete(connection: &mut AsyncPgConnection, id: UserId) -> Query<'_, bool>;
}

/// Implements [`Version`] for `$version` with the table `users` and the types
/// `Row`, `Insert` and `Set` that are in scope.
macro_rules! version {
    ($version:ty, $name:literal, $fields:expr) => {
        impl crate::store::Version for $version {
            const NAME: &'static str = $name;
            const SERVICE: &'static str = concat!("users.", $name, ".UserService");
            const TYPE: &'static str = concat!("users.", $name, ".User");
            const FIELDS: &'static [Field] = $fields;

            fn user_fetch(
                connection: &mut AsyncPgConnection,
                id: UserId,
            ) -> Query<'_, Option<User>> {
                Box::pin(async move {
                    let row = users::table
                        .find(id.get())
                        .select(Row::as_select())
                        .first(connection)
                        .await
                        .optional()?;
                    Ok(row.map(User::from))
                })
            }

            fn user_page(
                connection: &mut AsyncPgConnection,
                after: Option<UserId>,
                count: usize,
            ) -> Query<'_, Vec<User>> {
                // Ids start at 1.
                let after = after.map_or(0, UserId::get);
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                Box::pin(async move {
                    let rows = users::table
                        .filter(users::id.gt(after))
                        .order(users::id)
                        .limit(count)
                        .select(Row::as_select())
                        .load(connection)
                        .await?;
                    Ok(rows.into_iter().map(User::from).collect())
                })
            }

            fn user_insert(connection: &mut AsyncPgConnection, new: NewUser) -> Query<'_, User> {
                Box::pin(async move {
                    let row = diesel::insert_into(users::table)
                        .values(Insert::from(new))
                        .returning(Row::as_returning())
                        .get_result(connection)
                        .await?;
                    Ok(User::from(row))
                })
            }

            fn user_update(
                connection: &mut AsyncPgConnection,
                id: UserId,
                change: Change,
            ) -> Query<'_, Option<User>> {
                Box::pin(async move {
                    let row = diesel::update(users::table.find(id.get()))
                        .set(Set::from(change))
                        .returning(Row::as_returning())
                        .get_result(connection)
                        .await
                        .optional()?;
                    Ok(row.map(User::from))
                })
            }

            fn user_delete(connection: &mut AsyncPgConnection, id: UserId) -> Query<'_, bool> {
                Box::pin(async move {
                    let rows = diesel::delete(users::table.find(id.get()))
                        .execute(connection)
                        .await?;
                    Ok(rows > 0)
                })
            }
        }
    };
}
use version;
