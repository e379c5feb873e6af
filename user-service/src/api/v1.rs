//! users.v1: its messages, and nothing else.

use proto::users::v1::{
    self as wire, CreateUserRequest, CreateUserResponse, DeleteUserRequest, DeleteUserResponse,
    GetUserRequest, GetUserResponse, ListUsersRequest, ListUsersResponse, UpdateUserRequest,
    UpdateUserResponse, user_service_server::UserService,
};
use rpc::status::FieldViolations;
use tonic::{Request, Response, Status, async_trait};

use crate::{
    input::Input,
    user::{Change, NewUser, User, UserId},
    users::{Users, V1, Version},
};

#[async_trait]
impl UserService for Users<V1> {
    async fn get_user(
        &self,
        request: Request<GetUserRequest>,
    ) -> Result<Response<GetUserResponse>, Status> {
        let id = UserId::parse("id", request.into_inner().id)?;
        let user = self.get(id).await?;
        Ok(Response::new(GetUserResponse {
            user: Some(user.into()),
        }))
    }

    async fn list_users(
        &self,
        request: Request<ListUsersRequest>,
    ) -> Result<Response<ListUsersResponse>, Status> {
        let request = request.into_inner();
        let page = self.page(request.page_size, &request.page_token)?;
        let (users, next_page_token) = self.list(page).await?;
        Ok(Response::new(ListUsersResponse {
            users: users.into_iter().map(Into::into).collect(),
            next_page_token,
        }))
    }

    async fn create_user(
        &self,
        request: Request<CreateUserRequest>,
    ) -> Result<Response<CreateUserResponse>, Status> {
        let new = NewUser::try_from(request.into_inner())?;
        let user = self.create(new).await?;
        Ok(Response::new(CreateUserResponse {
            user: Some(user.into()),
        }))
    }

    async fn update_user(
        &self,
        request: Request<UpdateUserRequest>,
    ) -> Result<Response<UpdateUserResponse>, Status> {
        let (id, change) = change(request.into_inner())?;
        let user = self.update(id, change).await?;
        Ok(Response::new(UpdateUserResponse {
            user: Some(user.into()),
        }))
    }

    async fn delete_user(
        &self,
        request: Request<DeleteUserRequest>,
    ) -> Result<Response<DeleteUserResponse>, Status> {
        let id = UserId::parse("id", request.into_inner().id)?;
        self.delete(id).await?;
        Ok(Response::new(DeleteUserResponse {}))
    }
}

impl TryFrom<CreateUserRequest> for NewUser {
    type Error = FieldViolations;

    fn try_from(request: CreateUserRequest) -> Result<Self, FieldViolations> {
        Input::required(request.user)?.into_new()
    }
}

fn change(request: UpdateUserRequest) -> Result<(UserId, Change), FieldViolations> {
    Input::required(request.user)?.into_change(request.update_mask, V1::FIELDS)
}

impl From<wire::User> for Input {
    fn from(user: wire::User) -> Self {
        Self {
            id: user.id,
            name: user.name,
            email: user.email,
            ..Self::default()
        }
    }
}

impl From<User> for wire::User {
    fn from(user: User) -> Self {
        Self {
            id: user.id.get(),
            name: user.name,
            email: user.email,
        }
    }
}
