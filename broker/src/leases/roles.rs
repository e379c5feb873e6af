//! Which role a lease gets: what is written down of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use neon_api::BranchId;

use super::{Error, Grant, Leases};
use crate::credentials::KeyId;
use crate::names::{BindingName, ServiceName};
use crate::roles::{Access, login_name};
use crate::state::{self, Draft, Role, RoleKey, RoleStatus, Watching};

/// How long a role that was written down is left alone although no lease has it
/// yet, in seconds: longer than making it may take.
const RESERVED_SECONDS: i64 = 60;

/// For whom a role is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleFor {
    /// The branch that it is on.
    pub branch: BranchId,
    /// Whose tables it is for.
    pub service: ServiceName,
    /// The database that those are in.
    pub database: String,
    /// What it may do with them.
    pub access: Access,
    /// Whose leases have it.
    pub holder: String,
    /// The key that its password is to be derived from.
    pub key: KeyId,
}

/// A role that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The role.
    pub role: RoleKey,
    /// The key that its password is derived from.
    pub key: KeyId,
    /// When its password ends, if it was made, or made right, just now.
    pub valid_until: Option<Timestamp>,
}

impl Made {
    /// What a lease has that gets it.
    pub(crate) fn grant(&self, generation: i64) -> Grant {
        Grant {
            branch: self.role.branch.clone(),
            generation,
            role: self.role.role.clone(),
            key: self.key.clone(),
        }
    }
}

impl RoleFor {
    /// A role of that generation that is about to be made.
    fn role(&self, generation: i64, status: RoleStatus, now: Timestamp) -> (RoleKey, Role) {
        let key = RoleKey {
            branch: self.branch.clone(),
            role: login_name(&self.service, self.access, &self.holder, generation),
        };
        let role = Role {
            service: self.service.clone(),
            database: self.database.clone(),
            access: self.access,
            holder: self.holder.clone(),
            generation,
            key: self.key.clone(),
            valid_until: None,
            reserved_until: now,
            status,
            failures: 0,
            failure: String::new(),
            update_time: now,
        };
        (key, role)
    }

    /// Writes down that such a role is about to be made.
    fn intend(&self, draft: &mut Draft<'_>, max: usize, now: Timestamp) -> Result<RoleKey, Error> {
        let there = draft.roles_on(&self.branch);
        let there = there.filter(|(_, role)| role.status != RoleStatus::Closed);
        if there.count() >= max {
            let branch = self.branch.clone();
            return Err(Error::TooManyRoles { branch, max });
        }
        let (key, mut role) = self.role(draft.version(), RoleStatus::Open, now);
        role.reserved_until = reserved(now);
        draft.role_put(key.clone(), role);
        Ok(key)
    }

    fn fits(&self, role: &Role) -> bool {
        role.status == RoleStatus::Open
            && role.access == self.access
            && role.service == self.service
            && role.holder == self.holder
    }
}

impl Leases {
    /// The holder's role, if it is there and half of the longest ttl or more is left
    /// of its password.
    pub fn role_ready(&self, of: &RoleFor) -> Option<Made> {
        let enough = self.half_ahead();
        self.state.read(|data| {
            let mut roles = data.roles_on(&of.branch);
            let (key, _) = roles.find(|(_, role)| {
                let until = role.valid_until;
                of.fits(role) && role.key == of.key && until.is_some_and(|until| until >= enough)
            })?;
            Some(Made {
                role: key.clone(),
                key: of.key.clone(),
                valid_until: None,
            })
        })
    }

    /// Writes down that the holder's role is about to be made, or made right. Says
    /// which it is. One with another key stays for those who have it.
    pub async fn role_intend(&self, of: RoleFor) -> Result<RoleKey, Error> {
        let now = self.now();
        let max = self.settings().roles_per_branch_max;
        let reserved_until = reserved(now);
        let change = move |draft: &mut Draft<'_>| {
            let on_branch = draft.roles_on(&of.branch);
            let found = on_branch.filter(|(_, role)| of.fits(role));
            let found: Vec<(RoleKey, Role)> = found
                .map(|(key, role)| (key.clone(), role.clone()))
                .collect();
            for (key, mut role) in found {
                let is_same = role.key == of.key;
                match is_same {
                    true => role.reserved_until = reserved_until,
                    false => role.status = RoleStatus::Retired,
                }
                role.update_time = now;
                draft.role_put(key.clone(), role);
                if is_same {
                    return Ok(key);
                }
            }
            of.intend(draft, max, now)
        };
        self.state.change(change).await?
    }

    /// As [`Leases::role_intend`], but another than the one that the holder has.
    pub async fn role_succeed(&self, of: RoleFor) -> Result<RoleKey, Error> {
        let now = self.now();
        let max = self.settings().roles_per_branch_max;
        let change = move |draft: &mut Draft<'_>| of.intend(draft, max, now);
        self.state.change(change).await?
    }

    /// The holders of a binding's live leases that are watched, and what their next role
    /// there is for.
    pub fn holders_on(
        &self,
        binding: &BindingName,
        branch: &BranchId,
        database: &str,
        key: &KeyId,
    ) -> Vec<RoleFor> {
        let now = self.now();
        let holders: BTreeSet<(String, Access)> = self.state.read(|data| {
            let leases = data.leases.values().filter(|lease| {
                let watching = data.watches.get(&lease.id);
                lease.request.target.binding() == Some(binding)
                    && lease.lives(now)
                    && watching.is_some_and(Watching::is_there)
            });
            let holder =
                |lease: &super::Lease| (lease.request.holder.clone(), lease.request.access);
            leases.map(holder).collect()
        });
        let of = |(holder, access)| RoleFor {
            branch: branch.clone(),
            service: binding.service.clone(),
            database: database.to_owned(),
            access,
            holder,
            key: key.clone(),
        };
        holders.into_iter().map(of).collect()
    }

    /// Leaves a role that is there alone until then, though no lease has it yet. False: it
    /// is given no more.
    pub async fn role_reserve(&self, made: Made, until: Timestamp) -> Result<bool, state::Error> {
        let change = move |draft: &mut Draft<'_>| {
            let role = draft
                .role(&made.role)
                .filter(|role| role.status.is_usable());
            let Some(mut role) = role.cloned() else {
                return false;
            };
            role.reserved_until = role.reserved_until.max(until);
            role.valid_until = made.valid_until.or(role.valid_until);
            if draft.role(&made.role) != Some(&role) {
                draft.role_put(made.role.clone(), role);
            }
            true
        };
        self.state.change_with_others(change).await
    }

    /// Notes until when a role's password is good by now.
    pub async fn role_prolonged(
        &self,
        key: RoleKey,
        valid_until: Timestamp,
    ) -> Result<(), state::Error> {
        let change = move |draft: &mut Draft<'_>| {
            if let Some(mut role) = draft.role(&key).cloned() {
                role.valid_until = Some(valid_until);
                draft.role_put(key.clone(), role);
            }
        };
        self.state.change(change).await
    }

    /// Whether a role is to be prolonged: less than half of the longest ttl is left of
    /// its password. One that is given no more ends by itself.
    pub fn role_runs_out(&self, key: &RoleKey) -> bool {
        let enough = self.half_ahead();
        self.state.read(|data| {
            let role = data.roles.get(key);
            role.is_some_and(|role| {
                role.status == RoleStatus::Open
                    && role.valid_until.is_none_or(|until| until < enough)
            })
        })
    }

    /// Whether a holder's next lease would have that role too.
    pub fn role_is_given(&self, key: &RoleKey) -> bool {
        self.state.read(|data| {
            let role = data.roles.get(key);
            role.is_some_and(|role| role.status == RoleStatus::Open)
        })
    }

    /// Whether holders may use a role, whatever other brokers have just done with it.
    pub async fn role_is_usable(&self, key: &RoleKey) -> Result<bool, state::Error> {
        self.state.catch_up().await?;
        Ok(self.state.read(|data| {
            let role = data.roles.get(key);
            role.is_some_and(|role| role.status.is_usable())
        }))
    }

    /// Until when the password of a role is good that holders may use.
    pub fn role_valid_until(&self, key: &RoleKey) -> Option<Timestamp> {
        self.state.read(|data| {
            let role = data.roles.get(key).filter(|role| role.status.is_usable());
            role.and_then(|role| role.valid_until)
        })
    }

    /// Whether a role was written down here.
    pub fn knows_role(&self, branch: &BranchId, role: &str) -> bool {
        let key = RoleKey {
            branch: branch.clone(),
            role: role.to_owned(),
        };
        self.state.read(|data| data.roles.contains_key(&key))
    }

    /// The database of a role's service, unless the role is closed.
    pub fn role_database(&self, key: &RoleKey) -> Option<String> {
        self.state.read(|data| {
            let role = data.roles.get(key);
            let role = role.filter(|role| role.status != RoleStatus::Closed);
            role.map(|role| role.database.clone())
        })
    }

    /// When the password of a role that is made now ends.
    pub fn password_end(&self) -> Timestamp {
        let end = self.now().checked_add(self.max_ttl());
        end.unwrap_or(Timestamp::MAX)
    }

    /// Roles to be closed: those that no lease has, and those that were revoked.
    pub fn roles_to_close(&self) -> Vec<(RoleKey, Role)> {
        let now = self.now();
        self.state.read(|data| {
            let (mut due, mut perhaps) = (Vec::new(), BTreeMap::new());
            for (key, role) in &data.roles {
                match role.status {
                    RoleStatus::Closing | RoleStatus::Revoked => due.push((key, role)),
                    RoleStatus::Open | RoleStatus::Retired if role.reserved_until <= now => {
                        perhaps.insert((&key.branch, key.role.as_str()), (key, role));
                    }
                    _ => {}
                }
            }
            // Thousands of leases have some few roles: most often the first of them show
            // that each has one.
            let mut live = data.leases.values().filter(|lease| lease.lives(now));
            while !perhaps.is_empty()
                && let Some(lease) = live.next()
            {
                perhaps.remove(&(&lease.grant.branch, lease.grant.role.as_str()));
            }
            due.extend(perhaps.into_values());
            let due = due.into_iter();
            due.map(|(key, role)| (key.clone(), role.clone())).collect()
        })
    }

    /// The roles of a branch that live leases have.
    pub fn roles_used(&self, branch: &BranchId) -> Vec<(RoleKey, Role)> {
        let now = self.now();
        self.state.read(|data| {
            let leases = data.leases.values();
            let live: Vec<_> = leases
                .filter(|lease| lease.grant.branch == *branch && lease.lives(now))
                .collect();
            let roles = data.roles_on(branch);
            let used = roles.filter(|(key, role)| {
                let has = |lease: &&super::Lease| lease.has_role(key);
                role.status.is_usable() && (live.iter().any(has) || role.reserved_until > now)
            });
            used.map(|(key, role)| (key.clone(), role.clone()))
                .collect()
        })
    }

    fn half_ahead(&self) -> Timestamp {
        let half = self.max_ttl() / 2;
        self.now().checked_add(half).unwrap_or(Timestamp::MAX)
    }
}

fn reserved(now: Timestamp) -> Timestamp {
    let until = now.checked_add(SignedDuration::from_secs(RESERVED_SECONDS));
    until.unwrap_or(Timestamp::MAX)
}

/// Notes that a lease gets a role. Says until when its password is good; nothing
/// if the role is not open.
pub(super) fn given(draft: &mut Draft<'_>, made: &Made, now: Timestamp) -> Option<Timestamp> {
    let mut role = draft.role(&made.role)?.clone();
    if role.status != RoleStatus::Open || role.key != made.key {
        return None;
    }
    let valid_until = made.valid_until.or(role.valid_until)?;
    if role.valid_until != Some(valid_until) || role.reserved_until > now {
        role.valid_until = Some(valid_until);
        role.reserved_until = now;
        draft.role_put(made.role.clone(), role);
    }
    Some(valid_until)
}

/// Notes that a role is about to be made on a warm branch, which nobody has yet.
pub(super) fn reserve(draft: &mut Draft<'_>, of: &RoleFor, now: Timestamp) -> RoleKey {
    let (key, role) = of.role(draft.version(), RoleStatus::Reserved, now);
    draft.role_put(key.clone(), role);
    key
}

/// Gives a role that waits to a holder: until when its password is good; nothing if
/// it is of another access, or does not wait any more.
pub(super) fn unreserve(
    draft: &mut Draft<'_>,
    key: &RoleKey,
    holder: &str,
    access: Access,
    now: Timestamp,
) -> Option<Timestamp> {
    let mut role = draft.role(key)?.clone();
    if role.status != RoleStatus::Reserved || role.access != access {
        return None;
    }
    let valid_until = role.valid_until?;
    role.holder = holder.to_owned();
    role.status = RoleStatus::Open;
    role.reserved_until = now;
    role.update_time = now;
    draft.role_put(key.clone(), role);
    Some(valid_until)
}

/// Has a role that waits closed: its branch goes to somebody who has no use for it.
pub(super) fn reserved_unused(draft: &mut Draft<'_>, key: &RoleKey, now: Timestamp) {
    if let Some(mut role) = draft.role(key).cloned()
        && role.status == RoleStatus::Reserved
    {
        role.status = RoleStatus::Closing;
        role.update_time = now;
        draft.role_put(key.clone(), role);
    }
}

/// The branch that roles wait on is gone, and they with it.
pub(super) fn reserved_gone(draft: &mut Draft<'_>, branch: &BranchId, now: Timestamp) {
    let waiting = draft.roles_on(branch);
    let waiting = waiting.filter(|(_, role)| role.status == RoleStatus::Reserved);
    let waiting: Vec<(RoleKey, Role)> = waiting
        .map(|(key, role)| (key.clone(), role.clone()))
        .collect();
    for (key, mut role) in waiting {
        role.status = RoleStatus::Closed;
        role.update_time = now;
        draft.role_put(key, role);
    }
}
