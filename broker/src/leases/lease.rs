//! A lease as a value.

use jiff::Timestamp;
use neon_api::BranchId;

use crate::credentials::KeyId;
use crate::names::{BindingName, LeaseId, ServiceName};
use crate::roles::Access;
use crate::state::RoleKey;

/// A right to connect, until `expire_time`.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// What it was asked for.
    pub request: Request,
    /// What it leads to.
    pub grant: Grant,
    /// When it was given.
    pub create_time: Timestamp,
    /// When it ends unless it is renewed before.
    pub expire_time: Timestamp,
    /// How often it was renewed.
    pub renewals: i64,
    /// When an audit event last told that it lives.
    pub note_time: Timestamp,
    /// When Neon deletes its branch, where that goes with it: as Neon confirmed it.
    pub branch_expire_time: Option<Timestamp>,
    /// That it was taken from its holder: it ends when its role is closed.
    pub revoked: Option<Revoked>,
}

/// What a lease is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where.
    pub target: Target,
    /// Whose tables.
    pub service: ServiceName,
    /// What its connection may do.
    pub access: Access,
    /// Whether its connection leads through the pooler.
    pub pooled: bool,
    /// Who asks: the caller's identity, or, without one, as they name
    /// themselves.
    pub holder: String,
    /// Whose the lease is: the caller's identity. Nobody else who has one can do
    /// anything with it.
    pub owner: Option<String>,
}

/// What a lease is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// What a binding leads to.
    Binding(BindingName),
    /// A branch.
    Branch(BranchId),
    /// A branch that goes with it.
    Ephemeral {
        /// What that was forked from.
        parent: BranchId,
    },
}

impl Target {
    /// The binding, if it is on one.
    pub fn binding(&self) -> Option<&BindingName> {
        match self {
            Target::Binding(binding) => Some(binding),
            Target::Branch(_) | Target::Ephemeral { .. } => None,
        }
    }

    /// Whether the branch goes with the lease.
    pub fn is_ephemeral(&self) -> bool {
        matches!(self, Target::Ephemeral { .. })
    }
}

/// What a lease leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The branch.
    pub branch: BranchId,
    /// The binding's generation; 0 for one on a branch.
    pub generation: i64,
    /// The role to connect as.
    pub role: String,
    /// The key that the role's password is derived from.
    pub key: KeyId,
}

/// That a lease was taken from its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// When.
    pub time: Timestamp,
    /// By whom and why, for people.
    pub reason: String,
}

impl Lease {
    /// Whether its connection is by that role.
    pub(crate) fn has_role(&self, key: &RoleKey) -> bool {
        self.grant.branch == key.branch && self.grant.role == key.role
    }

    /// Whether its connection may be used then.
    pub fn lives(&self, now: Timestamp) -> bool {
        self.expire_time > now && self.revoked.is_none()
    }
}

impl Grant {
    /// Its role, as the state names it.
    pub fn role_key(&self) -> RoleKey {
        RoleKey {
            branch: self.branch.clone(),
            role: self.role.clone(),
        }
    }
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: EndReason,
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Its holder gave it back.
    Released,
    /// Its time was up.
    Expired,
    /// It was taken from its holder, and its role is closed.
    Revoked,
}

impl EndReason {
    const ALL: [EndReason; 3] = [EndReason::Released, EndReason::Expired, EndReason::Revoked];

    /// As it is stored.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EndReason::Released => "released",
            EndReason::Expired => "expired",
            EndReason::Revoked => "revoked",
        }
    }

    pub(crate) fn of_stored(text: &str) -> Option<EndReason> {
        let mut all = EndReason::ALL.into_iter();
        all.find(|reason| reason.as_str() == text)
    }
}
