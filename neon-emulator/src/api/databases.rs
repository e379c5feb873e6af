//! Databases of a branch.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use neon_api::types::{
    Database, DatabaseCreateRequest, DatabaseOperations, DatabaseResponse, DatabaseUpdateRequest,
    DatabasesResponse,
};

use super::Shared;
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InBranch, InDatabase, Names};
use super::roles::{apply, check_name};
use super::{branches, projects};
use crate::new;
use crate::state::{BranchRecord, CatalogChange};
use crate::time::now;

pub(super) async fn list(
    engine: Shared,
    Names(names): Names<InBranch>,
) -> ApiResult<Json<DatabasesResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let branch = branches::find(project, &names.branch_id)?;
        Ok(Json(DatabasesResponse {
            databases: branch.databases.values().cloned().collect(),
        }))
    })
}

pub(super) async fn get(
    engine: Shared,
    Names(names): Names<InDatabase>,
) -> ApiResult<Json<DatabaseResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let branch = branches::find(project, &names.branch_id)?;
        let database = find(branch, &names.database_name)?.clone();
        Ok(Json(DatabaseResponse { database }))
    })
}

pub(super) async fn create(
    engine: Shared,
    Names(names): Names<InBranch>,
    Body(request): Body<DatabaseCreateRequest>,
) -> ApiResult<(StatusCode, Json<DatabaseOperations>)> {
    let wanted = request.database;
    check_new_name("database.name", &wanted.name)?;
    let answer = engine.change(|state| -> ApiResult<_> {
        let mut id = state.next_database_id;
        let project = projects::find_mut(state, &names.project_id)?;
        let branch = branches::find_mut(project, &names.branch_id)?;
        check_free(branch, &wanted.name)?;
        check_owner(branch, &wanted.owner_name)?;
        let max = engine.limits().databases;
        if branch.databases.len() >= max as usize {
            let message = format!("a branch may have {max} databases");
            return Err(ApiError::unprocessable(message).with_code("DATABASES_LIMIT_EXCEEDED"));
        }
        let database = new::database(&names.branch_id, &wanted.name, &wanted.owner_name, &mut id);
        branch
            .databases
            .insert(wanted.name.clone(), database.clone());
        let change = CatalogChange::Database {
            name: wanted.name,
            before: None,
        };
        let operations = apply(project, &names.branch_id, change)?;
        state.next_database_id = id;
        Ok(DatabaseOperations {
            database,
            operations,
        })
    })?;
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(super) async fn update(
    engine: Shared,
    Names(names): Names<InDatabase>,
    Body(request): Body<DatabaseUpdateRequest>,
) -> ApiResult<Json<DatabaseOperations>> {
    let wanted = request.database;
    if let Some(name) = &wanted.name {
        check_new_name("database.name", name)?;
    }
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let branch = branches::find_mut(project, &names.branch_id)?;
        let before = find(branch, &names.database_name)?.clone();
        let mut database = before.clone();
        if let Some(name) = wanted.name
            && name != database.name
        {
            check_free(branch, &name)?;
            database.name = name;
        }
        if let Some(owner) = wanted.owner_name {
            check_owner(branch, &owner)?;
            database.owner_name = owner;
        }
        database.updated_at = now();
        branch.databases.remove(&names.database_name);
        branch
            .databases
            .insert(database.name.clone(), database.clone());
        let change = CatalogChange::Database {
            name: database.name.clone(),
            before: Some(before),
        };
        let operations = apply(project, &names.branch_id, change)?;
        Ok(Json(DatabaseOperations {
            database,
            operations,
        }))
    })
}

pub(super) async fn delete(engine: Shared, Names(names): Names<InDatabase>) -> ApiResult<Response> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let branch = branches::find_mut(project, &names.branch_id)?;
        let Some(database) = branch.databases.remove(&names.database_name) else {
            return Ok(StatusCode::NO_CONTENT.into_response());
        };
        let change = CatalogChange::DropDatabase {
            before: database.clone(),
        };
        let operations = apply(project, &names.branch_id, change)?;
        Ok(Json(DatabaseOperations {
            database,
            operations,
        })
        .into_response())
    })
}

fn find<'a>(branch: &'a BranchRecord, name: &str) -> ApiResult<&'a Database> {
    branch
        .databases
        .get(name)
        .ok_or_else(|| ApiError::not_found("database"))
}

/// Checks the name of a new database.
pub(super) fn check_new_name(field: &str, name: &str) -> ApiResult<()> {
    check_name(field, name)?;
    // The emulator's own sessions are in postgres.
    if matches!(name, "postgres" | "template0" | "template1") {
        return Err(ApiError::unprocessable(format!(
            "{field}: {name} is reserved"
        )));
    }
    Ok(())
}

fn check_free(branch: &BranchRecord, name: &str) -> ApiResult<()> {
    if branch.databases.contains_key(name) {
        return Err(ApiError::conflict("database already exists"));
    }
    Ok(())
}

fn check_owner(branch: &BranchRecord, owner: &str) -> ApiResult<()> {
    if branch.roles.contains_key(owner) {
        return Ok(());
    }
    Err(ApiError::unprocessable(format!(
        "database.owner_name: there is no role {owner}"
    )))
}
