//! Postgres roles of a branch.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use neon_api::types::{
    OperationAction, Role, RoleCreateRequest, RoleOperations, RolePasswordResponse, RoleResponse,
    RolesResponse,
};
use uuid::Uuid;

use super::Shared;
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InBranch, InRole, Names};
use super::{branches, projects};
use crate::state::{BranchRecord, CatalogChange, Job, ProjectRecord};
use crate::time::now;
use crate::{names, new, operations};

/// Postgres cuts longer identifiers.
const NAME_BYTES_MAX: usize = 63;
/// Names that Postgres or the emulator itself uses.
const RESERVED: [&str; 5] = [
    "cloud_admin",
    "neon_superuser",
    "postgres",
    "public",
    "none",
];

pub(super) async fn list(
    engine: Shared,
    Names(names): Names<InBranch>,
) -> ApiResult<Json<RolesResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let branch = branches::find(project, &names.branch_id)?;
        Ok(Json(RolesResponse {
            roles: branch.roles.values().map(without_password).collect(),
        }))
    })
}

pub(super) async fn get(
    engine: Shared,
    Names(names): Names<InRole>,
) -> ApiResult<Json<RoleResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let role = find(branches::find(project, &names.branch_id)?, &names.role_name)?;
        Ok(Json(RoleResponse {
            role: without_password(role),
        }))
    })
}

pub(super) async fn create(
    engine: Shared,
    Names(names): Names<InBranch>,
    Body(request): Body<RoleCreateRequest>,
) -> ApiResult<(StatusCode, Json<RoleOperations>)> {
    let wanted = request.role;
    check_new_name("role.name", &wanted.name)?;
    let answer = engine.change(|state| -> ApiResult<_> {
        let project = projects::find_mut(state, &names.project_id)?;
        let branch = branches::find_mut(project, &names.branch_id)?;
        if branch.roles.contains_key(&wanted.name) {
            return Err(ApiError::conflict("role already exists"));
        }
        let max = engine.limits().roles;
        if branch.roles.len() >= max as usize {
            let message = format!("a branch may have {max} roles");
            return Err(ApiError::unprocessable(message).with_code("ROLES_LIMIT_EXCEEDED"));
        }
        let login = !wanted.no_login.unwrap_or(false);
        let role = new::role(&names.branch_id, &wanted.name, login);
        branch.roles.insert(wanted.name.clone(), role.clone());
        let change = CatalogChange::Role {
            name: wanted.name,
            before: None,
        };
        let operations = apply(project, &names.branch_id, change)?;
        let role = tell(project, &role);
        Ok(RoleOperations { role, operations })
    })?;
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(super) async fn delete(engine: Shared, Names(names): Names<InRole>) -> ApiResult<Response> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let branch = branches::find_mut(project, &names.branch_id)?;
        let owned: Vec<&str> = branch
            .databases
            .values()
            .filter(|database| database.owner_name == names.role_name)
            .map(|database| database.name.as_str())
            .collect();
        if !owned.is_empty() {
            return Err(ApiError::unprocessable(format!(
                "role {} owns databases: {}",
                names.role_name,
                owned.join(", ")
            )));
        }
        let Some(role) = branch.roles.remove(&names.role_name) else {
            return Ok(StatusCode::NO_CONTENT.into_response());
        };
        let answer = without_password(&role);
        let change = CatalogChange::DropRole { before: role };
        let operations = apply(project, &names.branch_id, change)?;
        let role = answer;
        Ok(Json(RoleOperations { role, operations }).into_response())
    })
}

pub(super) async fn reveal(
    engine: Shared,
    Names(names): Names<InRole>,
) -> ApiResult<Json<RolePasswordResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let role = find(branches::find(project, &names.branch_id)?, &names.role_name)?;
        if !project.project.store_passwords {
            return Err(ApiError::no_stored_passwords());
        }
        let password = role
            .password
            .clone()
            .ok_or_else(|| ApiError::not_found("password"))?;
        Ok(Json(RolePasswordResponse { password }))
    })
}

pub(super) async fn reset(
    engine: Shared,
    Names(names): Names<InRole>,
) -> ApiResult<Json<RoleOperations>> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let branch = branches::find_mut(project, &names.branch_id)?;
        let role = branch
            .roles
            .get_mut(&names.role_name)
            .ok_or_else(|| ApiError::not_found("role"))?;
        if role.password.is_none() {
            return Err(ApiError::unprocessable(format!(
                "role {} cannot log in",
                names.role_name
            )));
        }
        let before = Some(role.clone());
        role.password = Some(names::password().into());
        role.updated_at = now();
        let role = role.clone();
        let change = CatalogChange::Role {
            name: names.role_name,
            before,
        };
        let operations = apply(project, &names.branch_id, change)?;
        Ok(Json(RoleOperations { role, operations }))
    })
}

/// Schedules a change to the branch's roles or databases.
pub(super) fn apply(
    project: &mut ProjectRecord,
    branch: &neon_api::BranchId,
    change: CatalogChange,
) -> ApiResult<Vec<neon_api::types::Operation>> {
    if project.is_busy(branch) {
        return Err(ApiError::locked());
    }
    let endpoint = project
        .read_write_endpoint(branch)
        .map(|record| record.endpoint.id.clone());
    let record = operations::record(
        &project.project.id,
        Some(branch),
        endpoint.as_ref(),
        OperationAction::ApplyConfig,
        Job::ApplyConfig {
            branch: branch.clone(),
            change,
        },
        Uuid::new_v4(),
    );
    Ok(project.schedule(vec![record]))
}

/// Checks the name of a new role.
pub(super) fn check_new_name(field: &str, name: &str) -> ApiResult<()> {
    check_name(field, name)?;
    if RESERVED.contains(&name) || name.starts_with("pg_") {
        return Err(ApiError::unprocessable(format!(
            "{field}: {name} is reserved"
        )));
    }
    Ok(())
}

/// Checks the name of a role or a database.
pub(super) fn check_name(field: &str, name: &str) -> ApiResult<()> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains('\0') {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "{field} must have 1 to {NAME_BYTES_MAX} bytes, and no NUL"
    )))
}

fn find<'a>(branch: &'a BranchRecord, name: &str) -> ApiResult<&'a Role> {
    branch
        .roles
        .get(name)
        .ok_or_else(|| ApiError::not_found("role"))
}

/// A branch's roles as the answer has them that makes the branch.
pub(super) fn told(project: &ProjectRecord, branch: &BranchRecord) -> Vec<Role> {
    let roles = branch.roles.values();
    roles.map(|role| tell(project, role)).collect()
}

/// Passwords that are not to be stored are told by a reset alone.
fn tell(project: &ProjectRecord, role: &Role) -> Role {
    match project.project.store_passwords {
        true => role.clone(),
        false => without_password(role),
    }
}

fn without_password(role: &Role) -> Role {
    Role {
        password: None,
        ..role.clone()
    }
}
