//! The API versions, each whole: its messages are its own. What is done with them is
//! the same for all, so that is written once.

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::Status;

mod v1;
mod v2;

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Implements the service of `$version`, whose messages are in `wire`, and become
/// [`Input`](crate::input::Input) and come of [`User`](crate::user::User) by `From`;
/// `bare` makes one of a user without the etag.
macro_rules! service {
    ($version:ty) => {
        #[tonic::async_trait]
        impl wire::user_service_server::UserService for Users<$version> {
            type StreamUsersStream = crate::api::Answers<wire::StreamUsersResponse>;

            async fn get_user(
                &self,
                request: Request<wire::GetUserRequest>,
            ) -> Result<Response<wire::GetUserResponse>, Status> {
                let id = UserId::parse("id", request.into_inner().id)?;
                let user = self.get(id).await?;
                Ok(Response::new(wire::GetUserResponse {
                    user: Some(user.into()),
                }))
            }

            async fn batch_get_users(
                &self,
                request: Request<wire::BatchGetUsersRequest>,
            ) -> Result<Response<wire::BatchGetUsersResponse>, Status> {
                let ids = input::ids(&request.into_inner().ids)?;
                let users = self.batch_get(&ids).await?;
                Ok(Response::new(wire::BatchGetUsersResponse {
                    users: users.into_iter().map(Into::into).collect(),
                }))
            }

            async fn list_users(
                &self,
                request: Request<wire::ListUsersRequest>,
            ) -> Result<Response<wire::ListUsersResponse>, Status> {
                let request = request.into_inner();
                let page = self.page(Asked {
                    page_size: request.page_size,
                    page_token: &request.page_token,
                    filter: &request.filter,
                    order_by: &request.order_by,
                })?;
                let (users, next_page_token) = self.list(page).await?;
                Ok(Response::new(wire::ListUsersResponse {
                    users: users.into_iter().map(Into::into).collect(),
                    next_page_token,
                }))
            }

            async fn stream_users(
                &self,
                _: Request<wire::StreamUsersRequest>,
            ) -> Result<Response<Self::StreamUsersStream>, Status> {
                let pieces = self.stream().await?;
                let answers = pieces.map(|piece| {
                    let users = piece?.into_iter().map(bare).collect();
                    Ok(wire::StreamUsersResponse { users })
                });
                let mut response: Response<Self::StreamUsersStream> =
                    Response::new(Box::pin(answers));
                response.extensions_mut().insert(EndsByItself);
                Ok(response)
            }

            async fn create_user(
                &self,
                request: Request<wire::CreateUserRequest>,
            ) -> Result<Response<wire::CreateUserResponse>, Status> {
                let request = request.into_inner();
                let (new, request_id) = input::new(request.user, &request.request_id)?;
                let user = self.create(new, request_id).await?;
                Ok(Response::new(wire::CreateUserResponse {
                    user: Some(user.into()),
                }))
            }

            async fn update_user(
                &self,
                request: Request<wire::UpdateUserRequest>,
            ) -> Result<Response<wire::UpdateUserResponse>, Status> {
                let request = request.into_inner();
                let known = <$version>::FIELDS;
                let (id, change, etag) = input::change(request.user, request.update_mask, known)?;
                let user = self.update(id, change, etag.as_deref()).await?;
                Ok(Response::new(wire::UpdateUserResponse {
                    user: Some(user.into()),
                }))
            }

            async fn delete_user(
                &self,
                request: Request<wire::DeleteUserRequest>,
            ) -> Result<Response<wire::DeleteUserResponse>, Status> {
                let request = request.into_inner();
                let id = UserId::parse("id", request.id)?;
                let etag = input::etag(request.etag);
                self.delete(id, etag.as_deref(), request.allow_missing)
                    .await?;
                Ok(Response::new(wire::DeleteUserResponse {}))
            }
        }
    };
}

use service;
