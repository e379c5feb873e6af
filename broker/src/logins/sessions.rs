//! Sessions of owners, kept for a moment after their work: a login over TLS takes
//! longer than most of what is done with it, and roles are often made one after
//! another. What fails is not kept, so what it had begun is rolled back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::postgres::{self, OwnerUri};
use crate::roles;

/// How long a session is kept that nobody uses, in milliseconds: too short to keep a
/// branch awake, or to be in anybody's way for long.
const KEPT_MS: u64 = 3_000;
/// How many are kept, of all branches together.
const KEPT_MAX: usize = 32;

/// Sessions that nobody uses just now.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    kept: Arc<Mutex<Vec<Kept>>>,
}

struct Kept {
    owner: OwnerUri,
    client: Client,
    until: Instant,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl Sessions {
    /// Works as an owner, with a session that is given back. What fails on a session that was kept, which may have ended
    /// meanwhile, is done again on another: it must be as good twice as once.
    pub(super) async fn work<T, F>(
        &self,
        owner: &OwnerUri,
        work: impl Fn(Client) -> F,
    ) -> Result<T, roles::Error>
    where
        F: Future<Output = Result<(Client, T), roles::Error>>,
    {
        while let Some(client) = self.take(owner) {
            match work(client).await {
                Ok((client, done)) => {
                    self.keep(owner, client);
                    return Ok(done);
                }
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        let (client, done) = work(postgres::session(owner).await?).await?;
        self.keep(owner, client);
        Ok(done)
    }

    /// Ends all that are kept: they may lead to what a branch was before.
    pub(super) fn forget(&self) {
        kept(&self.kept).clear();
    }

    fn take(&self, owner: &OwnerUri) -> Option<Client> {
        let mut kept = kept(&self.kept);
        let now = Instant::now();
        kept.retain(|one| one.until > now && !one.client.is_closed());
        let found = kept.iter().rposition(|one| one.owner.is(owner))?;
        Some(kept.remove(found).client)
    }

    fn keep(&self, owner: &OwnerUri, client: Client) {
        let until = Instant::now() + Duration::from_millis(KEPT_MS);
        let mut kept = kept(&self.kept);
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push(Kept {
            owner: owner.clone(),
            client,
            until,
        });
        let sessions = Arc::clone(&self.kept);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            let now = Instant::now();
            self::kept(&sessions).retain(|one| one.until > now);
        });
    }
}

fn kept(sessions: &Mutex<Vec<Kept>>) -> MutexGuard<'_, Vec<Kept>> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio_postgres::NoTls;

    use super::*;

    /// A session with somebody who lets everybody in, and the other end of it.
    async fn session() -> (Client, DuplexStream) {
        let (ours, mut theirs) = tokio::io::duplex(1_024);
        let mut config = tokio_postgres::Config::new();
        config.user("owner");
        let connecting = config.connect_raw(ours, NoTls);
        let answering = async {
            let mut startup = [0; 256];
            let _ = theirs.read(&mut startup).await.unwrap();
            // Let in, and ready.
            let welcome = *b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
            theirs.write_all(&welcome).await.unwrap();
        };
        let (connected, ()) = futures_util::future::join(connecting, answering).await;
        let (client, connection) = connected.unwrap();
        tokio::spawn(connection);
        (client, theirs)
    }

    fn owner(branch: &str) -> OwnerUri {
        OwnerUri::new(format!("postgres://owner@{branch}"))
    }

    #[tokio::test]
    async fn a_kept_session_is_for_its_owner_and_once() {
        let sessions = Sessions::default();
        let (client, _theirs) = session().await;
        sessions.keep(&owner("a"), client);
        assert!(sessions.take(&owner("b")).is_none());
        assert!(sessions.take(&owner("a")).is_some());
        assert!(sessions.take(&owner("a")).is_none());
    }

    #[tokio::test]
    async fn sessions_that_are_forgotten_are_ended() {
        let sessions = Sessions::default();
        let (client, mut theirs) = session().await;
        sessions.keep(&owner("a"), client);
        sessions.forget();
        assert!(sessions.take(&owner("a")).is_none());
        // The other end hears of it.
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, *b"X\0\0\0\x04");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_given_up_that_nobody_uses() {
        let sessions = Sessions::default();
        let (client, mut theirs) = session().await;
        sessions.keep(&owner("a"), client);
        let mut rest = Vec::new();
        let begun = Instant::now();
        theirs.read_to_end(&mut rest).await.unwrap();
        assert_eq!(begun.elapsed().as_millis() / 100, u128::from(KEPT_MS) / 100);
        assert!(sessions.take(&owner("a")).is_none());
    }

    #[tokio::test]
    async fn a_session_that_has_ended_is_not_taken() {
        let sessions = Sessions::default();
        let (client, theirs) = session().await;
        drop(theirs);
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
        sessions.keep(&owner("a"), client);
        assert!(sessions.take(&owner("a")).is_none());
    }

    #[tokio::test]
    async fn no_more_are_kept_than_may_be() {
        let sessions = Sessions::default();
        let mut others = Vec::new();
        for number in 0..=KEPT_MAX {
            let (client, theirs) = session().await;
            sessions.keep(&owner(&number.to_string()), client);
            others.push(theirs);
        }
        assert!(sessions.take(&owner("0")).is_none(), "the oldest went");
        assert!(sessions.take(&owner("1")).is_some());
    }
}
