//! Settings of a project: checked, and changed in part.

use std::net::IpAddr;

use neon_api::types::{
    DefaultEndpointSettings, EndpointSettingsData, MaintenanceWindow, ProjectAuditLogLevel,
    ProjectQuota, ProjectSettingsData,
};

use super::error::{ApiError, ApiResult};
use super::{endpoint_options, settings};
use crate::engine::Engine;
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

/// Checks the Postgres settings that new endpoints are to have.
pub(super) async fn check_values(
    engine: &Engine,
    defaults: Option<&DefaultEndpointSettings>,
) -> ApiResult<()> {
    let data = defaults.map(|defaults| EndpointSettingsData {
        pg_settings: defaults.pg_settings.clone(),
        ..EndpointSettingsData::default()
    });
    settings::check_values(engine, "project.default_endpoint_settings", data.as_ref()).await
}

/// Checks compute units that are given directly in `field`.
pub(super) fn check_compute_units(
    field: &str,
    min: Option<f64>,
    max: Option<f64>,
) -> ApiResult<()> {
    for (name, units) in [
        ("autoscaling_limit_min_cu", min),
        ("autoscaling_limit_max_cu", max),
    ] {
        if units.is_some_and(|units| units < COMPUTE_UNITS_MIN) {
            return Err(ApiError::bad_request(format!(
                "{field}.{name} must be at least {COMPUTE_UNITS_MIN}"
            )));
        }
    }
    match (min, max) {
        (Some(min), Some(max)) if max < min => Err(ApiError::bad_request(format!(
            "{field}.autoscaling_limit_max_cu must be at least autoscaling_limit_min_cu"
        ))),
        _ => Ok(()),
    }
}

fn check_settings(wanted: &ProjectSettingsData) -> ApiResult<()> {
    if let Some(ProjectAuditLogLevel::Unknown(text)) = &wanted.audit_log_level {
        return Err(ApiError::bad_request(format!(
            "project.settings.audit_log_level must be base, extended or full, not {text:?}"
        )));
    }
    let ips = wanted.allowed_ips.as_ref().and_then(|ips| ips.ips.as_ref());
    for ip in ips.into_iter().flatten() {
        check_address(ip)?;
    }
    if let Some(window) = &wanted.maintenance_window {
        check_window(window)?;
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

/// An address, a range `10.0.0.0/8` or a range `10.0.0.1-10.0.0.9`.
fn check_address(text: &str) -> ApiResult<()> {
    let address = |text: &str| text.trim().parse::<IpAddr>().ok();
    let is_good = match (text.split_once('/'), text.split_once('-')) {
        (Some((start, bits)), _) => address(start).is_some_and(|start| {
            let bits_max = if start.is_ipv4() { 32 } else { 128 };
            bits.parse::<u8>().is_ok_and(|bits| bits <= bits_max)
        }),
        (None, Some((start, end))) => match (address(start), address(end)) {
            (Some(start), Some(end)) => start.is_ipv4() == end.is_ipv4() && start <= end,
            _ => false,
        },
        (None, None) => address(text).is_some(),
    };
    match is_good {
        true => Ok(()),
        false => Err(ApiError::bad_request(format!(
            "project.settings.allowed_ips.ips: {text:?} is no address and no range of addresses"
        ))),
    }
}

fn check_window(window: &MaintenanceWindow) -> ApiResult<()> {
    if window.weekdays.iter().any(|day| !(1..=7).contains(day)) {
        return Err(ApiError::bad_request(
            "project.settings.maintenance_window.weekdays must be 1 (Monday) to 7 (Sunday)",
        ));
    }
    for (field, time) in [
        ("start_time", &window.start_time),
        ("end_time", &window.end_time),
    ] {
        if !is_time_of_day(time) {
            return Err(ApiError::bad_request(format!(
                "project.settings.maintenance_window.{field} must be HH:MM, not {time:?}"
            )));
        }
    }
    Ok(())
}

fn is_time_of_day(text: &str) -> bool {
    let part = |text: &str, end: u8| {
        text.len() == 2
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && text.parse::<u8>().is_ok_and(|value| value < end)
    };
    text.split_once(':')
        .is_some_and(|(hours, minutes)| part(hours, 24) && part(minutes, 60))
}

fn check_defaults(defaults: &DefaultEndpointSettings, limits: &Limits) -> ApiResult<()> {
    endpoint_options::check_suspend_timeout(
        "project.default_endpoint_settings.suspend_timeout_seconds",
        defaults.suspend_timeout_seconds,
        limits,
    )?;
    check_compute_units(
        "project.default_endpoint_settings",
        defaults.autoscaling_limit_min_cu,
        defaults.autoscaling_limit_max_cu,
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ranges_are_told_from_other_text() {
        for text in [
            "10.0.0.1",
            "10.0.0.0/8",
            "10.0.0.1-10.0.0.9",
            "::1",
            "fe80::/10",
        ] {
            assert!(check_address(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "banana",
            "10.0.0.0/33",
            "10.0.0.9-10.0.0.1",
            "10.0.0.1-::1",
            "1.2.3",
        ] {
            assert!(check_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_of_day_have_two_parts() {
        for text in ["00:00", "23:59"] {
            assert!(is_time_of_day(text), "{text}");
        }
        for text in ["24:00", "1:00", "01:60", "+1:00", "01:00:00", ""] {
            assert!(!is_time_of_day(text), "{text}");
        }
    }
}
