//! Snapshots: taken, listed, renamed, deleted.

use axum::Json;
use axum::http::StatusCode;
use jiff::Timestamp;
use neon_api::SnapshotId;
use neon_api::types::{
    BranchState, OperationAction, OperationsResponse, Snapshot, SnapshotCreateQuery,
    SnapshotOperations, SnapshotResponse, SnapshotUpdateRequest, SnapshotsResponse,
};
use uuid::Uuid;

use super::error::{ApiError, ApiResult};
use super::extract::{Body, InBranch, InProject, InSnapshot, Names, Parameters};
use super::points::Asked;
use super::{Shared, branches, projects};
use crate::state::{Job, ProjectRecord, SnapshotRecord};
use crate::time::now;
use crate::{names, new, operations};

pub(super) async fn create(
    engine: Shared,
    Names(names): Names<InBranch>,
    Parameters(query): Parameters<SnapshotCreateQuery>,
) -> ApiResult<Json<SnapshotOperations>> {
    if let Some(name) = &query.name {
        branches::check_name("name", name)?;
    }
    let expires_at = query.expires_at.map(expiry).transpose()?;
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        branches::find(project, &names.branch_id)?;
        match project.is_busy(&names.branch_id) {
            true => Err(ApiError::locked()),
            false => Ok(()),
        }
    })?;
    let asked = Asked {
        lsn: ("lsn", query.lsn.as_deref()),
        time: ("timestamp", query.timestamp),
    };
    let point = asked
        .point(&engine, &names.project_id, &names.branch_id)
        .await?;
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let branch = branches::find(project, &names.branch_id)?.clone();
        let max = engine.limits().snapshots;
        if project.live_snapshots().count() >= max as usize {
            return Err(
                ApiError::unprocessable(format!("a project may have {max} snapshots"))
                    .with_code("SNAPSHOTS_LIMIT_EXCEEDED"),
            );
        }
        if project.is_busy(&names.branch_id) || branch.branch.current_state != BranchState::Ready {
            return Err(ApiError::locked());
        }
        let at = now();
        let id: SnapshotId = new::id(names::snapshot_id())?;
        let name = query
            .name
            .unwrap_or_else(|| format!("{} at {}", branch.branch.name, seconds(at)));
        let snapshot = Snapshot {
            id: id.clone(),
            name,
            lsn: None,
            timestamp: Some(at),
            source_branch_id: Some(names.branch_id.clone()),
            created_at: at,
            expires_at,
            manual: Some(true),
            full_size: branch.branch.logical_size,
        };
        project.snapshots.insert(
            id.clone(),
            SnapshotRecord {
                snapshot: snapshot.clone(),
                roles: branch.roles,
                databases: branch.databases,
                catalog_is_behind: branch.catalog_is_behind,
                deleted: false,
            },
        );
        let operation = operations::record(
            &names.project_id,
            Some(&names.branch_id),
            None,
            OperationAction::CreateBranch,
            Job::CreateSnapshot {
                snapshot: id,
                branch: names.branch_id.clone(),
                point,
            },
            Uuid::new_v4(),
        );
        Ok(Json(SnapshotOperations {
            snapshot,
            operations: project.schedule(vec![operation]),
        }))
    })
}

pub(super) async fn list(
    engine: Shared,
    Names(names): Names<InProject>,
) -> ApiResult<Json<SnapshotsResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let mut snapshots: Vec<Snapshot> = project
            .live_snapshots()
            .map(|record| record.snapshot.clone())
            .collect();
        snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.created_at));
        Ok(Json(SnapshotsResponse { snapshots }))
    })
}

pub(super) async fn update(
    engine: Shared,
    Names(names): Names<InSnapshot>,
    Body(request): Body<SnapshotUpdateRequest>,
) -> ApiResult<Json<SnapshotResponse>> {
    if let Some(name) = &request.snapshot.name {
        branches::check_name("snapshot.name", name)?;
    }
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        find(project, &names.snapshot_id)?;
        let record = project.snapshots.get_mut(&names.snapshot_id);
        let snapshot = &mut record
            .ok_or_else(|| ApiError::not_found("snapshot"))?
            .snapshot;
        if let Some(name) = request.snapshot.name {
            snapshot.name = name;
        }
        Ok(Json(SnapshotResponse {
            snapshot: snapshot.clone(),
        }))
    })
}

pub(super) async fn delete(
    engine: Shared,
    Names(names): Names<InSnapshot>,
) -> ApiResult<(StatusCode, Json<OperationsResponse>)> {
    let operations = engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        find(project, &names.snapshot_id)?;
        if project.is_snapshot_busy(&names.snapshot_id) {
            return Err(ApiError::locked());
        }
        Ok(operations::delete_snapshot(project, &names.snapshot_id))
    })?;
    let answer = OperationsResponse {
        operations,
        pagination: None,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// The snapshot that a request names.
pub(super) fn find<'a>(
    project: &'a ProjectRecord,
    id: &SnapshotId,
) -> ApiResult<&'a SnapshotRecord> {
    project
        .snapshots
        .get(id)
        .filter(|record| !record.deleted)
        .ok_or_else(|| ApiError::not_found("snapshot"))
}

/// A time as names show it.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn expiry(time: Timestamp) -> ApiResult<Timestamp> {
    if time <= now() {
        return Err(ApiError::bad_request("expires_at must be in the future"));
    }
    Ok(time)
}
