//! Restore of a snapshot: a new branch, which may then take the place of
//! another.

use axum::Json;
use neon_api::BranchId;
use neon_api::types::{
    BranchRestoreStatus, Database, Endpoint, EndpointState, FinalizeRestoreRequest, InitSource,
    OperationAction, OperationsResponse, RestoredSnapshot, Role, SnapshotRestoreRequest,
};
use serde::Deserialize;
use uuid::Uuid;

use super::branches::{check_free, check_name, find};
use super::error::{ApiError, ApiResult};
use super::extract::{InBranch, InSnapshot, Names, OptionalBody, Parameters};
use super::{Shared, branch_limits, endpoint_options, projects, snapshots};
use crate::limits::Limits;
use crate::state::{BranchRecord, Job, OperationRecord, ProjectRecord, SnapshotRecord};
use crate::time::now;
use crate::{names, new, operations};

#[derive(Debug, Deserialize)]
pub(super) struct RestoreQuery {
    /// Deprecated for the body's.
    name: Option<String>,
}

pub(super) async fn restore(
    engine: Shared,
    Names(names): Names<InSnapshot>,
    Parameters(query): Parameters<RestoreQuery>,
    OptionalBody(request): OptionalBody<SnapshotRestoreRequest>,
) -> ApiResult<Json<RestoredSnapshot>> {
    let name = request.name.or(query.name);
    let name = name.unwrap_or_else(names::branch_name);
    check_name("name", &name)?;
    let finalize = request.finalize_restore.unwrap_or(false);
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let snapshot = snapshots::find(project, &names.snapshot_id)?.clone();
        check_free(project, &name, None)?;
        branch_limits::check(project, engine.limits(), true)?;
        if project.is_snapshot_busy(&names.snapshot_id) {
            return Err(ApiError::locked());
        }
        let target = target(project, &snapshot, request.target_branch_id)?;
        let id: BranchId = new::id(names::branch_id())?;
        let mut record = restored(&names.project_id, &id, name, &snapshot);
        record.branch.restored_as = target.clone().map(String::from);
        project.branches.insert(id.clone(), record);
        let chain = Uuid::new_v4();
        let mut scheduled = vec![operations::record(
            &names.project_id,
            Some(&id),
            None,
            OperationAction::CreateBranch,
            Job::RestoreSnapshot {
                snapshot: names.snapshot_id.clone(),
                branch: id.clone(),
            },
            chain,
        )];
        let mut endpoints = None;
        if finalize {
            let target = target.ok_or_else(|| {
                ApiError::unprocessable(
                    "target_branch_id is required: the snapshot's source is gone",
                )
            })?;
            let old_name = old_name(project, &target)?;
            let taken = replace(project, &id, &target, old_name, engine.limits(), chain)?;
            endpoints = Some(taken.endpoints);
            scheduled.extend(taken.operations);
        }
        Ok(Json(RestoredSnapshot {
            branch: find(project, &id)?.branch.clone(),
            endpoints,
            operations: project.schedule(scheduled),
        }))
    })
}

pub(super) async fn finalize(
    engine: Shared,
    Names(names): Names<InBranch>,
    OptionalBody(request): OptionalBody<FinalizeRestoreRequest>,
) -> ApiResult<Json<OperationsResponse>> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let branch = &find(project, &names.branch_id)?.branch;
        if branch.restore_status != Some(BranchRestoreStatus::Restored) {
            return Err(ApiError::unprocessable(
                "the branch was not restored from a snapshot, or has taken its place already",
            ));
        }
        let target: Option<BranchId> = branch
            .restored_as
            .clone()
            .and_then(|id| BranchId::try_from(id).ok());
        let target = target
            .filter(|id| project.branch(id).is_some())
            .ok_or_else(|| {
                ApiError::unprocessable("the branch that it was restored for is gone")
            })?;
        if project.is_busy(&names.branch_id) {
            return Err(ApiError::locked());
        }
        let old_name = match request.name {
            Some(name) => {
                check_name("name", &name)?;
                check_free(project, &name, None)?;
                name
            }
            None => old_name(project, &target)?,
        };
        let taken = replace(
            project,
            &names.branch_id,
            &target,
            old_name,
            engine.limits(),
            Uuid::new_v4(),
        )?;
        Ok(Json(OperationsResponse {
            operations: project.schedule(taken.operations),
            pagination: None,
        }))
    })
}

/// The branch whose place a restored one is to take, if there still is one.
fn target(
    project: &ProjectRecord,
    snapshot: &SnapshotRecord,
    asked_for: Option<BranchId>,
) -> ApiResult<Option<BranchId>> {
    if let Some(id) = asked_for {
        find(project, &id).map_err(|_| ApiError::not_found("target branch"))?;
        return Ok(Some(id));
    }
    let source = snapshot.snapshot.source_branch_id.clone();
    Ok(source.filter(|id| project.branch(id).is_some()))
}

fn restored(
    project: &neon_api::ProjectId,
    id: &BranchId,
    name: String,
    snapshot: &SnapshotRecord,
) -> BranchRecord {
    let mut record = new::branch(project, id, None, name);
    record.branch.init_source = Some(InitSource::ParentData);
    record.branch.restore_status = Some(BranchRestoreStatus::Restored);
    record.branch.restored_from = Some(snapshot.snapshot.id.to_string());
    record.branch.logical_size = snapshot.snapshot.full_size;
    record.catalog_is_behind = snapshot.catalog_is_behind;
    let role = |role: &Role| Role {
        branch_id: id.clone(),
        ..role.clone()
    };
    let database = |database: &Database| Database {
        branch_id: id.clone(),
        ..database.clone()
    };
    record.roles = snapshot
        .roles
        .iter()
        .map(|(name, found)| (name.clone(), role(found)))
        .collect();
    record.databases = snapshot
        .databases
        .iter()
        .map(|(name, found)| (name.clone(), database(found)))
        .collect();
    record
}

/// What a branch is called that was replaced.
fn old_name(project: &ProjectRecord, target: &BranchId) -> ApiResult<String> {
    let at = snapshots::seconds(now());
    let name = &find(project, target)?.branch.name;
    let long = format!("{name} (old_{at})");
    let name = match check_name("name", &long) {
        Ok(()) => long,
        Err(_) => names::branch_name(),
    };
    check_free(project, &name, None)?;
    Ok(name)
}

/// What a branch gets that takes the place of another.
struct Taken {
    endpoints: Vec<Endpoint>,
    operations: Vec<OperationRecord>,
}

/// What is to be done for a branch to take the place of another.
fn replace(
    project: &ProjectRecord,
    id: &BranchId,
    target: &BranchId,
    old_name: String,
    limits: &Limits,
    chain: Uuid,
) -> ApiResult<Taken> {
    if project.is_busy(target) {
        return Err(ApiError::locked());
    }
    if find(project, target)?.branch.protected {
        return Err(ApiError::unprocessable(
            "a protected branch cannot be replaced",
        ));
    }
    if project.read_write_endpoint(id).is_some() && project.read_write_endpoint(target).is_some() {
        return Err(ApiError::unprocessable(
            "both branches have a read_write endpoint: delete the restored one's first",
        ));
    }
    let types: Vec<_> = project
        .live_endpoints()
        .map(|record| &record.endpoint)
        .filter(|endpoint| endpoint.branch_id == *target)
        .map(|endpoint| &endpoint.endpoint_type)
        .collect();
    endpoint_options::check_room(project, limits, id, types)?;
    let project_id = &project.project.id;
    let mut operations = vec![operations::record(
        project_id,
        Some(id),
        None,
        OperationAction::SuspendCompute,
        Job::FinalizeRestore {
            branch: id.clone(),
            target: target.clone(),
            old_name,
        },
        chain,
    )];
    let mut endpoints = Vec::new();
    for record in project.live_endpoints() {
        let endpoint = &record.endpoint;
        if endpoint.branch_id != *target {
            continue;
        }
        endpoints.push(Endpoint {
            branch_id: id.clone(),
            ..endpoint.clone()
        });
        if endpoint.current_state == EndpointState::Active {
            operations.push(operations::record(
                project_id,
                Some(id),
                Some(&endpoint.id),
                OperationAction::StartCompute,
                Job::StartCompute {
                    endpoint: endpoint.id.clone(),
                },
                chain,
            ));
        }
    }
    Ok(Taken {
        endpoints,
        operations,
    })
}
