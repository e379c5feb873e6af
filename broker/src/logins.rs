//! Login roles of leases, on branches: made, made right and closed there, and the
//! URIs to log in with. What is written down of them is leases.rs's matter.

mod sessions;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use neon_api::BranchId;
use rpc::clock::Clock;
use secrecy::SecretString;

use crate::config::ServiceSpec;
use crate::connection::{self, NotAUri};
use crate::credentials::{Key, KeyId};
use crate::flights::Flights;
use crate::neon::OwnerUris;
use crate::postgres::{self, OwnerUri};
use crate::roles::{self, Access, FoundLogin};
use crate::state::{RoleKey, State};
use sessions::Sessions;

/// How long making or closing a role may take, in seconds, connecting to a
/// branch that wakes included.
const ROLE_SECONDS_MAX: u64 = 20;

/// How long taking the writes away from a branch may take, in seconds.
const FENCE_SECONDS_MAX: u64 = 25;

/// Where a lease leads: a service's tables on a branch.
#[derive(Debug, Clone)]
pub struct Place {
    /// The branch.
    pub branch: BranchId,
    /// The service.
    pub service: Arc<ServiceSpec>,
    /// How the owner of its database connects there.
    pub uris: OwnerUris,
    /// How many connections a holder may have open by one access.
    pub connections: u32,
    /// The binding's generation that leads there; 0 for none.
    pub generation: i64,
}

/// A role as it is to be on a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What it may do.
    pub access: Access,
    /// When its password ends by itself.
    pub valid_until: Timestamp,
}

/// How to log in.
#[derive(Debug, Clone)]
pub struct LoginUris {
    /// Where the branch is written.
    pub uri: SecretString,
    /// At its read-only endpoint, if it has one.
    pub replica: Option<SecretString>,
}

/// Makes login roles and closes them. Who asks for the same one at once shares
/// the work.
#[derive(Debug)]
pub struct Logins {
    state: Arc<State>,
    key: Key,
    clock: Clock,
    made: Flights<RoleKey, Timestamp>,
    sessions: Sessions,
}

impl Logins {
    /// With passwords from that key, and their ends by that clock.
    pub fn new(state: Arc<State>, key: Key, clock: Clock) -> Logins {
        Logins {
            state,
            key,
            clock,
            made: Flights::default(),
            sessions: Sessions::default(),
        }
    }

    /// The key that passwords are derived from.
    pub fn key_id(&self) -> &KeyId {
        self.key.id()
    }

    /// Makes a role, or makes it right, whatever became of it since. Says when its
    /// password ends.
    pub async fn make(
        &self,
        place: &Place,
        key: &RoleKey,
        wanted: Wanted,
    ) -> Result<Timestamp, Arc<roles::Error>> {
        let making = async {
            let login = roles::Login {
                role: &key.role,
                service: &place.service,
                access: wanted.access,
                branch: &key.branch,
                connections: place.connections,
                valid_until: wanted.valid_until,
            };
            let owner = &place.uris.direct;
            let making = self.sessions.work(owner, |client| async move {
                roles::login_ensure(&client, login, &self.key).await?;
                Ok((client, ()))
            });
            let what = format!("make a lease role on the branch {}", key.branch);
            postgres::bounded(Duration::from_secs(ROLE_SECONDS_MAX), what, making).await?;
            Ok(wanted.valid_until)
        };
        self.made.share(key.clone(), Box::pin(making)).await
    }

    /// Closes a role: nobody logs in as it, who has is thrown out, it is dropped.
    pub async fn close(&self, owner: &OwnerUri, role: &str) -> Result<(), roles::Error> {
        let closing = self.sessions.work(owner, |mut client| async move {
            roles::login_close(&mut client, role).await?;
            Ok((client, ()))
        });
        let limit = Duration::from_secs(ROLE_SECONDS_MAX);
        postgres::bounded(limit, format!("close the role {role}"), closing).await
    }

    /// The login roles that were made for a branch and are there.
    pub async fn found(
        &self,
        owner: &OwnerUri,
        branch: &BranchId,
    ) -> Result<Vec<FoundLogin>, roles::Error> {
        let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::MAX);
        let listing = self.sessions.work(owner, |client| async move {
            let found = roles::logins_of(&client, branch, now).await?;
            Ok((client, found))
        });
        let limit = Duration::from_secs(ROLE_SECONDS_MAX);
        postgres::bounded(limit, "list the lease roles", listing).await
    }

    /// Gives a service's groups their rights on a branch that no binding lives on, and
    /// makes what the branch inherited harmless. None are given while it is fenced.
    pub async fn prepare(&self, place: &Place) -> Result<(), roles::Error> {
        let owner = &place.uris.direct;
        let preparing = self.sessions.work(owner, |mut client| async move {
            let Place {
                branch, service, ..
            } = place;
            if !roles::are_granted(&client, service, branch).await? {
                let is_fenced = self.state.is_fenced(branch, &service.name);
                roles::grant(&mut client, service, branch, is_fenced).await?;
            }
            Ok((client, ()))
        });
        let what = format!("prepare the branch {} for leases", place.branch);
        postgres::bounded(Duration::from_secs(ROLE_SECONDS_MAX), what, preparing).await
    }

    /// Takes a service's writes away from a branch, and returns when they have ended.
    /// [`Logins::prepare`] gives the rights back.
    pub async fn fence(&self, place: &Place) -> Result<(), roles::Error> {
        let owner = &place.uris.direct;
        let fencing = self.sessions.work(owner, |mut client| async move {
            roles::fence(&mut client, &place.service).await?;
            Ok((client, ()))
        });
        let what = format!("take the writes away from the branch {}", place.branch);
        postgres::bounded(Duration::from_secs(FENCE_SECONDS_MAX), what, fencing).await
    }

    /// Makes the lease roles that a new branch inherited harmless: nobody who has one
    /// on the parent gets in.
    pub async fn disinherit(
        &self,
        owner: &OwnerUri,
        branch: &BranchId,
    ) -> Result<(), roles::Error> {
        let retiring = self.sessions.work(owner, |mut client| async move {
            roles::retire_inherited(&mut client, branch).await?;
            Ok((client, ()))
        });
        let what = format!("drop the lease roles that the branch {branch} inherited");
        postgres::bounded(Duration::from_secs(ROLE_SECONDS_MAX), what, retiring).await
    }

    /// Ends the sessions that are kept for the next work: a branch may be another by now.
    pub fn forget_sessions(&self) {
        self.sessions.forget();
    }

    /// The URIs to log in with as that role.
    pub fn uris(&self, place: &Place, role: &str, pooled: bool) -> Result<LoginUris, NotAUri> {
        let OwnerUris {
            direct,
            pooled: through_pooler,
            replica,
        } = &place.uris;
        let password = self.key.password(&place.branch, role);
        let uri = |direct: &OwnerUri, through_pooler: &OwnerUri| {
            let owner = if pooled { through_pooler } else { direct };
            connection::lease_uri(owner, role, &password)
        };
        let replica = replica.as_ref();
        let replica = replica.map(|replica| uri(&replica.direct, &replica.pooled));
        Ok(LoginUris {
            uri: uri(direct, through_pooler)?,
            replica: replica.transpose()?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::neon::ReplicaUris;

    fn owner(host: &str) -> OwnerUri {
        OwnerUri::new(format!("postgresql://owner:p@{host}/neondb"))
    }

    #[test]
    fn a_role_has_one_password_wherever_it_logs_in() {
        let logins = Logins::new(Arc::new(State::in_memory()), Key::random(), Clock::system());
        let mut place = Place {
            branch: "br-a".parse().unwrap(),
            service: Arc::new(ServiceSpec {
                name: "users".parse().unwrap(),
                database: "neondb".into(),
                schema: "users".into(),
                migrations: "migrations".into(),
                statement_timeout: Duration::from_secs(30),
            }),
            uris: OwnerUris {
                direct: owner("writer"),
                pooled: owner("writer-pooler"),
                replica: None,
            },
            connections: 1,
            generation: 0,
        };
        let alone = logins.uris(&place, "lease", false).unwrap();
        assert!(alone.replica.is_none());
        let uri = alone.uri.expose_secret();
        let (user, rest) = uri.split_once("@writer").unwrap();
        assert_eq!(rest, "/neondb");

        place.uris.replica = Some(ReplicaUris {
            direct: owner("reader"),
            pooled: owner("reader-pooler"),
        });
        for (pooled, suffix) in [(false, ""), (true, "-pooler")] {
            let both = logins.uris(&place, "lease", pooled).unwrap();
            let shown = [both.uri, both.replica.unwrap()];
            let wanted = ["writer", "reader"].map(|host| format!("{user}@{host}{suffix}/neondb"));
            assert_eq!(shown.map(|uri| uri.expose_secret().to_owned()), wanted);
        }
    }
}
