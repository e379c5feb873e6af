//! Settings of a project: checked, and changed in part.

use neon_api::types::{
    DefaultEndpointSettings, EndpointSettingsData, ProjectAuditLogLevel, ProjectQuota,
    ProjectSettingsData,
};

use super::error::{ApiError, ApiResult};
use super::{endpoints, settings};
use crate::limits::Limits;

/// Neon keeps at most 30 days of history.
const HISTORY_SECONDS_MAX: i64 = 2_592_000;
const COMPUTE_UNITS_MIN: f64 = 0.25;

/// Checks what a new project, or a change of one, asks for.
pub(super) fn check(
    defaults: Option<&DefaultEndpointSettings>,
    wanted: Option<&ProjectSettingsData>,
    history_seconds: Option<i64>,
    limits: &Limits,
) -> ApiResult<()> {
    if history_seconds.is_some_and(|seconds| !(0..=HISTORY_SECONDS_MAX).contains(&seconds)) {
        return Err(ApiError::bad_request(format!(
            "project.history_retention_seconds must be 0 to {HISTORY_SECONDS_MAX}"
        )));
    }
    if let Some(wanted) = wanted {
        check_settings(wanted)?;
    }
    match defaults {
        Some(defaults) => check_defaults(defaults, limits),
        None => Ok(()),
    }
}

fn check_settings(wanted: &ProjectSettingsData) -> ApiResult<()> {
    if let Some(ProjectAuditLogLevel::Unknown(text)) = &wanted.audit_log_level {
        return Err(ApiError::bad_request(format!(
            "project.settings.audit_log_level must be base, extended or full, not {text:?}"
        )));
    }
    let Some(ProjectQuota {
        active_time_seconds,
        compute_time_seconds,
        written_data_bytes,
        data_transfer_bytes,
        logical_size_bytes,
    }) = &wanted.quota
    else {
        return Ok(());
    };
    for (field, value) in [
        ("active_time_seconds", active_time_seconds),
        ("compute_time_seconds", compute_time_seconds),
        ("written_data_bytes", written_data_bytes),
        ("data_transfer_bytes", data_transfer_bytes),
        ("logical_size_bytes", logical_size_bytes),
    ] {
        if value.is_some_and(|value| value < 0) {
            return Err(ApiError::bad_request(format!(
                "project.settings.quota.{field} must not be negative"
            )));
        }
    }
    Ok(())
}

fn check_defaults(defaults: &DefaultEndpointSettings, limits: &Limits) -> ApiResult<()> {
    endpoints::check_suspend_timeout(
        "project.default_endpoint_settings.suspend_timeout_seconds",
        defaults.suspend_timeout_seconds,
        limits,
    )?;
    for (field, units) in [
        (
            "autoscaling_limit_min_cu",
            defaults.autoscaling_limit_min_cu,
        ),
        (
            "autoscaling_limit_max_cu",
            defaults.autoscaling_limit_max_cu,
        ),
    ] {
        if units.is_some_and(|units| units < COMPUTE_UNITS_MIN) {
            return Err(ApiError::bad_request(format!(
                "project.default_endpoint_settings.{field} must be at least {COMPUTE_UNITS_MIN}"
            )));
        }
    }
    let data = EndpointSettingsData {
        pg_settings: defaults.pg_settings.clone(),
        ..EndpointSettingsData::default()
    };
    settings::check("project.default_endpoint_settings", Some(&data))
}

/// Changes what `wanted` has; the rest stays.
pub(super) fn merge(
    settings: &mut ProjectSettingsData,
    wanted: ProjectSettingsData,
) -> ApiResult<()> {
    if settings.enable_logical_replication == Some(true)
        && wanted.enable_logical_replication == Some(false)
    {
        return Err(ApiError::unprocessable(
            "project.settings.enable_logical_replication cannot be turned off again",
        ));
    }
    let ProjectSettingsData {
        quota,
        allowed_ips,
        enable_logical_replication,
        maintenance_window,
        block_public_connections,
        block_vpc_connections,
        audit_log_level,
        hipaa,
        preload_libraries,
    } = wanted;
    replace(&mut settings.quota, quota);
    replace(&mut settings.allowed_ips, allowed_ips);
    replace(
        &mut settings.enable_logical_replication,
        enable_logical_replication,
    );
    replace(&mut settings.maintenance_window, maintenance_window);
    replace(
        &mut settings.block_public_connections,
        block_public_connections,
    );
    replace(&mut settings.block_vpc_connections, block_vpc_connections);
    replace(&mut settings.audit_log_level, audit_log_level);
    replace(&mut settings.hipaa, hipaa);
    replace(&mut settings.preload_libraries, preload_libraries);
    Ok(())
}

fn replace<T>(field: &mut Option<T>, wanted: Option<T>) {
    if wanted.is_some() {
        *field = wanted;
    }
}
