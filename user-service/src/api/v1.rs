//! users.v1: its messages, and nothing else.

use proto::users::v1 as wire;
use rpc::server::EndsByItself;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status};

use crate::{
    input::{self, Input},
    listing::Asked,
    user::{User, UserId},
    users::{Users, V1, Version},
};

super::service!(V1);

impl From<wire::User> for Input {
    fn from(user: wire::User) -> Self {
        Self {
            id: user.id,
            name: user.name,
            email: user.email,
            etag: user.etag,
            ..Self::default()
        }
    }
}

impl From<User> for wire::User {
    fn from(user: User) -> Self {
        Self {
            etag: user.etag(),
            ..bare(user)
        }
    }
}

/// Without the etag: a hash for each is what a stream of many would cost most.
fn bare(user: User) -> wire::User {
    wire::User {
        id: user.id.get(),
        name: user.name,
        email: user.email,
        etag: String::new(),
    }
}
