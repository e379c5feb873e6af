//! One caller: what it calls, and what has to be true of each answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, ensure};
use proto::users::v1;
use proto::users::v1::user_service_client::UserServiceClient;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};
use uuid::Uuid;

use super::{Kept, MARKED, Meanwhile, Shared, lock};

/// What is called. Of twenty calls, twelve get a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Get,
    BatchGet,
    List,
    /// One call in two hundred.
    Stream,
    /// Under a request id.
    Create,
    /// Without one.
    CreateBare,
    /// Whatever the user is like.
    Update,
    /// Of a user who is as the caller knows it.
    UpdateKnown,
    /// Of a user who is as the caller knows it.
    DeleteKnown,
}

impl Call {
    fn of_turn(turn: u64) -> Self {
        const STREAM_EACH: u64 = 200;
        match turn % 20 {
            _ if turn.is_multiple_of(STREAM_EACH) => Self::Stream,
            12 => Self::BatchGet,
            13 | 14 => Self::List,
            15 => Self::Create,
            16 => Self::CreateBare,
            17 => Self::Update,
            18 => Self::UpdateKnown,
            19 => Self::DeleteKnown,
            _ => Self::Get,
        }
    }

    /// Whether a second time may do what the first one has done already.
    pub(crate) fn is_done_once(self) -> bool {
        matches!(
            self,
            Self::CreateBare | Self::UpdateKnown | Self::DeleteKnown
        )
    }

    /// Whether it can be cut off: a change, and a stream of which a part has come.
    pub(crate) fn may_be_cut_off(self) -> bool {
        self.is_done_once() || matches!(self, Self::Update | Self::Stream)
    }
}

type Client = UserServiceClient<Channel>;
/// Outside: what was answered wrongly. Inside: how the call came to nothing.
type Made<T> = anyhow::Result<Result<T, Status>>;

pub(super) struct Caller {
    client: Client,
    shared: Arc<Shared>,
    /// A user whom only this caller changes, as far as it knows it.
    own: Option<v1::User>,
}

impl Caller {
    pub(super) fn new(client: Client, shared: Arc<Shared>) -> Self {
        Self {
            client,
            shared,
            own: None,
        }
    }

    /// What is called next: a create where there is nobody to change.
    pub(super) fn call_of(&self, turn: u64) -> Call {
        match Call::of_turn(turn) {
            Call::Update | Call::UpdateKnown | Call::DeleteKnown if self.own.is_none() => {
                Call::Create
            }
            // An id that was taken back may be somebody else's.
            Call::Update if self.shared.meanwhile == Meanwhile::TakenBack => Call::UpdateKnown,
            call => call,
        }
    }

    pub(super) async fn make(&mut self, call: Call, turn: u64) -> Made<()> {
        match call {
            Call::Get => self.get(turn).await,
            Call::BatchGet => self.batch_get().await,
            Call::List => self.list().await,
            Call::Stream => self.stream().await,
            Call::Create => self.create(Uuid::new_v4().to_string()).await,
            Call::CreateBare => self.create(String::new()).await,
            Call::Update => self.update(false).await,
            Call::UpdateKnown => self.update(true).await,
            Call::DeleteKnown => self.delete().await,
        }
    }

    async fn get(&mut self, turn: u64) -> Made<()> {
        let id = i32::try_from(turn % u64::from(MARKED.unsigned_abs()))? + 1;
        let begun = Instant::now();
        let answer = match self.client.get_user(v1::GetUserRequest { id }).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let user = answer.user.context("a user")?;
        ensure!(user.id == id, "user {id}, not {user:?}");
        self.are_marked(&[user], begun)?;
        Ok(Ok(()))
    }

    async fn batch_get(&mut self) -> Made<()> {
        let ids: Vec<i32> = (1..=MARKED).rev().collect();
        let begun = Instant::now();
        let request = v1::BatchGetUsersRequest { ids: ids.clone() };
        let answer = match self.client.batch_get_users(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let found: Vec<i32> = answer.users.iter().map(|user| user.id).collect();
        ensure!(found == ids, "{found:?}, not {ids:?}");
        self.are_marked(&answer.users, begun)?;
        Ok(Ok(()))
    }

    async fn list(&mut self) -> Made<()> {
        let begun = Instant::now();
        let request = v1::ListUsersRequest {
            page_size: MARKED,
            ..Default::default()
        };
        let answer = match self.client.list_users(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        self.are_marked(&answer.users, begun)?;
        Ok(Ok(()))
    }

    async fn stream(&mut self) -> Made<()> {
        let begun = Instant::now();
        let request = v1::StreamUsersRequest::default();
        let mut pieces = match self.client.stream_users(request).await {
            Ok(pieces) => pieces.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let (mut marked, mut ids) = (Vec::new(), BTreeSet::new());
        loop {
            match pieces.message().await {
                Ok(None) => break,
                Ok(Some(piece)) => {
                    for user in piece.users {
                        ensure!(ids.insert(user.id), "{user:?} came twice");
                        if user.id <= MARKED {
                            marked.push(user);
                        }
                    }
                }
                Err(status) => return Ok(Err(status)),
            }
        }
        ensure!(
            marked.len() == MARKED.unsigned_abs() as usize,
            "a stream that ends well has everybody: {marked:?}"
        );
        self.are_marked(&marked, begun)?;
        Ok(Ok(()))
    }

    async fn create(&mut self, request_id: String) -> Made<()> {
        let email = format!("{}@example.com", Uuid::new_v4().simple());
        let user = v1::User {
            name: "created".to_owned(),
            email: email.clone(),
            ..Default::default()
        };
        let request = v1::CreateUserRequest {
            user: Some(user),
            request_id,
        };
        let asked = Instant::now();
        match self.client.create_user(request).await {
            Ok(answer) => {
                let user = answer.into_inner().user.context("a user")?;
                ensure!(user.email == email, "{user:?}");
                self.is_of_the_branch(user.id, asked)?;
                let names = BTreeSet::from([user.name.clone()]);
                let kept = Kept { asked, names };
                lock(&self.shared.outcome).kept.insert(email, kept);
                self.own = Some(user);
                Ok(Ok(()))
            }
            Err(status) => Ok(Err(status)),
        }
    }

    async fn update(&mut self, is_known: bool) -> Made<()> {
        let own = self.own.take().context("somebody to change")?;
        let name = format!("written {}", Uuid::new_v4());
        let mut user = v1::User {
            id: own.id,
            name: name.clone(),
            ..Default::default()
        };
        if is_known {
            user.etag = own.etag;
        }
        let request = v1::UpdateUserRequest {
            user: Some(user),
            update_mask: None,
        };
        match self.client.update_user(request).await {
            Ok(answer) => {
                let user = answer.into_inner().user.context("a user")?;
                ensure!(user.name == name && user.email == own.email, "{user:?}");
                if let Some(kept) = lock(&self.shared.outcome).kept.get_mut(&own.email) {
                    kept.names = BTreeSet::from([name]);
                }
                self.own = Some(user);
                Ok(Ok(()))
            }
            Err(status) => {
                if let Some(kept) = lock(&self.shared.outcome).kept.get_mut(&own.email) {
                    kept.names.insert(name);
                }
                Ok(self.unless_elsewhere(status))
            }
        }
    }

    async fn delete(&mut self) -> Made<()> {
        let own = self.own.take().context("somebody to change")?;
        let request = v1::DeleteUserRequest {
            id: own.id,
            etag: own.etag,
            allow_missing: false,
        };
        let asked = Instant::now();
        // Until it is answered nobody knows.
        let kept = lock(&self.shared.outcome).kept.remove(&own.email);
        match self.client.delete_user(request).await {
            Ok(_) => {
                lock(&self.shared.outcome).gone.insert(own.email, asked);
                Ok(Ok(()))
            }
            Err(status) => {
                let elsewhere = self.unless_elsewhere(status);
                if let (Ok(()), Some(kept)) = (&elsewhere, kept) {
                    lock(&self.shared.outcome).kept.insert(own.email, kept);
                }
                Ok(elsewhere)
            }
        }
    }

    /// An answer, too: the user was created on another branch, or is taken back, and the
    /// id perhaps given to another.
    fn unless_elsewhere(&self, status: Status) -> Result<(), Status> {
        match status.code() {
            Code::NotFound if self.shared.meanwhile != Meanwhile::Stays => Ok(()),
            Code::Aborted if self.shared.meanwhile == Meanwhile::TakenBack => Ok(()),
            _ => Err(status),
        }
    }

    /// Fails if the id is of a branch that was not current since the call began.
    fn is_of_the_branch(&self, id: i32, begun: Instant) -> anyhow::Result<()> {
        let Meanwhile::Moves(ids) = &self.shared.meanwhile else {
            return Ok(());
        };
        let marks = self.shared.marks_since(begun);
        let mut allowed = marks.iter().filter_map(|mark| ids.get(mark));
        ensure!(
            allowed.any(|ids| ids.contains(&id)),
            "user {id} was created on another branch than {marks:?}"
        );
        Ok(())
    }

    /// Fails unless these rows, of one answer, all say one thing, and one that rows said
    /// at some time since the call began.
    fn are_marked(&self, users: &[v1::User], begun: Instant) -> anyhow::Result<()> {
        let names: BTreeSet<_> = users.iter().map(|user| &user.name).collect();
        ensure!(names.len() == 1, "one answer of two branches: {names:?}");
        let marks = self.shared.marks_since(begun);
        ensure!(
            names.iter().all(|name| marks.contains(*name)),
            "rows of another branch: {names:?}, when there were {marks:?}"
        );
        Ok(())
    }
}
