//! The queries. Both versions ask the same of a table called `users` that has
//! other columns in each, so they are written once, and each version gives its
//! table and its rows.
//!
//! A write is read to the end of its answer, which comes when it is committed: its row
//! alone may come before.

use std::pin::Pin;

use diesel::QueryResult;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio_stream::Stream;
use uuid::Uuid;

use crate::{
    listing::Page,
    user::{Change, Field, NewUser, User, UserId},
};

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

/// Users as they come. The connection is busy until the end.
pub type Rows = Pin<Box<dyn Stream<Item = QueryResult<User>> + Send>>;

/// What is remembered of a request to create a user under an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The hash of the user as it was asked for.
    pub body: Vec<u8>,
    /// The user who was created.
    pub user: UserId,
}

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

    /// The users with these ids that are there, in no particular order, each once.
    fn users_fetch<'c>(
        connection: &'c mut AsyncPgConnection,
        ids: &[UserId],
    ) -> Query<'c, Vec<User>>;

    /// The users of a page, and one more if there is one.
    fn user_page(connection: &mut AsyncPgConnection, page: Page) -> Query<'_, Vec<User>>;

    /// All users, by one statement: as they are at one moment, in the order in which
    /// they are stored.
    fn user_stream(connection: &mut AsyncPgConnection) -> Query<'_, Rows>;

    /// Makes a user.
    fn user_insert(connection: &mut AsyncPgConnection, new: NewUser) -> Query<'_, User>;

    /// Makes a user under the id of the request, in one statement, unless the id is
    /// known; gives what is remembered of it then. The same id at the same time waits.
    fn user_insert_once(
        connection: &mut AsyncPgConnection,
        new: NewUser,
        request_id: Uuid,
    ) -> Query<'_, Remembered>;

    /// Changes a user in one statement; `change` must not be empty.
    fn user_update(
        connection: &mut AsyncPgConnection,
        id: UserId,
        change: Change,
    ) -> Query<'_, Option<User>>;

    /// The same of a user who is still as `known`.
    fn user_update_known(
        connection: &mut AsyncPgConnection,
        known: User,
        change: Change,
    ) -> Query<'_, Option<User>>;

    /// Deletes a user; false when there was none.
    fn user_delete(connection: &mut AsyncPgConnection, id: UserId) -> Query<'_, bool>;

    /// The same of a user who is still as `known`.
    fn user_delete_known(connection: &mut AsyncPgConnection, known: User) -> Query<'_, bool>;
}

/// Forgets requests of more than 24 hours ago, some at a time: twice as many as may
/// have come between two calls of this, so that it catches up. Those that somebody else
/// is forgetting are passed over, so nobody waits for anybody.
pub(crate) fn requests_forget(connection: &mut AsyncPgConnection) -> Query<'_, usize> {
    let query = diesel::sql_query(
        "DELETE FROM users.requests WHERE id = ANY (ARRAY(
             SELECT id FROM users.requests WHERE create_time < now() - interval '24 hours'
             ORDER BY create_time LIMIT 128 FOR UPDATE SKIP LOCKED))",
    );
    Box::pin(query.execute(connection))
}

/// After how many requests with ids some are forgotten: half of what is forgotten at
/// a time.
pub(crate) const REQUESTS_BETWEEN_FORGETTING: u32 = 64;

/// Implements [`Version`] for `$version` with the table `users`, its columns but the id
/// and their types, and the types `Row`, `Insert` and `Set` that are in scope.
macro_rules! version {
    ($version:ty, $name:literal, $fields:expr, { $($column:ident: $type:ty,)+ }) => {
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
                        .get_result(connection)
                        .await
                        .optional()?;
                    Ok(row.map(User::from))
                })
            }

            fn users_fetch<'c>(
                connection: &'c mut AsyncPgConnection,
                ids: &[UserId],
            ) -> Query<'c, Vec<User>> {
                let ids: Vec<i32> = ids.iter().map(|id| id.get()).collect();
                Box::pin(async move {
                    let rows = users::table
                        .filter(users::id.eq_any(ids))
                        .select(Row::as_select())
                        .load(connection)
                        .await?;
                    Ok(rows.into_iter().map(User::from).collect())
                })
            }

            fn user_page(connection: &mut AsyncPgConnection, page: Page) -> Query<'_, Vec<User>> {
                Box::pin(async move {
                    // One more than asked for tells whether there is a next page.
                    let count = i64::try_from(page.size + 1).unwrap_or(i64::MAX);
                    let mut query = users::table
                        .select(Row::as_select())
                        .limit(count)
                        .into_boxed::<Pg>();
                    crate::store::narrow!(query, users::name, page.name);
                    crate::store::narrow!(query, users::email, page.email);
                    let (after, down) = (page.after, page.order.down);
                    match page.order.by {
                        By::Id => {
                            let after = after.map(|place| place.id.get());
                            crate::store::sort!(query, users::id, [users::id], after, down);
                        }
                        By::Email => {
                            let after = after.map(|place| place.text);
                            crate::store::sort!(query, users::email, [users::email], after, down);
                        }
                        By::Name => {
                            // Compared as rows, so that an index finds the place among
                            // many of one name.
                            let key = (users::name, users::id).into_sql::<Record<(Text, Int4)>>();
                            let after = after.map(|place| (place.text, place.id.get()));
                            crate::store::sort!(query, key, [users::name, users::id], after, down);
                        }
                    }
                    let rows = query.load::<Row>(connection).await?;
                    Ok(rows.into_iter().map(User::from).collect())
                })
            }

            fn user_stream(connection: &mut AsyncPgConnection) -> Query<'_, Rows> {
                Box::pin(async move {
                    let rows = users::table
                        .select(Row::as_select())
                        .load_stream::<Row>(connection)
                        .await?;
                    let rows: Rows = Box::pin(rows.map(|row| row.map(User::from)));
                    Ok(rows)
                })
            }

            fn user_insert(connection: &mut AsyncPgConnection, new: NewUser) -> Query<'_, User> {
                Box::pin(async move {
                    let rows = diesel::insert_into(users::table)
                        .values(Insert::from(new))
                        .returning(Row::as_returning())
                        .load(connection)
                        .await?;
                    let row = rows.into_iter().next().ok_or(NotFound)?;
                    Ok(User::from(row))
                })
            }

            fn user_insert_once(
                connection: &mut AsyncPgConnection,
                new: NewUser,
                request_id: Uuid,
            ) -> Query<'_, Remembered> {
                Box::pin(async move {
                    let body = new.hash();
                    let insert = InsertOnce {
                        request_id,
                        body,
                        new,
                    };
                    let rows = insert.load::<(Vec<u8>, i32)>(connection).await?;
                    let (body, id) = rows.into_iter().next().ok_or(NotFound)?;
                    let user = UserId::of_row(id);
                    Ok(Remembered { body, user })
                })
            }

            fn user_update(
                connection: &mut AsyncPgConnection,
                id: UserId,
                change: Change,
            ) -> Query<'_, Option<User>> {
                Box::pin(async move {
                    let rows = diesel::update(users::table.find(id.get()))
                        .set(Set::from(change))
                        .returning(Row::as_returning())
                        .load(connection)
                        .await?;
                    Ok(rows.into_iter().next().map(User::from))
                })
            }

            fn user_update_known(
                connection: &mut AsyncPgConnection,
                known: User,
                change: Change,
            ) -> Query<'_, Option<User>> {
                Box::pin(async move {
                    let known = users::table
                        .find(known.id.get())
                        $(.filter(users::$column.is_not_distinct_from(known.$column)))+;
                    let rows = diesel::update(known)
                        .set(Set::from(change))
                        .returning(Row::as_returning())
                        .load(connection)
                        .await?;
                    Ok(rows.into_iter().next().map(User::from))
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

            fn user_delete_known(
                connection: &mut AsyncPgConnection,
                known: User,
            ) -> Query<'_, bool> {
                Box::pin(async move {
                    let known = users::table
                        .find(known.id.get())
                        $(.filter(users::$column.is_not_distinct_from(known.$column)))+;
                    let rows = diesel::delete(known).execute(connection).await?;
                    Ok(rows > 0)
                })
            }
        }

        /// Makes a user and remembers the request, or finds it remembered. An id that
        /// is being used waits for that to end; one that is known makes no user, since
        /// it keeps the user's id that it has.
        #[derive(QueryId)]
        struct InsertOnce {
            request_id: Uuid,
            body: Vec<u8>,
            new: NewUser,
        }

        impl diesel::query_builder::Query for InsertOnce {
            type SqlType = (sql_types::Bytea, sql_types::Int4);
        }

        impl QueryFragment<Pg> for InsertOnce {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
                out.push_sql(
                    "WITH next AS MATERIALIZED ( \
                         SELECT nextval('users.users_id_seq')::integer AS user_id \
                     ), request AS ( \
                         INSERT INTO users.requests (id, body, user_id) SELECT ",
                );
                out.push_bind_param::<sql_types::Uuid, _>(&self.request_id)?;
                out.push_sql(", ");
                out.push_bind_param::<sql_types::Bytea, _>(&self.body)?;
                out.push_sql(
                    ", user_id FROM next \
                         ON CONFLICT (id) DO UPDATE SET id = excluded.id \
                         RETURNING body, user_id \
                     ), made AS ( \
                         INSERT INTO users.users (id",
                );
                $(
                    out.push_sql(", ");
                    out.push_identifier(stringify!($column))?;
                )+
                out.push_sql(") SELECT user_id");
                $(
                    out.push_sql(", ");
                    out.push_bind_param::<$type, _>(&self.new.$column)?;
                )+
                out.push_sql(
                    " FROM request JOIN next USING (user_id) \
                     ) SELECT body, user_id FROM request",
                );
                Ok(())
            }
        }
    };
}

/// Adds to a boxed query what a column is to be like.
macro_rules! narrow {
    ($query:ident, $column:expr, $wanted:expr) => {
        match $wanted {
            None => {}
            Some(Wanted::Is(text)) => $query = $query.filter($column.eq(text)),
            Some(Wanted::Begins { from, to }) => {
                $query = $query.filter($column.ge(from));
                if let Some(to) = to {
                    $query = $query.filter($column.lt(to));
                }
            }
        }
    };
}

/// Sorts a boxed query by columns, up or down, and has it begin after a place: their
/// values as `$key` has them.
macro_rules! sort {
    ($query:ident, $key:expr, [$($column:expr),+], $after:expr, $down:expr) => {
        $query = if $down {
            $query.order(($($column.desc(),)+))
        } else {
            $query.order(($($column.asc(),)+))
        };
        if let Some(after) = $after {
            $query = if $down {
                $query.filter($key.lt(after))
            } else {
                $query.filter($key.gt(after))
            };
        }
    };
}

use {narrow, sort, version};
