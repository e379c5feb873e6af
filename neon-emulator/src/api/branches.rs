//! Branches: looked at, created, changed, deleted.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use neon_api::BranchId;
use neon_api::types::{
    AnnotationValueData, BranchCreateRequest, BranchOperations, BranchResponse,
    BranchUpdateRequest, Change, CreatedBranch, InitSource, OperationAction,
};
use uuid::Uuid;

use super::Shared;
use super::connection::details;
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InBranch, InProject, Names, OptionalBody};
use super::points::Asked;
use super::{branch_limits, endpoint_options, expiry, projects, roles, settings};
use crate::engine::Point;
use crate::limits::Limits;
use crate::state::{BranchRecord, Job, OperationRecord, ProjectRecord};
use crate::time::now;
use crate::{names, new, operations};

const NAME_CHARACTERS_MAX: usize = 256;
const ANNOTATIONS_MAX: usize = 50;

pub(super) async fn get(
    engine: Shared,
    Names(names): Names<InBranch>,
) -> ApiResult<Json<BranchResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let record = find(project, &names.branch_id)?;
        Ok(Json(BranchResponse {
            branch: record.branch.clone(),
            annotation: Some(
                record
                    .annotation
                    .clone()
                    .unwrap_or_else(|| new::annotation(&names.branch_id, Default::default())),
            ),
        }))
    })
}

pub(super) async fn create(
    engine: Shared,
    Names(names): Names<InProject>,
    OptionalBody(request): OptionalBody<BranchCreateRequest>,
) -> ApiResult<(StatusCode, Json<CreatedBranch>)> {
    let point = point(&engine, &names, &request).await?;
    for (index, endpoint) in request.endpoints.iter().enumerate() {
        let field = format!("endpoints[{index}].settings");
        settings::check_values(&engine, &field, endpoint.settings.as_ref()).await?;
    }
    let created = engine.change(|state| -> ApiResult<_> {
        let project = projects::find_mut(state, &names.project_id)?;
        create_in(project, engine.limits(), request, point)
    })?;
    Ok((StatusCode::CREATED, Json(created)))
}

pub(super) async fn update(
    engine: Shared,
    Names(names): Names<InBranch>,
    Body(request): Body<BranchUpdateRequest>,
) -> ApiResult<Json<BranchOperations>> {
    let wanted = request.branch;
    if let Some(name) = &wanted.name {
        check_name("branch.name", name)?;
    }
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let record = find(project, &names.branch_id)?;
        if let Some(name) = &wanted.name {
            if *name == record.branch.name {
                return Err(ApiError::bad_request(
                    "branch.name: cannot set branch to the same name",
                ));
            }
            check_free(project, name, Some(&names.branch_id))?;
        }
        if wanted.protected == Some(true) && !record.branch.protected {
            branch_limits::check_protected(project, engine.limits())?;
        }
        if matches!(wanted.expires_at, Change::Set(_)) {
            expiry::check_childless(project, &record.branch)?;
        }
        let record = find_mut(project, &names.branch_id)?;
        if let Some(name) = wanted.name {
            record.branch.name = name;
        }
        if let Some(protected) = wanted.protected {
            record.branch.protected = protected;
        }
        match wanted.expires_at {
            Change::Keep => {}
            Change::Clear => expiry::clear(&mut record.branch),
            Change::Set(time) => expiry::set(&mut record.branch, time)?,
        }
        if record.branch.protected && record.branch.expires_at.is_some() {
            return Err(ApiError::unprocessable(
                "branch.protected: a branch that expires cannot be protected",
            ));
        }
        record.branch.updated_at = now();
        Ok(Json(BranchOperations {
            branch: record.branch.clone(),
            operations: Vec::new(),
        }))
    })
}

pub(super) async fn delete(engine: Shared, Names(names): Names<InBranch>) -> ApiResult<Response> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let Some(record) = project.branch(&names.branch_id) else {
            return Ok(StatusCode::NO_CONTENT.into_response());
        };
        check_deletable(project, record)?;
        if project.is_busy(&names.branch_id) {
            return Err(ApiError::locked());
        }
        let branch = record.branch.clone();
        let operations = operations::delete_branch(project, &names.branch_id);
        Ok(Json(BranchOperations { branch, operations }).into_response())
    })
}

pub(super) async fn set_default(
    engine: Shared,
    Names(names): Names<InBranch>,
) -> ApiResult<Json<BranchOperations>> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        if find(project, &names.branch_id)?.branch.expires_at.is_some() {
            return Err(ApiError::unprocessable(
                "a branch that expires cannot be the default branch",
            ));
        }
        let at = now();
        for record in project.branches.values_mut() {
            let default = record.branch.id == names.branch_id;
            if record.branch.default != default {
                record.branch.updated_at = at;
            }
            record.branch.default = default;
            record.branch.primary = Some(default);
        }
        let branch = find(project, &names.branch_id)?.branch.clone();
        Ok(Json(BranchOperations {
            branch,
            operations: Vec::new(),
        }))
    })
}

/// The branch that a request names.
pub(super) fn find<'a>(project: &'a ProjectRecord, id: &BranchId) -> ApiResult<&'a BranchRecord> {
    project
        .branch(id)
        .ok_or_else(|| ApiError::not_found("branch"))
}

/// As [`find`], to change it.
pub(super) fn find_mut<'a>(
    project: &'a mut ProjectRecord,
    id: &BranchId,
) -> ApiResult<&'a mut BranchRecord> {
    project
        .branch_mut(id)
        .ok_or_else(|| ApiError::not_found("branch"))
}

/// The point of the parent's past that a new branch is to be of.
async fn point(
    engine: &Shared,
    names: &InProject,
    request: &BranchCreateRequest,
) -> ApiResult<Option<Point>> {
    let Some(wanted) = &request.branch else {
        return Ok(None);
    };
    if wanted.parent_lsn.is_none() && wanted.parent_timestamp.is_none() {
        return Ok(None);
    }
    if wanted.init_source == Some(InitSource::SchemaOnly) {
        return Err(ApiError::unprocessable(
            "branch.parent_lsn and branch.parent_timestamp: a schema-only branch is of its source's head",
        ));
    }
    let parent = engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let parent = parent(project, wanted.parent_id.as_ref())?
            .branch
            .id
            .clone();
        match project.is_busy(&parent) {
            true => Err(ApiError::locked()),
            false => Ok(parent),
        }
    })?;
    let asked = Asked {
        lsn: ("branch.parent_lsn", wanted.parent_lsn.as_deref()),
        time: ("branch.parent_timestamp", wanted.parent_timestamp),
    };
    asked.point(engine, &names.project_id, &parent).await
}

/// The branch that is named, or the default one.
fn parent<'a>(project: &'a ProjectRecord, id: Option<&BranchId>) -> ApiResult<&'a BranchRecord> {
    match id {
        Some(id) => project
            .branch(id)
            .ok_or_else(|| ApiError::not_found("parent branch")),
        None => project
            .default_branch()
            .ok_or_else(|| ApiError::not_found("default branch")),
    }
}

fn create_in(
    project: &mut ProjectRecord,
    limits: &Limits,
    request: BranchCreateRequest,
    point: Option<Point>,
) -> ApiResult<CreatedBranch> {
    let wanted = request.branch.unwrap_or_default();
    let schema_only = match &wanted.init_source {
        None | Some(InitSource::ParentData) => false,
        // Neon's newer clients say the latter. Both make a root branch.
        Some(InitSource::SchemaOnly | InitSource::ParentSchema) => true,
        Some(InitSource::Import) => {
            return Err(ApiError::unprocessable(
                "branch.init_source: this emulator has no imports",
            ));
        }
        Some(InitSource::Unknown(text)) => {
            return Err(ApiError::bad_request(format!(
                "branch.init_source must be parent-data, schema-only or parent-schema, not {text:?}"
            )));
        }
    };
    check_annotation("annotation_value", request.annotation_value.as_ref())?;
    let name = wanted.name.unwrap_or_else(names::branch_name);
    check_name("branch.name", &name)?;
    check_free(project, &name, None)?;
    branch_limits::check(project, limits, schema_only)?;
    if wanted.protected == Some(true) {
        branch_limits::check_protected(project, limits)?;
    }
    let parent = parent(project, wanted.parent_id.as_ref())?;
    if !schema_only {
        expiry::check_parent("branch.parent_id", parent)?;
    }
    // Its data is still being made or changed.
    if project.is_busy(&parent.branch.id) {
        return Err(ApiError::locked());
    }

    let id: BranchId = new::id(names::branch_id())?;
    let mut record = new::branch(&project.project.id, &id, Some(parent), name);
    record.branch.protected = wanted.protected.unwrap_or(false);
    if let Some(time) = wanted.expires_at {
        expiry::set(&mut record.branch, time)?;
    }
    if schema_only {
        record.branch.parent_id = None;
        record.branch.init_source = wanted.init_source;
        record.branch.logical_size = None;
    }
    record.annotation = request
        .annotation_value
        .map(|value| new::annotation(&id, value));
    if parent.branch.protected {
        fresh_passwords(&mut record);
    }
    let chain = Uuid::new_v4();
    let mut scheduled = vec![operations::record(
        &project.project.id,
        Some(&id),
        None,
        OperationAction::CreateBranch,
        match schema_only {
            false => Job::CreateBranch {
                branch: id.clone(),
                point,
            },
            true => Job::CreateSchemaBranch {
                branch: id.clone(),
                source: parent.branch.id.clone(),
            },
        },
        chain,
    )];
    let endpoints = endpoint_options::create_with_branch(project, limits, &id, &request.endpoints)?;
    for endpoint in &endpoints {
        scheduled.push(start(project, &id, &endpoint.endpoint.id, chain));
    }
    let answer = CreatedBranch {
        branch: record.branch.clone(),
        endpoints: endpoints
            .iter()
            .map(|record| record.endpoint.clone())
            .collect(),
        roles: roles::told(project, &record),
        databases: record.databases.values().cloned().collect(),
        connection_uris: endpoints
            .first()
            .and_then(|endpoint| details(project, &record, endpoint))
            .map(|details| vec![details]),
        operations: Vec::new(),
    };
    project.branches.insert(id, record);
    for endpoint in endpoints {
        project
            .endpoints
            .insert(endpoint.endpoint.id.clone(), endpoint);
    }
    Ok(CreatedBranch {
        operations: project.schedule(scheduled),
        ..answer
    })
}

fn start(
    project: &ProjectRecord,
    branch: &BranchId,
    endpoint: &neon_api::EndpointId,
    chain: Uuid,
) -> OperationRecord {
    operations::record(
        &project.project.id,
        Some(branch),
        Some(endpoint),
        OperationAction::StartCompute,
        Job::StartCompute {
            endpoint: endpoint.clone(),
        },
        chain,
    )
}

/// Under a protected parent a child has its own passwords.
fn fresh_passwords(record: &mut BranchRecord) {
    for role in record.roles.values_mut() {
        if role.password.is_some() {
            role.password = Some(names::password().into());
        }
    }
    record.catalog_is_behind = true;
}

fn check_deletable(project: &ProjectRecord, record: &BranchRecord) -> ApiResult<()> {
    let branch = &record.branch;
    if branch.default {
        return Err(ApiError::unprocessable(
            "the default branch cannot be deleted",
        ));
    }
    if branch.protected {
        return Err(ApiError::unprocessable(
            "a protected branch cannot be deleted",
        ));
    }
    // Others without a parent are made so, and may go.
    if branch.parent_id.is_none() && branch.init_source.is_none() {
        return Err(ApiError::unprocessable("a root branch cannot be deleted"));
    }
    let children: Vec<&str> = project
        .children(&branch.id)
        .map(|child| child.branch.name.as_str())
        .collect();
    if children.is_empty() {
        return Ok(());
    }
    Err(ApiError::unprocessable(format!(
        "cannot delete branch {}: it has children: {}",
        branch.id,
        children.join(", ")
    )))
}

/// Checks the name that a branch is to have.
pub(super) fn check_name(field: &str, name: &str) -> ApiResult<()> {
    if (1..=NAME_CHARACTERS_MAX).contains(&name.chars().count()) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "{field} must have 1 to {NAME_CHARACTERS_MAX} characters"
    )))
}

/// Checks the notes that a branch is to have.
pub(super) fn check_annotation(field: &str, value: Option<&AnnotationValueData>) -> ApiResult<()> {
    match value {
        Some(value) if value.len() > ANNOTATIONS_MAX => Err(ApiError::bad_request(format!(
            "{field} must have at most {ANNOTATIONS_MAX} properties"
        ))),
        _ => Ok(()),
    }
}

/// Checks that no other branch has the name.
pub(super) fn check_free(
    project: &ProjectRecord,
    name: &str,
    except: Option<&BranchId>,
) -> ApiResult<()> {
    let taken = project
        .live_branches()
        .any(|record| record.branch.name == name && Some(&record.branch.id) != except);
    if !taken {
        return Ok(());
    }
    Err(
        ApiError::conflict(format!("branch already exists; branch_name:{name:?}"))
            .with_code("BRANCH_ALREADY_EXISTS"),
    )
}
