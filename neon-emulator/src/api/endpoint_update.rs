//! Compute endpoints: changed, and moved to another branch.

use axum::Json;
use neon_api::BranchId;
use neon_api::types::{
    Endpoint, EndpointOperations, EndpointSettingsData, EndpointState, EndpointUpdate,
    EndpointUpdateRequest,
};

use super::endpoint_options::{
    check_pooler_mode, check_provisioner, check_room, check_room_to_run, check_suspend_timeout,
    set_limits,
};
use super::endpoint_tasks::{Task, schedule};
use super::endpoints::{check_name, find, find_mut};
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InEndpoint, Names};
use super::{Shared, branches, projects, settings};
use crate::engine::Engine;
use crate::limits::Limits;
use crate::state::{EndpointRecord, ProjectRecord};
use crate::time::now;

pub(super) async fn update(
    engine: Shared,
    Names(names): Names<InEndpoint>,
    Body(request): Body<EndpointUpdateRequest>,
) -> ApiResult<Json<EndpointOperations>> {
    let wanted = request.endpoint;
    check(&engine, &wanted).await?;
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let before = find(project, &names.endpoint_id)?.endpoint.clone();
        // Its own branch is no move.
        let to = wanted
            .branch_id
            .clone()
            .filter(|id| *id != before.branch_id);
        if let Some(to) = &to {
            branches::find(project, to)?;
        }
        if project.is_busy(&before.branch_id) || to.as_ref().is_some_and(|to| project.is_busy(to)) {
            return Err(ApiError::locked());
        }
        let is_active = before.current_state == EndpointState::Active;
        let is_disabled = wanted.disabled.unwrap_or(before.disabled);
        let starts = is_active && !is_disabled;
        if let Some(to) = &to {
            check_move(project, engine.limits(), &before, to, starts)?;
        }
        let restarts = starts && wanted.settings.is_some();
        change(find_mut(project, &names.endpoint_id)?, wanted)?;
        let mut tasks = match &to {
            Some(to) => vec![Task::Move(to.clone())],
            None if restarts || (is_active && is_disabled) => vec![Task::Suspend],
            None => vec![],
        };
        if restarts || (starts && to.is_some()) {
            tasks.push(Task::Start);
        }
        let operations = schedule(project, &names.endpoint_id, tasks)?;
        let endpoint = find(project, &names.endpoint_id)?.endpoint.clone();
        let branch_id = to.unwrap_or_else(|| endpoint.branch_id.clone());
        Ok(Json(EndpointOperations {
            // Where it is when the operations have finished.
            endpoint: Endpoint {
                branch_id,
                ..endpoint
            },
            operations,
        }))
    })
}

/// Checks what can be checked without the project.
async fn check(engine: &Engine, wanted: &EndpointUpdate) -> ApiResult<()> {
    check_suspend_timeout(
        "endpoint.suspend_timeout_seconds",
        wanted.suspend_timeout_seconds,
        engine.limits(),
    )?;
    check_name(wanted.name.as_deref())?;
    check_provisioner("endpoint", wanted.provisioner.as_ref())?;
    check_pooler_mode(wanted.pooler_mode.as_ref())?;
    // As on Neon: it would take all settings away.
    if wanted.settings == Some(EndpointSettingsData::default()) {
        return Err(ApiError::bad_request(
            "endpoint.settings: settings must not be nil",
        ));
    }
    settings::check_values(engine, "endpoint.settings", wanted.settings.as_ref()).await
}

/// Checks that the endpoint can serve another branch, and run there.
fn check_move(
    project: &ProjectRecord,
    limits: &Limits,
    endpoint: &Endpoint,
    to: &BranchId,
    starts: bool,
) -> ApiResult<()> {
    if branches::find(project, &endpoint.branch_id)?
        .branch
        .protected
    {
        return Err(ApiError::unprocessable(
            "endpoint.branch_id: the endpoint of a protected branch cannot leave it",
        ));
    }
    check_room(project, limits, to, [&endpoint.endpoint_type])?;
    check_room_to_run(project, limits, to, Some(&endpoint.id), usize::from(starts))
}

fn change(record: &mut EndpointRecord, wanted: EndpointUpdate) -> ApiResult<()> {
    let endpoint = &mut record.endpoint;
    set_limits(
        "endpoint",
        endpoint,
        wanted.autoscaling_limit_min_cu,
        wanted.autoscaling_limit_max_cu,
    )?;
    if let Some(name) = wanted.name {
        endpoint.name = Some(name);
    }
    if let Some(seconds) = wanted.suspend_timeout_seconds {
        endpoint.suspend_timeout_seconds = seconds;
    }
    if let Some(provisioner) = wanted.provisioner {
        endpoint.provisioner = provisioner;
    }
    if let Some(passwordless) = wanted.passwordless_access {
        endpoint.passwordless_access = passwordless;
    }
    if let Some(disabled) = wanted.disabled {
        endpoint.disabled = disabled;
    }
    if let Some(wanted) = wanted.settings {
        let settings = &mut endpoint.settings;
        settings.pg_settings = wanted.pg_settings.or(settings.pg_settings.take());
        settings.pgbouncer_settings = wanted
            .pgbouncer_settings
            .or(settings.pgbouncer_settings.take());
        settings.preload_libraries = wanted
            .preload_libraries
            .or(settings.preload_libraries.take());
    }
    endpoint.updated_at = now();
    record.say_of_pooler(wanted.pooler_enabled, wanted.pooler_mode);
    Ok(())
}
