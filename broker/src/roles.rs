//! Roles of leases, made by SQL as the owner and never by Neon's API, whose
//! roles join neon_superuser and read everything.
//!
//! Rights sit on NOLOGIN groups for each service: `users_rw` and `users_ro`, and
//! `users_ddl`, its migration role, which owns the service's schema and all that is in it.
//! A login role, `lease_users_rw_5d41402a_17`, is of one holder, service and access
//! on a branch; it owns nothing and has what its group has. The last number is its
//! generation: a holder whose credentials are rotated or revoked gets another role,
//! never the old one with another password. One for DDL is the migration role's, on
//! a branch that goes with its lease.
//! A comment on each role says that it is ours; on a login role it also names
//! the key and the branch that its password is derived from. Children inherit
//! roles and passwords: a comment that names another branch marks a role that
//! has to be made harmless before anyone may use this branch. What PUBLIC may
//! do, every lease could: it is taken from PUBLIC where the owner can.

mod ddl;
mod fence;
mod login;
mod migrating;
mod password;
mod rights;

use neon_api::BranchId;
use sha2::{Digest as _, Sha256};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, Transaction};

use crate::config::ServiceSpec;
use crate::migrate;
use crate::names::ServiceName;
use crate::postgres::{self, Attempted as _, escape_identifier, escape_literal};
pub use fence::fence;
pub use login::{FoundLogin, Login, login_close, login_ensure, logins_of, retire_inherited};
pub use migrating::migrating_session;
pub use password::set as password_set;
pub use rights::are_granted;

/// How long a change of roles waits for another session that changes the same
/// service, in milliseconds.
const LOCK_TIMEOUT_MS: u64 = 30_000;

/// What a connection may do with the service's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// SELECT.
    ReadOnly,
    /// SELECT, INSERT, UPDATE and DELETE.
    ReadWrite,
    /// Whatever the owner of the service's schema may do: its migration role.
    Ddl,
}

impl Access {
    /// Those whose group has its rights by grants, and owns nothing.
    pub(crate) const GROUPS: [Access; 2] = [Access::ReadOnly, Access::ReadWrite];
    const ALL: [Access; 3] = [Access::ReadOnly, Access::ReadWrite, Access::Ddl];

    /// As grants name it, and as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Access::ReadOnly => "read_only",
            Access::ReadWrite => "read_write",
            Access::Ddl => "ddl",
        }
    }

    pub(crate) fn of_stored(text: &str) -> Option<Access> {
        let mut all = Access::ALL.into_iter();
        all.find(|access| access.as_str() == text)
    }

    fn suffix(self) -> &'static str {
        match self {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
            Access::Ddl => "ddl",
        }
    }
}

/// Why a role is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database could not be reached or refused.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// A switch of a binding away from the branch has closed it to the service's writes.
    #[error(
        "the branch is closed to the writes of the service {service} while a binding is switched \
         away from it"
    )]
    Fenced {
        /// The service.
        service: ServiceName,
    },
    /// Whether it has could not be looked up.
    #[error("look whether the branch is closed to the service's writes")]
    FenceUnknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The owner's connection URI has no place for another role.
    #[error("connect as the migration role: the owner's URI has no place for a role")]
    NoPlaceForRole,
    /// A role of that name is somebody else's.
    #[error(
        "the branch has a role {role} that the broker did not make; rename it, or the service \
         in broker.toml"
    )]
    NotOurs {
        /// The role.
        role: String,
    },
}

impl Error {
    /// Whether the same may work in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Postgres(error) => error.is_transient(),
            Error::Fenced { .. } | Error::FenceUnknown(_) => true,
            Error::NotOurs { .. } | Error::NoPlaceForRole => false,
        }
    }
}

/// The group that has a service's rights of that access.
pub fn group_name(service: &ServiceName, access: Access) -> String {
    format!("{service}_{}", access.suffix())
}

/// What the name of each migration role ends with.
pub(crate) const MIGRATION_SUFFIX: &str = "_ddl";

/// What the name of each login role begins with.
pub(crate) const LOGIN_PREFIX: &str = "lease_";

/// The login role of a holder's leases of that access. What is long is cut: the
/// generation alone tells roles apart.
pub fn login_name(service: &ServiceName, access: Access, holder: &str, generation: i64) -> String {
    /// Postgres cuts names at 63 bytes, and a generation may have 19 digits.
    const SERVICE_BYTES_MAX: usize = 24;
    const HOLDER_BYTES: usize = 4;
    let service = service.as_str();
    let service = &service[..service.len().min(SERVICE_BYTES_MAX)];
    let hash = Sha256::digest(holder);
    let holder: String = hash
        .iter()
        .take(HOLDER_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "{LOGIN_PREFIX}{service}_{}_{holder}_{generation}",
        access.suffix()
    )
}

/// Makes a service's migration role the owner of what the service has; makes its
/// groups and gives them their rights, on what is there and
/// what migrations will add; takes from PUBLIC what would be everybody's; makes
/// login roles that this branch inherited harmless and drops them.
/// Doing it again changes nothing. Two at once wait for each other.
///
/// `is_fenced` is looked at in between: who fences the branch writes that down before
/// taking the rights away, and takes them away under the same lock. So rights that are
/// given to a branch about to be fenced are given before, and none are given after.
pub async fn grant<E>(
    client: &mut Client,
    service: &ServiceSpec,
    branch: &BranchId,
    is_fenced: impl Future<Output = Result<bool, E>>,
) -> Result<(), Error>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let granting = || format!("grant the rights of the service {}", service.name);
    // Nobody may write more by it: a fence is nothing to it.
    ddl::ensure(client, service).await?;
    let transaction = locked(client, service, &granting()).await?;
    let is_fenced = is_fenced.await;
    if is_fenced.map_err(|error| Error::FenceUnknown(Box::new(error)))? {
        return Err(Error::Fenced {
            service: service.name.clone(),
        });
    }
    // Another service's rights may be given on the branch at the same moment, and both
    // change what is the database's: Postgres fails who comes second.
    let alone = transaction.batch_execute(login::LOCK).await;
    alone.attempted(granting())?;
    for access in Access::GROUPS {
        let group = group_name(&service.name, access);
        group_ensure(&transaction, &group).await?;
        let sql = rights::statements(service, &group, access);
        transaction
            .batch_execute(&sql)
            .await
            .attempted(granting())?;
        let sql = migrate::history::nothing_for(service, &group);
        transaction
            .batch_execute(&sql)
            .await
            .attempted(granting())?;
    }
    let sql = rights::nothing_for_public(service);
    transaction
        .batch_execute(&sql)
        .await
        .attempted(granting())?;
    transaction.commit().await.attempted(granting())?;
    for left in rights::left_to_public(client).await? {
        tracing::warn!(
            %branch,
            "every lease may {left}: PUBLIC may, and the owner cannot take it away"
        );
    }
    retire_inherited(client, branch).await
}

/// The comment of a group.
const GROUP_COMMENT: &str = "branch-broker group";

/// A transaction that holds the service's lock.
async fn locked<'a>(
    client: &'a mut Client,
    service: &ServiceSpec,
    what: &str,
) -> Result<Transaction<'a>, postgres::Error> {
    let transaction = client.transaction().await.attempted(what)?;
    let lock = migrate::lock_key(service);
    transaction
        .batch_execute(&format!(
            "SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};
             SET LOCAL client_min_messages = warning;
             SELECT pg_advisory_xact_lock({lock});"
        ))
        .await
        .attempted(what)?;
    Ok(transaction)
}

/// Makes a group inside a transaction.
async fn group_ensure(client: &impl GenericClient, group: &str) -> Result<(), Error> {
    match comment_of(client, group).await? {
        Found::Commented(comment) if comment == GROUP_COMMENT => Ok(()),
        Found::Commented(_) | Found::Bare => Err(Error::NotOurs {
            role: group.to_owned(),
        }),
        Found::Nothing => {
            let name = escape_identifier(group);
            let sql = format!(
                "CREATE ROLE {name} NOLOGIN;
                 COMMENT ON ROLE {name} IS {};",
                escape_literal(GROUP_COMMENT)
            );
            client
                .batch_execute(&sql)
                .await
                .attempted(format!("make the group {group}"))?;
            Ok(())
        }
    }
}

enum Found {
    Nothing,
    Bare,
    Commented(String),
}

async fn comment_of(client: &impl GenericClient, role: &str) -> Result<Found, postgres::Error> {
    let row = client
        .query_typed_opt(
            "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1::text",
            &[(&role, Type::TEXT)],
        )
        .await
        .attempted(format!("look at the role {role}"))?;
    Ok(match row.map(|row| row.get::<_, Option<String>>(0)) {
        None => Found::Nothing,
        Some(None) => Found::Bare,
        Some(Some(comment)) => Found::Commented(comment),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_role_name_says_service_and_access_and_is_never_cut() {
        let users: ServiceName = "users".parse().unwrap();
        let name = login_name(&users, Access::ReadWrite, "token:ci", 17);
        assert!(name.starts_with("lease_users_rw_"), "{name}");
        assert!(name.ends_with("_17"), "{name}");
        assert_ne!(name, login_name(&users, Access::ReadWrite, "token:di", 17));
        assert_eq!(group_name(&users, Access::ReadOnly), "users_ro");
        let long: ServiceName = "a".repeat(48).parse().unwrap();
        assert!(login_name(&long, Access::Ddl, "x", i64::MAX).len() <= 63);
    }
}
