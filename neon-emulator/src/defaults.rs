//! What is so unless a request says otherwise: Neon's settings of a project, and
//! what a project says of endpoints that do not say it themselves.

use neon_api::types::{
    AllowedIps, ComputeUnit, DefaultEndpointSettings, Endpoint, MaintenanceWindow, Project,
    ProjectCreate, ProjectSettingsData,
};

use crate::new::BRANCH_MEBIBYTES_MAX;

/// Of an endpoint, at least and at most.
pub(crate) const COMPUTE_UNITS: ComputeUnit = 0.25;
/// Friday, as Neon gives it to a project in the United States.
const MAINTENANCE_WEEKDAY: u8 = 5;

/// A project's settings, whole.
pub(crate) fn of_project(wanted: Option<ProjectSettingsData>) -> ProjectSettingsData {
    let mut settings = wanted.unwrap_or_default();
    let ips = settings.allowed_ips.get_or_insert(AllowedIps::default());
    ips.ips.get_or_insert_default();
    ips.protected_branches_only.get_or_insert(false);
    settings.enable_logical_replication.get_or_insert(false);
    settings
        .maintenance_window
        .get_or_insert_with(|| MaintenanceWindow {
            weekdays: vec![MAINTENANCE_WEEKDAY],
            start_time: "07:00".to_owned(),
            end_time: "08:00".to_owned(),
        });
    settings.block_public_connections.get_or_insert(false);
    settings.block_vpc_connections.get_or_insert(false);
    settings.hipaa.get_or_insert(false);
    settings
}

/// What a new project says of its endpoints, whole. The older way to say it is
/// beside it in the request.
pub(crate) fn of_endpoints(wanted: &ProjectCreate) -> DefaultEndpointSettings {
    let mut asked = wanted.default_endpoint_settings.clone().unwrap_or_default();
    asked.autoscaling_limit_min_cu = asked
        .autoscaling_limit_min_cu
        .or(wanted.autoscaling_limit_min_cu);
    asked.autoscaling_limit_max_cu = asked
        .autoscaling_limit_max_cu
        .or(wanted.autoscaling_limit_max_cu);
    let mut defaults = DefaultEndpointSettings::default();
    merge(&mut defaults, asked);
    defaults
}

/// Changes what `wanted` has; the rest stays, or is what it is on Neon.
pub(crate) fn merge(defaults: &mut DefaultEndpointSettings, wanted: DefaultEndpointSettings) {
    let DefaultEndpointSettings {
        pg_settings,
        pgbouncer_settings,
        autoscaling_limit_min_cu,
        autoscaling_limit_max_cu,
        suspend_timeout_seconds,
    } = wanted;
    defaults.pg_settings = pg_settings.or(defaults.pg_settings.take());
    defaults.pgbouncer_settings = pgbouncer_settings.or(defaults.pgbouncer_settings.take());
    let suspend = suspend_timeout_seconds.or(defaults.suspend_timeout_seconds);
    defaults.suspend_timeout_seconds = suspend.or(Some(0));
    let (min, max) = compute_units(
        defaults.autoscaling_limit_min_cu.unwrap_or(COMPUTE_UNITS),
        defaults.autoscaling_limit_max_cu.unwrap_or(COMPUTE_UNITS),
        autoscaling_limit_min_cu,
        autoscaling_limit_max_cu,
    );
    defaults.autoscaling_limit_min_cu = Some(min);
    defaults.autoscaling_limit_max_cu = Some(max);
}

/// Completes a project that was written before it had all of these.
pub(crate) fn complete(project: &mut Project) {
    project.settings = Some(of_project(project.settings.take()));
    let defaults = project.default_endpoint_settings.get_or_insert_default();
    merge(defaults, DefaultEndpointSettings::default());
    if project.branch_logical_size_limit == 0 {
        project.branch_logical_size_limit = BRANCH_MEBIBYTES_MAX;
        project.branch_logical_size_limit_bytes = BRANCH_MEBIBYTES_MAX << 20;
    }
    if let Some(organization) = &project.org_id {
        project.owner_id = organization.to_string();
    }
}

/// Gives a new endpoint, which has the settings that it was asked to have, what
/// else the project wants.
pub(crate) fn apply(endpoint: &mut Endpoint, defaults: Option<&DefaultEndpointSettings>) {
    let Some(defaults) = defaults else { return };
    let settings = &mut endpoint.settings;
    if settings.pg_settings.is_none() {
        settings.pg_settings.clone_from(&defaults.pg_settings);
    }
    if settings.pgbouncer_settings.is_none() {
        settings
            .pgbouncer_settings
            .clone_from(&defaults.pgbouncer_settings);
    }
    if let Some(seconds) = defaults.suspend_timeout_seconds {
        endpoint.suspend_timeout_seconds = seconds;
    }
    set_compute_units(
        endpoint,
        defaults.autoscaling_limit_min_cu,
        defaults.autoscaling_limit_max_cu,
    );
}

/// Gives an endpoint what is said of its compute.
pub(crate) fn set_compute_units(
    endpoint: &mut Endpoint,
    min: Option<ComputeUnit>,
    max: Option<ComputeUnit>,
) {
    (
        endpoint.autoscaling_limit_min_cu,
        endpoint.autoscaling_limit_max_cu,
    ) = compute_units(
        endpoint.autoscaling_limit_min_cu,
        endpoint.autoscaling_limit_max_cu,
        min,
        max,
    );
}

/// One bound alone moves the other where it would be on the wrong side.
fn compute_units(
    min_before: ComputeUnit,
    max_before: ComputeUnit,
    min: Option<ComputeUnit>,
    max: Option<ComputeUnit>,
) -> (ComputeUnit, ComputeUnit) {
    match (min, max) {
        (None, None) => (min_before, max_before),
        (Some(min), None) => (min, max_before.max(min)),
        (None, Some(max)) => (min_before.min(max), max),
        (Some(min), Some(max)) => (min.min(max), max),
    }
}
