//! What can be done with the users of one version. The same for all versions.

mod by_id;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering},
};

use branch_pool::{BranchPool, Effect};
use diesel_async::AsyncPgConnection;
use rpc::{page::PageTokens, status::FieldViolations};
use uuid::Uuid;

pub use crate::store::{Query, Rows, V1, V2, Version};
use crate::{
    error::Error,
    listing::{Asked, Page},
    lookups::{Limits, Lookups},
    store,
    streams::Pieces,
    user::{Change, NewUser, User, UserId},
};
use by_id::ById;

/// The users of the version `V`, on its branch.
pub struct Users<V: Version> {
    pool: BranchPool,
    lookups: Lookups<ById<V>>,
    tokens: PageTokens,
    /// Users that were created under ids.
    created: AtomicU32,
}

impl<V: Version> Users<V> {
    /// On the branch that `pool` follows.
    pub fn new(pool: BranchPool, tokens: PageTokens) -> Self {
        Self {
            lookups: Lookups::new(ById::new(pool.clone()), Limits::default()),
            pool,
            tokens,
            created: AtomicU32::new(0),
        }
    }

    /// The user with the id, as whatever was written before has it. Calls that come
    /// together share a query.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], and what the database does.
    pub async fn get(&self, id: UserId) -> Result<User, Error> {
        let user = self.lookups.get(id).await?;
        user.ok_or_else(|| not_found::<V>("id", id))
    }

    /// The users with these ids, in this order, all of them, as whatever was written
    /// before has them.
    ///
    /// # Errors
    /// [`Error::UsersNotFound`], and what the database does.
    pub async fn batch_get(&self, ids: &[UserId]) -> Result<Vec<User>, Error> {
        let mut asked = ids.to_vec();
        asked.sort_unstable();
        asked.dedup();
        let found = self
            .run("get users", Effect::ReadPrimary, |connection| {
                V::users_fetch(connection, &asked)
            })
            .await?;
        in_order(ids, found).map_err(|missing| Error::UsersNotFound {
            type_name: V::TYPE,
            missing,
        })
    }

    /// The page that a request asks for.
    ///
    /// # Errors
    /// Violations of page_size, page_token, filter and order_by.
    pub fn page(&self, asked: Asked<'_>) -> Result<Page, FieldViolations> {
        Page::of(&self.tokens, V::SERVICE, asked)
    }

    /// A page of users, and the token of the next; empty: there is none. Of the binding's
    /// read-only endpoint where it has one, so it may be a moment behind.
    ///
    /// # Errors
    /// What the database does.
    pub async fn list(&self, page: Page) -> Result<(Vec<User>, String), Error> {
        let mut users = self
            .run("list users", Effect::Read, |connection| {
                V::user_page(connection, page.clone())
            })
            .await?;
        let next = page.cut(&self.tokens, V::SERVICE, &mut users);
        Ok((users, next))
    }

    /// All users, from where pages come from. The connection is checked out until the
    /// stream ends or is dropped.
    ///
    /// # Errors
    /// What the database does, here or in the stream.
    pub async fn stream(&self) -> Result<Pieces, Error> {
        let action = "stream users";
        let begun = self.pool.begin(Effect::Read, V::user_stream).await;
        let (rows, work) = begun.map_err(|error| Error::of_work(action, Effect::Read, error))?;
        Ok(Pieces::begin(action, rows, work))
    }

    /// Makes a user. Under an id the same user is made once.
    ///
    /// # Errors
    /// [`Error::EmailTaken`], [`Error::UnknownOutcome`] without an id,
    /// [`Error::RequestIdReused`] with one, and what the database does.
    pub async fn create(&self, new: NewUser, request_id: Option<Uuid>) -> Result<User, Error> {
        let email = new.email.clone();
        let created = match request_id {
            Some(request_id) => self.create_once(new, request_id).await,
            None => {
                self.run(CREATE, Effect::Once, |connection| {
                    V::user_insert(connection, new.clone())
                })
                .await
            }
        };
        created.map_err(|error| taken::<V>(error, email))
    }

    /// Changes a user; changes nothing and answers the user when `change` is
    /// empty. `etag`: what the user is to have still.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::EtagMismatch`], [`Error::EmailTaken`],
    /// [`Error::UnknownOutcome`] with an etag, and what the database does.
    pub async fn update(
        &self,
        id: UserId,
        change: Change,
        etag: Option<&str>,
    ) -> Result<User, Error> {
        const ACTION: &str = "update a user";
        let Some(etag) = etag else {
            if change.is_empty() {
                let user = self.current(id).await?;
                return user.ok_or_else(|| not_found::<V>("user.id", id));
            }
            let email = change.email.clone().unwrap_or_default();
            let user = self
                // What others have written since the first time would be gone after a
                // second one.
                .run(ACTION, Effect::Once, |connection| {
                    V::user_update(connection, id, change.clone())
                })
                .await
                // Who names no etag means to write over whatever is there.
                .map_err(|error| taken::<V>(error.of_repeatable(), email))?;
            return user.ok_or_else(|| not_found::<V>("user.id", id));
        };
        let known = self.known(id, etag).await?;
        let known = known.ok_or_else(|| not_found::<V>("user.id", id))?;
        if change.is_empty() {
            return Ok(known);
        }
        let email = change.email.clone().unwrap_or_default();
        // The answer to a second one would be that somebody has changed the user.
        let user = self
            .run(ACTION, Effect::Once, |connection| {
                V::user_update_known(connection, known.clone(), change.clone())
            })
            .await
            .map_err(|error| taken::<V>(error, email))?;
        match user {
            Some(user) => Ok(user),
            // Deleted meanwhile, or the binding leads to another branch by now.
            None if self.current(id).await?.is_none() => Err(not_found::<V>("user.id", id)),
            None => Err(changed::<V>(id)),
        }
    }

    /// Deletes a user. `etag`: what the user is to have still. `allow_missing`:
    /// whether it is as good if there is none.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::EtagMismatch`], [`Error::UnknownOutcome`]
    /// without `allow_missing`, and what the database does.
    pub async fn delete(
        &self,
        id: UserId,
        etag: Option<&str>,
        allow_missing: bool,
    ) -> Result<(), Error> {
        let missing = || match allow_missing {
            true => Ok(()),
            false => Err(not_found::<V>("id", id)),
        };
        let known = match etag {
            Some(etag) => match self.known(id, etag).await? {
                Some(known) => Some(known),
                None => return missing(),
            },
            None => None,
        };
        let effect = match allow_missing {
            true => Effect::Repeatable,
            false => Effect::Once,
        };
        let deleted = self
            .run("delete a user", effect, |connection| match &known {
                Some(known) => V::user_delete_known(connection, known.clone()),
                None => V::user_delete(connection, id),
            })
            .await?;
        if deleted {
            Ok(())
        } else if known.is_some() && self.current(id).await?.is_some() {
            Err(changed::<V>(id))
        } else {
            missing()
        }
    }

    async fn create_once(&self, new: NewUser, request_id: Uuid) -> Result<User, Error> {
        let remembered = self
            .run(CREATE, Effect::Repeatable, |connection| {
                V::user_insert_once(connection, new.clone(), request_id)
            })
            .await?;
        if remembered.body != new.hash() {
            return Err(Error::RequestIdReused { request_id });
        }
        let before = self.created.fetch_add(1, Ordering::Relaxed);
        if before.is_multiple_of(store::REQUESTS_BETWEEN_FORGETTING) {
            tokio::spawn(forget_requests(self.pool.clone()));
        }
        // What it is by now does not matter: this is the first answer.
        Ok(new.created(remembered.user))
    }

    /// The user who has that etag; none when there is none with the id.
    async fn known(&self, id: UserId, etag: &str) -> Result<Option<User>, Error> {
        match self.current(id).await? {
            Some(user) if user.etag() != etag => Err(changed::<V>(id)),
            user => Ok(user),
        }
    }

    /// The user as it is now, and not a moment ago: to be changed.
    async fn current(&self, id: UserId) -> Result<Option<User>, Error> {
        self.run("look at a user", Effect::ReadPrimary, |connection| {
            V::user_fetch(connection, id)
        })
        .await
    }

    /// Runs a query on a connection of the pool.
    async fn run<T>(
        &self,
        action: &'static str,
        effect: Effect,
        query: impl FnMut(&mut AsyncPgConnection) -> Query<'_, T>,
    ) -> Result<T, Error> {
        run(&self.pool, action, effect, query).await
    }
}

/// That it fails is nobody's trouble: others come after it.
async fn forget_requests(pool: BranchPool) {
    let forgotten = run(&pool, "forget requests", Effect::Repeatable, |connection| {
        store::requests_forget(connection)
    });
    match forgotten.await {
        Ok(count) => tracing::debug!(count, "forgot requests"),
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "cannot forget requests"
            );
        }
    }
}

async fn run<T>(
    pool: &BranchPool,
    action: &'static str,
    effect: Effect,
    query: impl FnMut(&mut AsyncPgConnection) -> Query<'_, T>,
) -> Result<T, Error> {
    let done = pool.run(effect, query).await;
    done.map_err(|error| Error::of_work(action, effect, error))
}

impl<V: Version> std::fmt::Debug for Users<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users")
            .field("service", &V::SERVICE)
            .finish_non_exhaustive()
    }
}

/// What a query is to do, with an id of the request and without.
const CREATE: &str = "create a user";

/// The users that were found, as they were asked for; or where in that some are who
/// were not.
fn in_order(ids: &[UserId], found: Vec<User>) -> Result<Vec<User>, Vec<(usize, UserId)>> {
    let found: HashMap<UserId, User> = found.into_iter().map(|user| (user.id, user)).collect();
    let users: Vec<User> = ids.iter().filter_map(|id| found.get(id).cloned()).collect();
    if users.len() == ids.len() {
        return Ok(users);
    }
    let missing = ids.iter().copied().enumerate();
    Err(missing.filter(|(_, id)| !found.contains_key(id)).collect())
}

fn not_found<V: Version>(field: &'static str, id: UserId) -> Error {
    Error::UserNotFound {
        type_name: V::TYPE,
        field,
        id,
    }
}

fn changed<V: Version>(id: UserId) -> Error {
    Error::EtagMismatch {
        type_name: V::TYPE,
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

    fn user(id: i32) -> User {
        User {
            id: UserId::of_row(id),
            name: format!("Number {id}"),
            email: format!("{id}@example.com"),
            age: None,
            city: None,
        }
    }

    fn ids(ids: &[i32]) -> Vec<UserId> {
        ids.iter().copied().map(UserId::of_row).collect()
    }

    #[test]
    fn users_come_as_they_were_asked_for() {
        let found = || vec![user(1), user(2), user(3)];
        let asked = in_order(&ids(&[3, 1, 3, 2]), found());
        assert_eq!(asked, Ok(vec![user(3), user(1), user(3), user(2)]));
        let missing = in_order(&ids(&[1, 7, 2, 7, 9]), found());
        let places = [(1, 7), (3, 7), (4, 9)].map(|(at, id)| (at, UserId::of_row(id)));
        assert_eq!(missing, Err(places.to_vec()));
    }
}
