//! What callers are told. Every reason is in docs/ERRORS.md.

use std::time::Duration;

use rpc::request_id;
use rpc::status::{FieldViolation, Refusal};
use tonic::{Code, Status};

use super::Error;
use crate::names::{BranchResource, LeaseId};
use crate::text::one_line;
use crate::{
    branches, keeper, leases, leasing, migrate, moving, neon, operations, reconcile, request_ids,
    roles, state,
};

/// What a caller waits who came too early, in milliseconds.
const RETRY_SOON_MS: u64 = 500;
/// What a caller waits while something is down, in milliseconds.
const RETRY_DOWN_MS: u64 = 2_000;

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        // None of these holds a secret: credentials are types that do not print.
        let message = one_line(&error);
        if let Error::Leasing(leasing::Error::Role { .. }) | Error::Lease(leases::Error::State(_)) =
            error
        {
            // The keeper logs what it meets itself; the rest is the caller's doing.
            tracing::warn!(error = %message, "a call failed");
        }
        let refusal = match error {
            Error::Invalid(violations) => return violations.into(),
            Error::Branch(error) => branch(*error, message),
            Error::Operation(error) => operation(error, message),
            Error::OperationUnknown => Refusal::new(Code::Internal, "OPERATION_BROKEN", message),
            Error::WatchSilent => Refusal::new(Code::DeadlineExceeded, "WATCH_SILENT", message),
            Error::Denied { .. } => Refusal::new(Code::PermissionDenied, "GRANT_MISSING", message),
            Error::Lease(error) => lease(error, message),
            Error::Leasing(error) => leasing(error, message),
            Error::Neon(error) => neon(&error, message),
            Error::State(error) => state(&error, message),
            Error::Keeper(error) => keeper(*error, message),
            Error::Migrate(error) => migrate(&error, message),
            Error::Moving(error) => moving(*error, message),
        };
        refusal.into()
    }
}

fn lease(error: leases::Error, message: String) -> Refusal {
    match error {
        leases::Error::NotFound(id) => lease_not_found(id, message),
        leases::Error::RequestIdReused(_) => request_id::reused(message),
        leases::Error::TooMany => Refusal::new(Code::ResourceExhausted, "TOO_MANY_LEASES", message)
            .retry_after(Duration::from_millis(RETRY_DOWN_MS)),
        leases::Error::TooManyRequests => too_many_request_ids(message),
        leases::Error::TooManyRoles { branch, .. } => {
            Refusal::new(Code::ResourceExhausted, "TOO_MANY_ROLES", message)
                .resource("broker.v1.Branch", BranchResource(branch).to_string())
        }
        leases::Error::TooManyEphemeral { .. } => Refusal::new(
            Code::ResourceExhausted,
            "TOO_MANY_EPHEMERAL_BRANCHES",
            message,
        ),
        leases::Error::EphemeralFull { .. } => {
            Refusal::new(Code::ResourceExhausted, "EPHEMERAL_BRANCHES_FULL", message)
                .retry_after(Duration::from_millis(RETRY_DOWN_MS))
        }
        leases::Error::BranchHeld(branch) => step(true, "BRANCH_HELD", message)
            .resource("broker.v1.Branch", BranchResource(branch).to_string()),
        leases::Error::BranchFenced(branch) => step(true, "BRANCH_FENCED", message)
            .resource("broker.v1.Branch", BranchResource(branch).to_string()),
        leases::Error::BindingOvertaken(name) => {
            step(true, "BINDING_NOT_READY", message).resource("broker.v1.Binding", name.to_string())
        }
        leases::Error::BindingRetired(name) => {
            step(false, "BINDING_RETIRED", message).resource("broker.v1.Binding", name.to_string())
        }
        leases::Error::BranchGone => step(true, "EPHEMERAL_BRANCH_GONE", message),
        leases::Error::State(error) => state(&error, message),
    }
}

fn leasing(error: leasing::Error, message: String) -> Refusal {
    use leasing::Error as E;
    match error {
        E::BindingNotFound { field, name } => {
            Refusal::new(Code::NotFound, "BINDING_NOT_FOUND", message)
                .resource("broker.v1.Binding", name.to_string())
                .violation(FieldViolation::new(field, "is not declared in broker.toml"))
        }
        E::ServiceNotFound { field, .. } => {
            Refusal::new(Code::NotFound, "SERVICE_NOT_FOUND", message)
                .violation(FieldViolation::new(field, "is not declared in broker.toml"))
        }
        E::BindingNotReady { name, .. } => {
            Refusal::new(Code::Unavailable, "BINDING_NOT_READY", message)
                .resource("broker.v1.Binding", name.to_string())
                .retry_after(Duration::from_millis(RETRY_SOON_MS))
        }
        E::BindingFailed { name, .. } => {
            Refusal::new(Code::FailedPrecondition, "BINDING_FAILED", message)
                .resource("broker.v1.Binding", name.to_string())
        }
        E::BindingBehind { name, .. } => {
            step(false, "BRANCH_BEHIND", message).resource("broker.v1.Binding", name.to_string())
        }
        E::BindingRetired { name } => {
            step(false, "BINDING_RETIRED", message).resource("broker.v1.Binding", name.to_string())
        }
        E::Branch(error) => branch(*error, message),
        E::Neon(error) => neon(&error, message),
        E::Lease(error) => lease(error, message),
        E::Role { source, .. } => role(&source, message),
        E::Migrate(error) => migrate(&error, message),
        E::Uri(_) => database(false, message),
        E::RoleClosing { .. } => database(true, message),
    }
}

fn migrate(error: &migrate::Error, message: String) -> Refusal {
    use migrate::Error as E;
    let reason = match error {
        E::Postgres(error) => return database(error.is_transient(), message),
        E::Role(error) => return role(error, message),
        E::RevisionNotFound { .. } => {
            return Refusal::new(Code::NotFound, "REVISION_NOT_FOUND", message);
        }
        E::RevisionAmbiguous { .. } => {
            return Refusal::new(Code::InvalidArgument, "REVISION_AMBIGUOUS", message);
        }
        E::LockTaken { .. } => {
            return Refusal::new(Code::Aborted, "MIGRATION_RUNNING", message)
                .retry_after(Duration::from_millis(RETRY_DOWN_MS));
        }
        E::BadFolder { .. } => "REVISIONS_UNREADABLE",
        E::RevisionChanged { .. } => "REVISION_CHANGED",
        E::RevisionMissing { .. } => "REVISION_MISSING",
        E::NoWayBack { .. } => "REVISION_IRREVERSIBLE",
        E::RevisionBeyond { .. } => "REVISION_BEYOND",
        E::NotRehearsed { .. } => "REVISION_NOT_REHEARSED",
        E::Wanted(_) => "WANTED_SCHEMA_FAILED",
        E::Pending { .. } => "REVISIONS_PENDING",
        E::Backwards { .. } => "REHEARSAL_BACKWARDS",
        E::Stopped { .. } => "REVISION_STOPPED",
        E::Pooled
        | E::FailedRevision(_)
        | E::EndsTransaction { .. }
        | E::NothingToRun { .. }
        | E::SeveralStatements { .. }
        | E::BadBatch { .. }
        | E::NotWritten { .. }
        | E::Interrupted(_) => "MIGRATION_FAILED",
    };
    step(error.is_transient(), reason, message)
}

fn too_many_request_ids(message: String) -> Refusal {
    Refusal::new(Code::ResourceExhausted, "TOO_MANY_REQUEST_IDS", message)
}

fn operation(error: operations::Error, message: String) -> Refusal {
    match error {
        operations::Error::NotFound(name) => {
            Refusal::new(Code::NotFound, "OPERATION_NOT_FOUND", message)
                .resource("google.longrunning.Operation", name.to_string())
                .violation(FieldViolation::new("name", "is no operation that is kept"))
        }
        operations::Error::Running(name) => step(false, "OPERATION_RUNNING", message)
            .resource("google.longrunning.Operation", name.to_string()),
        operations::Error::TooMany => {
            Refusal::new(Code::ResourceExhausted, "TOO_MANY_OPERATIONS", message)
                .retry_after(Duration::from_millis(RETRY_DOWN_MS))
        }
        operations::Error::RequestId(request_ids::Error::Reused(_)) => request_id::reused(message),
        operations::Error::RequestId(request_ids::Error::TooMany) => too_many_request_ids(message),
        operations::Error::State(error) => state(&error, message),
        operations::Error::Broken => Refusal::new(Code::Internal, "OPERATION_BROKEN", message),
    }
}

fn branch(error: branches::Error, message: String) -> Refusal {
    use branches::Error as E;
    match error {
        E::NotFound { field, name } => Refusal::new(Code::NotFound, "BRANCH_NOT_FOUND", message)
            .resource("broker.v1.Branch", name.to_string())
            .violation(FieldViolation::new(field, "is not a branch of the project")),
        E::Exists { field, name } => Refusal::new(Code::AlreadyExists, "BRANCH_EXISTS", message)
            .resource("broker.v1.Branch", name.to_string())
            .violation(FieldViolation::new(field, "is another branch's name")),
        E::Changed { .. } => Refusal::new(Code::Aborted, "ETAG_MISMATCH", message),
        E::NotOurs { .. } => step(false, "BRANCH_NOT_OURS", message),
        E::Default { .. } => step(false, "BRANCH_DEFAULT", message),
        E::Protected { .. } => step(false, "BRANCH_PROTECTED", message),
        E::InUse { binding, .. } => {
            step(false, "BRANCH_IN_USE", message).resource("broker.v1.Binding", binding.to_string())
        }
        E::Leased { lease, .. } => {
            step(false, "BRANCH_IN_USE", message).resource("broker.v1.Lease", lease.to_string())
        }
        E::HasChildren { .. } => step(false, "BRANCH_HAS_CHILDREN", message),
        E::NoParent { .. } => step(false, "BRANCH_HAS_NO_PARENT", message),
        E::ParentExpires { field, .. } => step(false, "PARENT_EXPIRES", message)
            .violation(FieldViolation::new(field, "is a branch that expires")),
        E::Expires { .. } => step(false, "BRANCH_EXPIRES", message),
        E::Cycle { .. } => step(false, "BRANCH_CYCLE", message)
            .violation(FieldViolation::new("source", "descends from the branch")),
        E::Point { field, .. } => Refusal::new(Code::OutOfRange, "POINT_OUTSIDE_HISTORY", message)
            .violation(FieldViolation::new(field, "is not in the branch's history")),
        E::NoDatabase { field, .. } => step(false, "DATABASE_NOT_FOUND", message).violation(
            FieldViolation::new(field, "is not a database of the branch"),
        ),
        E::NoBase { .. } => {
            Refusal::new(Code::InvalidArgument, "INVALID_FIELDS", message).violation(
                FieldViolation::new("base", "must be given: there is no parent"),
            )
        }
        E::Cancelled => Refusal::new(Code::Cancelled, "OPERATION_CANCELLED", message),
        E::State(error) => state(&error, message),
        E::Neon(error) => neon(&error, message),
        E::Bindings(error) => keeper(*error, message),
    }
}

fn lease_not_found(id: LeaseId, message: String) -> Refusal {
    Refusal::new(Code::NotFound, "LEASE_NOT_FOUND", message)
        .resource("broker.v1.Lease", id.to_string())
}

fn neon(error: &neon::Error, message: String) -> Refusal {
    match error {
        neon::Error::WrongKey(_) | neon::Error::NoProject { .. } => {
            Refusal::new(Code::FailedPrecondition, "NEON_ACCESS_DENIED", message)
        }
        neon::Error::Api { .. } if !error.is_transient() => {
            Refusal::new(Code::FailedPrecondition, "NEON_REFUSED", message)
        }
        neon::Error::NoDatabase { .. } => {
            Refusal::new(Code::FailedPrecondition, "DATABASE_NOT_FOUND", message)
        }
        neon::Error::OperationFailed { .. } => {
            Refusal::new(Code::FailedPrecondition, "NEON_OPERATION_FAILED", message)
        }
        neon::Error::Api { .. }
        | neon::Error::Crowded
        | neon::Error::OperationSlow { .. }
        | neon::Error::BranchSlow { .. } => {
            let down = Duration::from_millis(RETRY_DOWN_MS);
            Refusal::new(Code::Unavailable, "NEON_UNAVAILABLE", message)
                .retry_after(error.retry_after().unwrap_or(down))
        }
    }
}

fn keeper(error: keeper::Error, message: String) -> Refusal {
    match error {
        keeper::Error::Config(_) => {
            Refusal::new(Code::FailedPrecondition, "CONFIG_INVALID", message)
        }
        keeper::Error::Running => Refusal::new(Code::Aborted, "APPLY_RUNNING", message)
            .retry_after(Duration::from_millis(RETRY_SOON_MS)),
        keeper::Error::Reconcile(error) => reconcile(error, message),
        keeper::Error::Binding { binding, source } => {
            reconcile(source, message).resource("broker.v1.Binding", binding.to_string())
        }
        keeper::Error::Roles { branch, source } => {
            role(&source, message).resource("broker.v1.Branch", BranchResource(branch).to_string())
        }
        keeper::Error::State(error) => state(&error, message),
        keeper::Error::Moving { binding, .. } => {
            Refusal::new(Code::Aborted, "SWITCH_RUNNING", message)
                .resource("broker.v1.Binding", binding.to_string())
        }
        keeper::Error::Interrupted(_) => Refusal::new(Code::Internal, "APPLY_INTERRUPTED", message),
    }
}

fn moving(error: moving::Error, message: String) -> Refusal {
    use moving::Error as E;
    let aborted = |reason| Refusal::new(Code::Aborted, reason, message.clone());
    match error {
        E::BindingNotFound(name) => Refusal::new(Code::NotFound, "BINDING_NOT_FOUND", message)
            .resource("broker.v1.Binding", name.to_string())
            .violation(FieldViolation::new(
                "name",
                "is not declared in broker.toml",
            )),
        E::NotReady(name) => {
            step(true, "BINDING_NOT_READY", message).resource("broker.v1.Binding", name.to_string())
        }
        E::LivesThere { .. } => step(false, "BINDING_LIVES_THERE", message)
            .violation(FieldViolation::new("branch", "is where the binding lives")),
        E::BranchExpires(_) => step(false, "BRANCH_EXPIRES", message)
            .violation(FieldViolation::new("branch", "is a branch that expires")),
        E::BranchNotNameable(_) => step(false, "BRANCH_NOT_NAMEABLE", message).violation(
            FieldViolation::new("branch", "has a name that broker.toml cannot have"),
        ),
        E::Unwatched { leases, .. } => of_leases(&leases, "LEASES_UNWATCHED", message),
        E::LeasesLive { leases, .. } => of_leases(&leases, "LEASES_LIVE", message),
        E::Retired(name) => {
            step(false, "BINDING_RETIRED", message).resource("broker.v1.Binding", name.to_string())
        }
        E::BranchHeld(branch) => step(true, "BRANCH_HELD", message)
            .resource("broker.v1.Branch", BranchResource(branch).to_string()),
        E::NoParent(name) => step(false, "PARENT_NOT_DECLARED", message)
            .resource("broker.v1.Binding", name.to_string()),
        E::ParentUnclear { binding, .. } => step(false, "PARENT_UNCLEAR", message)
            .resource("broker.v1.Binding", binding.to_string()),
        E::FenceShared { other, .. } => {
            step(false, "FENCE_SHARED", message).resource("broker.v1.Binding", other.to_string())
        }
        E::GivenUp(_) => aborted("SWITCH_GIVEN_UP"),
        E::Moving { binding, .. } => {
            aborted("SWITCH_RUNNING").resource("broker.v1.Binding", binding.to_string())
        }
        E::Paused(binding) => step(true, "BINDING_NOT_READY", message)
            .resource("broker.v1.Binding", binding.to_string()),
        E::Overtaken(_) => aborted("SWITCH_OVERTAKEN"),
        E::Refused { lease, .. } => {
            aborted("SWITCH_REFUSED").resource("broker.v1.Lease", lease.to_string())
        }
        E::TimedOut(_) => aborted("SWITCH_TIMED_OUT"),
        E::Fence(source) => role(&source, message),
        E::Stopped => Refusal::new(Code::Cancelled, "OPERATION_CANCELLED", message),
        E::Branch(error) => branch(*error, message),
        E::Keeper(error) => keeper(*error, message),
        E::Leasing(error) => leasing(*error, message),
        E::Neon(error) => neon(&error, message),
        E::State(error) => state(&error, message),
    }
}

/// Leases are in the way: the first of them as the resource.
fn of_leases(leases: &[LeaseId], reason: &'static str, message: String) -> Refusal {
    let refusal = step(false, reason, message);
    match leases.first() {
        Some(lease) => refusal.resource("broker.v1.Lease", lease.to_string()),
        None => refusal,
    }
}

fn reconcile(error: reconcile::Error, message: String) -> Refusal {
    let transient = error.is_transient();
    match error {
        reconcile::Error::Neon(error) => neon(&error, message),
        reconcile::Error::State(error) => state(&error, message),
        reconcile::Error::FailedLook { .. } => database(transient, message),
        reconcile::Error::FailedMigrate { source, .. } => migrate(&source, message),
        reconcile::Error::FailedSeed { .. } => step(transient, "SEED_FAILED", message),
        reconcile::Error::FailedGrant { source, .. } => role(&source, message),
        reconcile::Error::BranchNotFound { .. } => step(false, "BRANCH_NOT_FOUND", message),
        reconcile::Error::ParentNotFound { .. } => step(false, "PARENT_NOT_FOUND", message),
        reconcile::Error::ParentNotReady { .. } => step(transient, "PARENT_NOT_READY", message),
        reconcile::Error::Ahead { .. } => step(false, "BRANCH_AHEAD", message),
        reconcile::Error::Behind { .. } => step(false, "BRANCH_BEHIND", message),
        reconcile::Error::FailedRehearsal { .. } => step(transient, "REHEARSAL_FAILED", message),
        reconcile::Error::NotRehearsed { .. } => step(false, "REVISION_NOT_REHEARSED", message),
        reconcile::Error::BudgetExceeded { .. } => {
            step(false, "CONNECTION_BUDGET_EXCEEDED", message)
        }
    }
}

fn role(error: &roles::Error, message: String) -> Refusal {
    match error {
        roles::Error::NotOurs { .. } => step(false, "ROLE_NOT_OURS", message),
        roles::Error::NoPlaceForRole => step(false, "DATABASE_REFUSED", message),
        roles::Error::Fenced { .. } => step(true, "BRANCH_FENCED", message),
        roles::Error::FenceUnknown(_) => step(true, "STATE_UNAVAILABLE", message),
        roles::Error::Postgres(error) => database(error.is_transient(), message),
    }
}

/// A step of an apply: what may pass is UNAVAILABLE, the rest waits for
/// somebody.
fn step(transient: bool, reason: &'static str, message: String) -> Refusal {
    match transient {
        true => Refusal::new(Code::Unavailable, reason, message)
            .retry_after(Duration::from_millis(RETRY_DOWN_MS)),
        false => Refusal::new(Code::FailedPrecondition, reason, message),
    }
}

fn database(transient: bool, message: String) -> Refusal {
    match transient {
        true => step(true, "DATABASE_UNAVAILABLE", message),
        false => step(false, "DATABASE_REFUSED", message),
    }
}

fn state(error: &state::Error, message: String) -> Refusal {
    match error {
        state::Error::ClockSkewed { .. } => step(true, "CLOCK_SKEWED", message),
        state::Error::Away(_)
        | state::Error::Fenced
        | state::Error::Gone
        | state::Error::NotRead => step(true, "STATE_UNAVAILABLE", message),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    /// Quoted words in capitals of a source: its reasons.
    fn reasons(source: &str) -> Vec<&str> {
        let is_reason = |word: &&str| {
            word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        };
        source.split('"').filter(is_reason).collect()
    }

    #[test]
    fn every_reason_is_documented() {
        let documented = include_str!("../../../docs/ERRORS.md");
        let reasons = reasons(include_str!("refusals.rs"));
        assert!(reasons.contains(&"BINDING_NOT_READY"), "{reasons:?}");
        for reason in reasons {
            assert!(documented.contains(&format!("`{reason}`")), "{reason}");
        }
    }

    #[test]
    fn what_waiting_helps_says_for_how_long() {
        let name = || "services/users/versions/v1".parse().unwrap();
        let message = || "its branch is being prepared".to_owned();
        let early = Error::from(leasing::Error::BindingNotReady {
            name: name(),
            message: message(),
        });
        let early = Status::from(early);
        assert_eq!(early.code(), Code::Unavailable);
        assert!(early.get_details_retry_info().is_some());
        let failed = Error::from(leasing::Error::BindingFailed {
            name: name(),
            message: message(),
        });
        let failed = Status::from(failed);
        assert_eq!(failed.code(), Code::FailedPrecondition);
        assert!(failed.get_details_retry_info().is_none());
        let info = failed.get_details_error_info().unwrap();
        assert_eq!(info.reason, "BINDING_FAILED");
    }
}
