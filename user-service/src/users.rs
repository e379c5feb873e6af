//! What can be done with the users of one version. The same for all versions.

use std::{marker::PhantomData, time::Duration};

use branch_pool::BranchPool;
use diesel_async::{AsyncPgConnection, pooled_connection::PoolableConnection};
use rpc::{page::PageTokens, status::FieldViolations};

pub use crate::store::{Query, V1, V2, Version};
use crate::{
    error::Error,
    user::{Change, NewUser, User, UserId},
};

/// How long one query may take, in seconds, for callers that set no deadline.
/// Each reads or writes by a key.
const QUERY_SECONDS_MAX: u64 = 15;

/// The users of the version `V`, on its branch.
pub struct Users<V> {
    pool: BranchPool,
    tokens: PageTokens,
    version: PhantomData<V>,
}

/// A page of users to fetch, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The most users.
    pub size: usize,
    /// The last user of the page before.
    pub after: Option<UserId>,
}

impl<V: Version> Users<V> {
    /// On the branch that `pool` follows.
    pub fn new(pool: BranchPool, tokens: PageTokens) -> Self {
        Self {
            pool,
            tokens,
            version: PhantomData,
        }
    }

    /// The user with the id.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], and what the database does.
    pub async fn get(&self, id: UserId) -> Result<User, Error> {
        let user = self
            .run("get a user", |connection| V::user_fetch(connection, id))
            .await?;
        user.ok_or_else(|| not_found::<V>("id", id))
    }

    /// The page that a request asks for.
    ///
    /// # Errors
    /// Violations of page_size and page_token.
    pub fn page(&self, size: i32, token: &str) -> Result<Page, FieldViolations> {
        page::<V>(&self.tokens, size, token)
    }

    /// A page of users by id, and the token of the next; empty: there is none.
    ///
    /// # Errors
    /// What the database does.
    pub async fn list(&self, page: Page) -> Result<(Vec<User>, String), Error> {
        // One more than asked for tells whether there is a next page.
        let count = page.size + 1;
        let mut users = self
            .run("list users", |connection| {
                V::user_page(connection, page.after, count)
            })
            .await?;
        let more = users.len() > page.size;
        users.truncate(page.size);
        let next = match users.last() {
            Some(last) if more => token::<V>(&self.tokens, last.id),
            _ => String::new(),
        };
        Ok((users, next))
    }

    /// Makes a user.
    ///
    /// # Errors
    /// [`Error::EmailTaken`], [`Error::UnknownOutcome`], and what the database does.
    pub async fn create(&self, new: NewUser) -> Result<User, Error> {
        let email = new.email.clone();
        self.run("create a user", |connection| {
            V::user_insert(connection, new)
        })
        .await
        .map_err(|error| taken::<V>(error.of_unrepeatable(), email))
    }

    /// Changes a user; changes nothing and answers the user when `change` is
    /// empty.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::EmailTaken`], and what the database does.
    pub async fn update(&self, id: UserId, change: Change) -> Result<User, Error> {
        let email = change.email.clone().unwrap_or_default();
        let user = self
            .run("update a user", |connection| {
                if change.is_empty() {
                    V::user_fetch(connection, id)
                } else {
                    V::user_update(connection, id, change)
                }
            })
            .await
            .map_err(|error| taken::<V>(error, email))?;
        user.ok_or_else(|| not_found::<V>("user.id", id))
    }

    /// Deletes a user.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], and what the database does.
    pub async fn delete(&self, id: UserId) -> Result<(), Error> {
        let deleted = self
            .run("delete a user", |connection| V::user_delete(connection, id))
            .await?;
        if deleted {
            Ok(())
        } else {
            Err(not_found::<V>("id", id))
        }
    }

    async fn run<T>(
        &self,
        action: &'static str,
        query: impl FnOnce(&mut AsyncPgConnection) -> Query<'_, T>,
    ) -> Result<T, Error> {
        let connection = self
            .pool
            .get()
            .await
            .map_err(|source| Error::NoConnection {
                action,
                source: Box::new(source),
            })?;
        let waited = Duration::from_secs(QUERY_SECONDS_MAX);
        // Dropped with the query under way, here or with the whole call when its
        // deadline passes, the connection leaves the pool and the query ends.
        let mut work = connection.begin();
        match tokio::time::timeout(waited, query(&mut work)).await {
            Ok(outcome) => {
                let mut connection = work.finish();
                outcome.map_err(|source| Error::of_query(action, source, connection.is_broken()))
            }
            Err(_) => Err(Error::NoAnswer { action, waited }),
        }
    }
}

impl<V: Version> std::fmt::Debug for Users<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users")
            .field("service", &V::SERVICE)
            .finish_non_exhaustive()
    }
}

fn page<V: Version>(tokens: &PageTokens, size: i32, token: &str) -> Result<Page, FieldViolations> {
    let mut violations = FieldViolations::new();
    let size = violations.take(rpc::page::page_size(size));
    let cursor = violations.take(tokens.decode(V::SERVICE, "", token));
    match (size, cursor) {
        (Some(size), Some(cursor)) => Ok(Page {
            size,
            // Signed by this service, so it is four bytes long.
            after: cursor
                .and_then(|bytes| bytes.try_into().ok())
                .map(|bytes| UserId::of_row(i32::from_be_bytes(bytes))),
        }),
        _ => Err(violations),
    }
}

fn token<V: Version>(tokens: &PageTokens, last: UserId) -> String {
    tokens.encode(V::SERVICE, "", last.get().to_be_bytes())
}

fn not_found<V: Version>(field: &'static str, id: UserId) -> Error {
    Error::UserNotFound {
        type_name: V::TYPE,
        field,
        id,
    }
}

fn taken<V: Version>(error: Error, email: String) -> Error {
    if error.is_email_taken() {
        Error::EmailTaken {
            type_name: V::TYPE,
            email,
        }
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_to_the_next_page_of_its_own_version() {
        let tokens = PageTokens::random();
        let last = UserId::parse("id", 258).unwrap();
        let next = token::<V1>(&tokens, last);
        assert_eq!(
            page::<V1>(&tokens, 10, &next),
            Ok(Page {
                size: 10,
                after: Some(last)
            })
        );
        let refused = page::<V2>(&tokens, -1, &next).unwrap_err();
        let fields: Vec<_> = refused.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["page_size", "page_token"]);
        assert_eq!(
            page::<V2>(&tokens, 0, ""),
            Ok(Page {
                size: 100,
                after: None
            })
        );
    }
}
