//! Connections for leases: the login role made where it is missing, the URI
//! with its password.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use neon_api::BranchId;
use secrecy::SecretString;
use tokio::sync::OnceCell;

use crate::bindings::{Binding, Target};
use crate::connection::{self, NotAUri};
use crate::credentials::Key;
use crate::leases::Grant;
use crate::postgres;
use crate::roles::{self, Access};

/// A connection that a lease may use.
#[derive(Debug, Clone)]
pub struct Login {
    /// What the lease leads to.
    pub grant: Grant,
    /// The URI to connect with.
    pub uri: SecretString,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The role could not be made.
    #[error(transparent)]
    Role(#[from] roles::Error),
    /// Neon's URI takes no role.
    #[error(transparent)]
    Uri(#[from] NotAUri),
}

/// Makes login roles, each once: which are there is remembered, and who asks for
/// the same one at once waits for the first.
#[derive(Debug)]
pub struct Logins {
    key: Key,
    made: Mutex<HashMap<(BranchId, String), Made>>,
}

/// Set once the role is there.
type Made = Arc<OnceCell<()>>;

impl Logins {
    /// With passwords from that key.
    pub fn new(key: Key) -> Logins {
        Logins {
            key,
            made: Mutex::default(),
        }
    }

    /// The connection that a lease on the binding gets.
    pub async fn login(
        &self,
        binding: &Binding,
        target: &Target,
        access: Access,
        pooled: bool,
    ) -> Result<Login, Error> {
        let role = roles::login_name(&binding.spec.name, access);
        let made = self.cell(&target.branch, &role);
        made.get_or_try_init(|| self.make(binding, target, access))
            .await?;
        let password = self.key.password(&target.branch, &role);
        let owner = match pooled {
            true => &target.uris.pooled,
            false => &target.uris.direct,
        };
        Ok(Login {
            uri: connection::lease_uri(owner, &role, &password)?,
            grant: Grant {
                branch: target.branch.clone(),
                generation: target.generation,
                role,
                key: self.key.id().clone(),
            },
        })
    }

    /// Forgets which roles are there, so that each is looked at again when it is
    /// next asked for.
    pub fn forget(&self) {
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    async fn make(
        &self,
        binding: &Binding,
        target: &Target,
        access: Access,
    ) -> Result<(), roles::Error> {
        let mut client = postgres::session(&target.uris.direct).await?;
        let spec = &binding.spec;
        let (service, branch) = (&spec.service, &target.branch);
        roles::login_ensure(&mut client, service, &spec.name, access, branch, &self.key).await?;
        Ok(())
    }

    fn cell(&self, branch: &BranchId, role: &str) -> Made {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (branch.clone(), role.to_owned());
        Arc::clone(made.entry(place).or_default())
    }
}
