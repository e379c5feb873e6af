//! Why there is no lease.

use neon_api::BranchId;

use super::{LEASES_MAX, requests};
use crate::names::{BindingName, LeaseId};
use crate::state;

/// Why a lease is not given or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was never given, or it has ended.
    #[error("there is no lease {0}: it was never given, was released or revoked, or has expired")]
    NotFound(LeaseId),
    /// The id was used for another request.
    #[error("the request id {0} was used with another request")]
    RequestIdReused(uuid::Uuid),
    /// There are as many as there may be.
    #[error("there are {LEASES_MAX} leases already; release some, or wait until they expire")]
    TooMany,
    /// As many requests are remembered as there may be.
    #[error(
        "{} requests with ids are remembered already; leave the id out, or wait",
        requests::REMEMBERED_MAX
    )]
    TooManyRequests,
    /// The branch has as many login roles as it may.
    #[error(
        "the branch {branch} has {max} login roles already, as many as leases.roles_per_branch_max \
         allows; release leases there, or wait until they expire"
    )]
    TooManyRoles {
        /// The branch.
        branch: BranchId,
        /// How many.
        max: usize,
    },
    /// The holder has as many branches of their own as they may.
    #[error("{holder} has {max} ephemeral branches already, as many as granted; release one")]
    TooManyEphemeral {
        /// Who.
        holder: String,
        /// How many.
        max: u32,
    },
    /// There are as many branches that go with their lease as there may be.
    #[error(
        "there are {max} ephemeral branches already, as many as leases.ephemeral_branches_max \
         allows; release some, or wait until they expire"
    )]
    EphemeralFull {
        /// How many.
        max: usize,
    },
    /// Some broker gives the branch other data, or deletes it.
    #[error("the branch {0} is being reset, restored or deleted; ask again")]
    BranchHeld(BranchId),
    /// A binding is being switched away from the branch, which takes no writes meanwhile.
    #[error(
        "the branch {0} takes no writes of the service while a binding is switched away from it; \
         ask again"
    )]
    BranchFenced(BranchId),
    /// Its binding leads elsewhere by now, and this broker has not followed yet.
    #[error("{0} has just moved; ask again")]
    BindingOvertaken(BindingName),
    /// Its binding was retired.
    #[error("{0} is retired; declare another branch for it in broker.toml")]
    BindingRetired(BindingName),
    /// The branch that was made for it is being deleted: making it took too long.
    #[error("the branch of the lease is gone already: making it took too long; ask again")]
    BranchGone,
    /// It could not be stored, and was not given.
    #[error(transparent)]
    State(#[from] state::Error),
}
