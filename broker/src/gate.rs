//! The gate before a binding's revisions: they run on its branch after a rehearsal of
//! exactly them, on that branch, that passed not long ago.
//!
//! What is stored here, and who may change it: the rehearsals that passed, among the
//! answers that the state remembers, under the branch and what the revisions are. This
//! module alone writes them.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use neon_api::BranchId;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::config::Gate;
use crate::migrate::folder::Migration;
use crate::state::{self, Answered, Draft, RequestKey, State};

/// How long a rehearsal is remembered that passed, in days: no gate asks for older ones.
pub const REMEMBERED_DAYS: i64 = 30;

/// What it is remembered under.
pub(crate) const METHOD: &str = "Rehearse";

/// A branch, with the data that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    /// The branch.
    pub branch: BranchId,
    /// When it was last reset or restored: it has other data since.
    pub reset_at: Option<Timestamp>,
}

/// Revisions on a branch: which, in which order, what each is, and on top of which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsed {
    ground: Ground,
    hash: Vec<u8>,
}

impl Rehearsed {
    /// Of these revisions, run in this order on a branch that had those versions.
    pub fn of<'m>(
        ground: &Ground,
        had: impl IntoIterator<Item = &'m str>,
        revisions: impl IntoIterator<Item = &'m Migration>,
    ) -> Rehearsed {
        let mut hash = Sha256::new();
        hash.update(format!("{:?}\n", ground.reset_at));
        let had: BTreeSet<&str> = had.into_iter().collect();
        for version in had {
            hash.update(format!("{version}\n"));
        }
        for migration in revisions {
            // Versions have no line breaks, and checksums are of one length.
            let checksum = migration.checksum();
            hash.update(format!("{} {checksum}\n", migration.revision.version));
        }
        Rehearsed {
            ground: ground.clone(),
            hash: hash.finalize().to_vec(),
        }
    }

    /// Whether these are they.
    pub fn is_of<'m>(
        &self,
        had: impl IntoIterator<Item = &'m str>,
        revisions: impl IntoIterator<Item = &'m Migration>,
    ) -> bool {
        *self == Rehearsed::of(&self.ground, had, revisions)
    }

    /// Remembers that their rehearsal passed.
    pub async fn passed(&self, state: &State, now: Timestamp) -> Result<(), state::Error> {
        let key = self.key();
        let answered = Answered {
            body: self.hash.clone(),
            resource: "PASS".to_owned(),
            expire_time: now + SignedDuration::from_hours(REMEMBERED_DAYS * 24),
        };
        let change = move |draft: &mut Draft<'_>| draft.request_put(key.clone(), answered.clone());
        state.change(change).await
    }

    /// Whether a rehearsal of them has passed, recently enough for that gate.
    pub fn may_run(&self, state: &State, gate: Gate, now: Timestamp) -> bool {
        state.read(|data| {
            let known = data.requests.get(&self.key());
            known.is_some_and(|known| {
                let at = known.expire_time - SignedDuration::from_hours(REMEMBERED_DAYS * 24);
                let age = now.duration_since(at);
                known.body == self.hash && age.unsigned_abs() <= gate.max_age
            })
        })
    }

    fn key(&self) -> RequestKey {
        let mut id = [0; 16];
        id.copy_from_slice(&self.hash[..16]);
        RequestKey {
            // No caller is called so.
            caller: format!("branches/{}", self.ground.branch),
            method: METHOD,
            id: Uuid::from_bytes(id),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::migrate::tests::migration;

    #[test]
    fn a_rehearsal_is_of_exactly_its_revisions_on_its_branch() {
        let (one, other) = (migration("1"), migration("2"));
        let mut changed = migration("2");
        changed.up.sql.push_str(" -- changed");
        let on = |branch: &str, reset_at| Ground {
            branch: branch.parse().unwrap(),
            reset_at,
        };
        let (here, there) = (on("br-a", None), on("br-b", None));
        let renewed = on("br-a", Some(Timestamp::UNIX_EPOCH));
        let had = ["0", "00"];
        let of = Rehearsed::of(&here, had, [&one, &other]);
        assert_eq!(of, Rehearsed::of(&here, ["00", "0"], [&one, &other]));
        for different in [
            Rehearsed::of(&there, had, [&one, &other]),
            Rehearsed::of(&renewed, had, [&one, &other]),
            Rehearsed::of(&here, ["0"], [&one, &other]),
            Rehearsed::of(&here, had, [&other, &one]),
            Rehearsed::of(&here, had, [&one]),
            Rehearsed::of(&here, had, [&one, &changed]),
        ] {
            assert_ne!(of, different);
            assert_ne!(of.key(), different.key());
        }
    }

    #[tokio::test]
    async fn a_verdict_is_as_old_as_the_gate_allows_and_no_older() {
        let state = State::in_memory();
        let ground = Ground {
            branch: "br-a".parse().unwrap(),
            reset_at: None,
        };
        let (one, other) = (migration("1"), migration("2"));
        let rehearsed = Rehearsed::of(&ground, [], [&one]);
        let gate = Gate {
            max_age: std::time::Duration::from_secs(3_600),
        };
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        assert!(!rehearsed.may_run(&state, gate, at(10_000)));
        rehearsed.passed(&state, at(10_000)).await.unwrap();
        assert!(rehearsed.may_run(&state, gate, at(13_600)));
        assert!(!rehearsed.may_run(&state, gate, at(13_601)));
        // Nobody knows how old one is that is of the future.
        assert!(!rehearsed.may_run(&state, gate, at(6_399)));
        assert!(!Rehearsed::of(&ground, [], [&other]).may_run(&state, gate, at(10_000)));
    }
}
