//! Two methods of users.v2 on tonic, and nothing else: written as tonic generates them,
//! so that others may be added to the API.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use proto::codec::Codec;
use proto::users::v2::{
    GetUserRequest, GetUserResponse, ListUsersRequest, ListUsersResponse, User,
};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

use super::messages::{GET, LIST, found, page};

/// Where the answers come from.
pub(super) trait Users: Send + Sync + 'static {
    /// A user.
    fn get(&self, id: i32) -> impl Future<Output = Result<User, Status>> + Send;

    /// At most `count` users above an id, by id.
    fn list(
        &self,
        after: i32,
        count: usize,
    ) -> impl Future<Output = Result<Vec<User>, Status>> + Send;
}

/// The service.
pub(super) struct Answers<U>(Arc<U>);

impl<U> Answers<U> {
    pub(super) fn new(users: U) -> Self {
        Self(Arc::new(users))
    }
}

impl<U> Clone for Answers<U> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<U> NamedService for Answers<U> {
    const NAME: &'static str = "users.v2.UserService";
}

impl<U: Users> Service<http::Request<Body>> for Answers<U> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let users = self.clone();
        match request.uri().path() {
            GET => Box::pin(async move {
                let mut grpc = Grpc::new(Codec::default());
                Ok(grpc.unary(Get(users), request).await)
            }),
            LIST => Box::pin(async move {
                let mut grpc = Grpc::new(Codec::default());
                Ok(grpc.unary(List(users), request).await)
            }),
            _ => Box::pin(async { Ok(Status::unimplemented("it is not measured").into_http()) }),
        }
    }
}

struct Get<U>(Answers<U>);

impl<U: Users> UnaryService<GetUserRequest> for Get<U> {
    type Response = GetUserResponse;
    type Future = BoxFuture<Response<GetUserResponse>, Status>;

    fn call(&mut self, request: Request<GetUserRequest>) -> Self::Future {
        let Answers(users) = self.0.clone();
        Box::pin(async move {
            let user = users.get(request.into_inner().id).await?;
            Ok(Response::new(found(user)))
        })
    }
}

struct List<U>(Answers<U>);

impl<U: Users> UnaryService<ListUsersRequest> for List<U> {
    type Response = ListUsersResponse;
    type Future = BoxFuture<Response<ListUsersResponse>, Status>;

    fn call(&mut self, request: Request<ListUsersRequest>) -> Self::Future {
        let Answers(users) = self.0.clone();
        Box::pin(async move {
            let request = request.into_inner();
            let size = usize::try_from(request.page_size)
                .map_err(|_| Status::invalid_argument("page_size"))?;
            let after = match &*request.page_token {
                "" => 0,
                token => token
                    .parse()
                    .map_err(|_| Status::invalid_argument("page_token"))?,
            };
            // One more than asked for tells whether there is a next page.
            let mut users = users.list(after, size + 1).await?;
            let more = users.len() > size;
            users.truncate(size);
            let next = match users.last() {
                Some(last) if more => last.id.to_string(),
                _ => String::new(),
            };
            Ok(Response::new(page(users, next)))
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::users::v2::User;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;

    use super::super::messages::{get_user, list_users};
    use super::*;
    use crate::wire::{Call, Wire};

    /// Each user's id is all that there is of it.
    struct Few(i32);

    impl Users for Few {
        async fn get(&self, id: i32) -> Result<User, Status> {
            let found = (1..=self.0).contains(&id).then(|| with_id(id));
            found.ok_or_else(|| Status::not_found("no such user"))
        }

        async fn list(&self, after: i32, count: usize) -> Result<Vec<User>, Status> {
            Ok((after + 1..=self.0).take(count).map(with_id).collect())
        }
    }

    fn with_id(id: i32) -> User {
        User {
            id,
            ..User::default()
        }
    }

    async fn serve(users: Few) -> anyhow::Result<Wire> {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
        let address = incoming.local_addr()?.to_string();
        let server = Server::builder().add_service(Answers::new(users));
        tokio::spawn(server.serve_with_incoming(incoming));
        Wire::connect(&address).await
    }

    #[tokio::test]
    async fn a_user_is_answered_and_one_that_is_not_there_is_an_error() -> anyhow::Result<()> {
        let wire = serve(Few(3)).await?;
        let answer: GetUserResponse = wire.answer(&get_user(3)).await?;
        assert_eq!(answer, found(with_id(3)));
        wire.call(&get_user(3)).await?;
        for call in [
            get_user(4),
            Call::new("/users.v2.UserService/DropUsers", &()),
        ] {
            let error = wire.call(&call).await.unwrap_err().to_string();
            assert!(error.contains("grpc-status"), "{error}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn pages_lead_to_each_other_until_there_is_none() -> anyhow::Result<()> {
        let wire = serve(Few(250)).await?;
        let (mut sizes, mut token) = (Vec::new(), String::new());
        loop {
            let answer: ListUsersResponse = wire.answer(&list_users(&token)).await?;
            sizes.push((answer.users.len(), answer.users.first().map(|user| user.id)));
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(sizes, [(100, Some(1)), (100, Some(101)), (50, Some(201))]);
        Ok(())
    }
}
