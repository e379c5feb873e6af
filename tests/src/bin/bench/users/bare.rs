//! A service as small as it can be: tonic, tokio-postgres, a pool of connections that
//! have their statements prepared.

use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::users::v2::User;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::{Client, Statement};
use tonic::Status;

use super::answers::Users;
use super::messages::{COLUMNS, of_row};
use super::serve::{Branch, failed};

pub(super) struct Bare {
    sessions: Vec<Session>,
    /// As many permits as sessions are idle.
    free: Semaphore,
    /// Which those are. The last to come is the first to go.
    idle: Mutex<Vec<usize>>,
}

struct Session {
    client: Client,
    get: Statement,
    list: Statement,
}

impl Bare {
    pub(super) async fn connect(branch: &Branch, connections: usize) -> anyhow::Result<Self> {
        let mut sessions = Vec::with_capacity(connections);
        for _ in 0..connections {
            let client = branch.connect().await?;
            let get = format!("SELECT {COLUMNS} FROM users WHERE id = $1");
            let list = format!("SELECT {COLUMNS} FROM users WHERE id > $1 ORDER BY id LIMIT $2");
            sessions.push(Session {
                get: client.prepare(&get).await?,
                list: client.prepare(&list).await?,
                client,
            });
        }
        Ok(Self {
            sessions,
            free: Semaphore::new(connections),
            idle: Mutex::new((0..connections).collect()),
        })
    }

    async fn session(&self) -> Result<Held<'_>, Status> {
        let permit = self.free.acquire().await.map_err(failed)?;
        let number = self.idle().pop();
        Ok(Held {
            of: self,
            number: number.ok_or_else(|| Status::internal("a permit stands for a session"))?,
            _permit: permit,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<usize>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Users for Bare {
    async fn get(&self, id: i32) -> Result<User, Status> {
        let held = self.session().await?;
        let session = held.session();
        let row = session.client.query_opt(&session.get, &[&id]).await;
        let row = row.map_err(failed)?;
        let row = row.ok_or_else(|| Status::not_found("no such user"))?;
        of_row(&row).map_err(failed)
    }

    async fn list(&self, after: i32, count: usize) -> Result<Vec<User>, Status> {
        let held = self.session().await?;
        let session = held.session();
        let count = i64::try_from(count).map_err(failed)?;
        let rows = session.client.query(&session.list, &[&after, &count]).await;
        let rows = rows.map_err(failed)?;
        let users: Result<_, _> = rows.iter().map(of_row).collect();
        users.map_err(failed)
    }
}

/// A session until it goes back, when this is dropped.
struct Held<'p> {
    of: &'p Bare,
    number: usize,
    /// Given back after the session.
    _permit: SemaphorePermit<'p>,
}

impl Held<'_> {
    fn session(&self) -> &Session {
        &self.of.sessions[self.number]
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.of.idle().push(self.number);
    }
}
