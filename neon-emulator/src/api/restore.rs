//! Restore: a branch gets another's data, and keeps its id, its endpoints and
//! its passwords.

use axum::Json;
use neon_api::BranchId;
use neon_api::types::{
    BranchOperations, BranchRestoreRequest, BranchState, EndpointState, InitSource, Operation,
    OperationAction, Role,
};
use uuid::Uuid;

use super::branches::{check_free, check_name, find, find_mut};
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InBranch, Names};
use super::points::Asked;
use super::{Shared, branch_limits, expiry, projects};
use crate::engine::Point;
use crate::limits::Limits;
use crate::state::{BranchRecord, Job, OperationRecord, ProjectRecord};
use crate::time::now;
use crate::{names, new, operations};

pub(super) async fn restore(
    engine: Shared,
    Names(names): Names<InBranch>,
    Body(mut request): Body<BranchRestoreRequest>,
) -> ApiResult<Json<BranchOperations>> {
    // As on Neon: an empty name keeps nothing.
    request.preserve_under_name = request.preserve_under_name.filter(|name| !name.is_empty());
    if let Some(name) = &request.preserve_under_name {
        check_name("preserve_under_name", name)?;
    }
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        check(project, &names.branch_id, &request)
    })?;
    let asked = Asked {
        lsn: ("source_lsn", request.source_lsn.as_deref()),
        time: ("source_timestamp", request.source_timestamp),
    };
    let point = asked
        .point(&engine, &names.project_id, &request.source_branch_id)
        .await?;
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        check(project, &names.branch_id, &request)?;
        let plan = Plan {
            branch: names.branch_id,
            source: request.source_branch_id,
            point,
            preserve: match request.preserve_under_name {
                Some(name) => Some((new::id(names::branch_id())?, name)),
                None => None,
            },
        };
        plan.schedule(project, engine.limits()).map(Json)
    })
}

/// What is to be done.
struct Plan {
    branch: BranchId,
    source: BranchId,
    point: Option<Point>,
    /// The new branch that gets the old data, and its name.
    preserve: Option<(BranchId, String)>,
}

fn check(project: &ProjectRecord, id: &BranchId, request: &BranchRestoreRequest) -> ApiResult<()> {
    let record = find(project, id)?;
    let source = project
        .branch(&request.source_branch_id)
        .ok_or_else(|| ApiError::not_found("source branch"))?;
    let is_own_source = source.branch.id == *id;
    let has_point = request.source_lsn.is_some() || request.source_timestamp.is_some();
    if is_own_source && !has_point {
        return Err(ApiError::bad_request(
            "source_timestamp or source_lsn is required where source_branch_id is the branch itself",
        ));
    }
    if record.branch.protected {
        return Err(ApiError::unprocessable(
            "a protected branch cannot be restored",
        ));
    }
    match &request.preserve_under_name {
        Some(name) => check_free(project, name, None)?,
        None if is_own_source => {
            return Err(ApiError::bad_request(
                "preserve_under_name is required where source_branch_id is the branch itself",
            ));
        }
        None => {
            if project.children(id).next().is_some() {
                return Err(ApiError::unprocessable(
                    "preserve_under_name is required: the branch has children",
                ));
            }
            expiry::check_parent("source_branch_id", source)?;
        }
    }
    let mut children = project.children(id);
    let is_busy = [id, &source.branch.id]
        .into_iter()
        .any(|id| project.is_busy(id))
        || children.any(|child| project.is_busy(&child.branch.id));
    match is_busy {
        true => Err(ApiError::locked()),
        false => Ok(()),
    }
}

impl Plan {
    fn schedule(self, project: &mut ProjectRecord, limits: &Limits) -> ApiResult<BranchOperations> {
        let before = find(project, &self.branch)?.clone();
        let source = find(project, &self.source)?.clone();
        if let Some((id, name)) = &self.preserve {
            branch_limits::check(project, limits, before.branch.parent_id.is_none())?;
            let preserved = preserved(&before, id, name);
            project.branches.insert(id.clone(), preserved);
            project.move_children(&self.branch, id);
        }
        let preserve = self.preserve.map(|(id, _)| id);
        let record = find_mut(project, &self.branch)?;
        let at = now();
        inherit(record, &before, &source);
        record.branch.parent_id = Some(preserve.clone().unwrap_or_else(|| self.source.clone()));
        // A root branch is one no more, and has what its source had.
        record.branch.init_source = Some(InitSource::ParentData);
        record.branch.parent_lsn = None;
        record.branch.parent_timestamp = None;
        record.branch.current_state = BranchState::Resetting;
        record.branch.pending_state = Some(BranchState::Ready);
        record.branch.state_changed_at = at;
        record.branch.updated_at = at;
        record.branch.last_reset_at = Some(at);
        record.branch.logical_size = source.branch.logical_size;
        record.catalog_is_behind = true;
        expiry::rearm(&mut record.branch);
        let branch = record.branch.clone();
        let operations = schedule(
            project,
            &self.branch,
            Job::RestoreBranch {
                branch: self.branch.clone(),
                source: self.source,
                before: Box::new(before),
                point: self.point,
                preserve,
            },
        );
        Ok(BranchOperations { branch, operations })
    }
}

/// The restore, then the start of what ran before.
fn schedule(project: &mut ProjectRecord, branch: &BranchId, job: Job) -> Vec<Operation> {
    let chain = Uuid::new_v4();
    let id = &project.project.id;
    let mut scheduled: Vec<OperationRecord> = vec![operations::record(
        id,
        Some(branch),
        None,
        OperationAction::CreateBranch,
        job,
        chain,
    )];
    let active = project.live_endpoints().filter(|record| {
        let endpoint = &record.endpoint;
        endpoint.branch_id == *branch
            && (endpoint.current_state == EndpointState::Active
                || endpoint.pending_state == Some(EndpointState::Active))
    });
    scheduled.extend(active.map(|record| {
        let endpoint = record.endpoint.id.clone();
        operations::record(
            id,
            Some(branch),
            Some(&endpoint),
            OperationAction::StartCompute,
            Job::StartCompute {
                endpoint: endpoint.clone(),
            },
            chain,
        )
    }));
    project.schedule(scheduled)
}

/// The branch that the old data become: where it was in the tree, without what
/// makes the other one special.
fn preserved(before: &BranchRecord, id: &BranchId, name: &str) -> BranchRecord {
    let at = now();
    let mut record = before.clone();
    record.annotation = None;
    let branch = &mut record.branch;
    branch.id = id.clone();
    name.clone_into(&mut branch.name);
    branch.default = false;
    branch.primary = Some(false);
    branch.current_state = BranchState::Init;
    branch.pending_state = Some(BranchState::Ready);
    branch.state_changed_at = at;
    branch.created_at = at;
    branch.updated_at = at;
    // Not the project's first branch, which can never be deleted.
    branch.init_source.get_or_insert(InitSource::ParentData);
    expiry::clear(branch);
    for role in record.roles.values_mut() {
        role.branch_id = id.clone();
    }
    for database in record.databases.values_mut() {
        database.branch_id = id.clone();
    }
    record
}

/// The source's roles and databases. A role that the branch had keeps its
/// password: connection strings stay as they are.
fn inherit(record: &mut BranchRecord, before: &BranchRecord, source: &BranchRecord) {
    let id = &before.branch.id;
    let roles = source.roles.iter().map(|(name, role)| {
        let own = before.roles.get(name).and_then(|own| own.password.clone());
        let password = role.password.clone().map(|inherited| match own {
            Some(own) => own,
            None if source.branch.protected => names::password().into(),
            None => inherited,
        });
        let role = Role {
            branch_id: id.clone(),
            password,
            ..role.clone()
        };
        (name.clone(), role)
    });
    record.roles = roles.collect();
    let databases = source.databases.iter().map(|(name, database)| {
        let mut database = database.clone();
        database.branch_id = id.clone();
        (name.clone(), database)
    });
    record.databases = databases.collect();
    record.undone.clone_from(&source.undone);
}
