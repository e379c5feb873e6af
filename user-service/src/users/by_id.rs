//! Users by id, as many callers' as come together in one query.

use std::{collections::BTreeMap, marker::PhantomData};

use branch_pool::{BranchPool, Effect};

use super::{Version, run};
use crate::{
    error::Error,
    lookups::Source,
    user::{User, UserId},
};

const ACTION: &str = "get a user";
/// Postgres plans for arrays of ten where it does not know how long they are. A shorter
/// one looks cheaper, so it would be planned anew each time, which takes longer than to
/// look its users up.
const PLANNED_IDS: usize = 10;

/// The users of the version `V` on the branch where `pool` leads. Each query asks it
/// for a connection of its own, so callers share one generation, the newest.
pub(super) struct ById<V> {
    pool: BranchPool,
    version: PhantomData<fn() -> V>,
}

impl<V> ById<V> {
    pub(super) fn new(pool: BranchPool) -> Self {
        Self {
            pool,
            version: PhantomData,
        }
    }
}

impl<V: Version> Source for ById<V> {
    type Key = UserId;
    type Value = User;
    type Error = Error;

    async fn fetch(&self, mut ids: Vec<UserId>) -> Result<BTreeMap<UserId, User>, Error> {
        let found = match ids[..] {
            [id] => run(&self.pool, ACTION, Effect::ReadPrimary, |connection| {
                V::user_fetch(connection, id)
            })
            .await?
            .into_iter()
            .collect(),
            [.., last] => {
                // One that is named again is found once.
                ids.resize(ids.len().max(PLANNED_IDS), last);
                run(&self.pool, ACTION, Effect::ReadPrimary, |connection| {
                    V::users_fetch(connection, &ids)
                })
                .await?
            }
            [] => Vec::new(),
        };
        Ok(found.into_iter().map(|user| (user.id, user)).collect())
    }
}
