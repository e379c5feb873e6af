//! What a new endpoint is asked to be: its type, its settings, its limits.

use neon_api::types::{
    BranchCreateRequestEndpointOptions, ComputeUnit, Endpoint, EndpointPoolerMode,
    EndpointSettingsData, EndpointType, Provisioner,
};
use neon_api::{BranchId, EndpointId};

use super::error::{ApiError, ApiResult};
use crate::limits::Limits;
use crate::limits::TOO_MANY_ACTIVE;
use crate::state::{EndpointRecord, ProjectRecord};
use crate::{defaults, new};

/// Neon's bound: a week.
const SUSPEND_SECONDS_MAX: i64 = 604_800;

/// What a request says of an endpoint; the project's defaults say the rest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Where the request has it.
    pub(super) field: &'a str,
    pub(super) endpoint_type: &'a EndpointType,
    pub(super) settings: Option<&'a EndpointSettingsData>,
    pub(super) min: Option<ComputeUnit>,
    pub(super) max: Option<ComputeUnit>,
    pub(super) suspend_seconds: Option<i64>,
    pub(super) provisioner: Option<&'a Provisioner>,
}

impl Wanted<'_> {
    /// Checks what can be checked without the project.
    pub(super) fn check(&self, limits: &Limits) -> ApiResult<()> {
        let field = self.field;
        if let EndpointType::Unknown(text) = self.endpoint_type {
            return Err(ApiError::bad_request(format!(
                "{field}.type must be read_write or read_only, not {text:?}"
            )));
        }
        check_provisioner(field, self.provisioner)?;
        check_suspend_timeout(
            &format!("{field}.suspend_timeout_seconds"),
            self.suspend_seconds,
            limits,
        )
    }

    /// The endpoint, which is not in the project yet. Nor are the `others`,
    /// whose ports it does not get.
    pub(super) fn endpoint(
        &self,
        project: &ProjectRecord,
        branch: &BranchId,
        others: &[EndpointRecord],
    ) -> ApiResult<EndpointRecord> {
        let mut record = new::endpoint(
            &project.project,
            branch,
            self.endpoint_type.clone(),
            |port| project.has_port(port) || others.iter().any(|other| other.has_port(port)),
        )?;
        let endpoint = &mut record.endpoint;
        endpoint.settings = self.settings.cloned().unwrap_or_default();
        defaults::apply(endpoint, project.project.default_endpoint_settings.as_ref());
        if let Some(seconds) = self.suspend_seconds {
            endpoint.suspend_timeout_seconds = seconds;
        }
        if let Some(provisioner) = self.provisioner {
            endpoint.provisioner = provisioner.clone();
        }
        if let Some(max) = self.max {
            // The default gives way to what was asked for.
            endpoint.autoscaling_limit_min_cu = endpoint.autoscaling_limit_min_cu.min(max);
        }
        set_limits(self.field, endpoint, self.min, self.max)?;
        Ok(record)
    }
}

/// The endpoints that a new branch is created with, the one that writes first.
/// They are not in the project yet.
pub(super) fn create_with_branch(
    project: &ProjectRecord,
    limits: &Limits,
    branch: &BranchId,
    wanted: &[BranchCreateRequestEndpointOptions],
) -> ApiResult<Vec<EndpointRecord>> {
    let types = wanted.iter().map(|options| &options.endpoint_type);
    check_room(project, limits, branch, types)?;
    check_room_to_run(project, limits, branch, None, wanted.len())?;
    let mut records = Vec::with_capacity(wanted.len());
    for (index, options) in wanted.iter().enumerate() {
        let options = Wanted {
            field: &format!("endpoints[{index}]"),
            endpoint_type: &options.endpoint_type,
            settings: options.settings.as_ref(),
            min: options.autoscaling_limit_min_cu,
            max: options.autoscaling_limit_max_cu,
            suspend_seconds: options.suspend_timeout_seconds,
            provisioner: options.provisioner.as_ref(),
        };
        options.check(limits)?;
        records.push(options.endpoint(project, branch, &records)?);
    }
    records.sort_by_key(|record| record.endpoint.endpoint_type != EndpointType::ReadWrite);
    Ok(records)
}

/// Checks that the branch may have these endpoints as well.
pub(super) fn check_room<'a>(
    project: &'a ProjectRecord,
    limits: &Limits,
    branch: &BranchId,
    more: impl IntoIterator<Item = &'a EndpointType>,
) -> ApiResult<()> {
    let there = project
        .live_endpoints()
        .map(|record| &record.endpoint)
        .filter(|endpoint| endpoint.branch_id == *branch)
        .map(|endpoint| &endpoint.endpoint_type);
    let (mut count, mut writers) = (0, 0);
    for endpoint_type in there.chain(more) {
        count += 1;
        writers += usize::from(*endpoint_type == EndpointType::ReadWrite);
    }
    if writers > 1 {
        return Err(ApiError::conflict("read_write endpoint already exists"));
    }
    let max = limits.endpoints;
    if count > max as usize {
        return Err(
            ApiError::unprocessable(format!("a branch may have {max} endpoints"))
                .with_code("ENDPOINTS_LIMIT_EXCEEDED"),
        );
    }
    Ok(())
}

/// Checks that so many endpoints of the branch may run, in Neon's words.
pub(super) fn check_room_to_run(
    project: &ProjectRecord,
    limits: &Limits,
    branch: &BranchId,
    asked_for: Option<&EndpointId>,
    count: usize,
) -> ApiResult<()> {
    if count == 0 || project.has_room_to_run(branch, asked_for, count, limits.active_computes) {
        return Ok(());
    }
    Err(ApiError::unprocessable(TOO_MANY_ACTIVE).with_code("ACTIVE_ENDPOINTS_LIMIT_EXCEEDED"))
}

/// Checks after how much idleness an endpoint is to suspend: -1 is never, 0 the
/// default.
pub(super) fn check_suspend_timeout(
    field: &str,
    seconds: Option<i64>,
    limits: &Limits,
) -> ApiResult<()> {
    let min = limits.unsafe_suspend_seconds_min;
    match seconds {
        None | Some(-1 | 0) => Ok(()),
        Some(seconds) if (min..=SUSPEND_SECONDS_MAX).contains(&seconds) => Ok(()),
        Some(seconds) => Err(ApiError::bad_request(format!(
            "{field} must be -1, 0 or {min} to {SUSPEND_SECONDS_MAX}, not {seconds}"
        ))),
    }
}

/// Checks what is to run an endpoint; here Postgres does, whatever it says.
pub(super) fn check_provisioner(field: &str, wanted: Option<&Provisioner>) -> ApiResult<()> {
    match wanted {
        Some(Provisioner::Unknown(text)) => Err(ApiError::bad_request(format!(
            "{field}.provisioner must be k8s-pod, k8s-neonvm or serverless-platform, not {text:?}"
        ))),
        _ => Ok(()),
    }
}

/// Checks how a pooler is to share connections: Neon's does it in one way.
pub(super) fn check_pooler_mode(wanted: Option<&EndpointPoolerMode>) -> ApiResult<()> {
    match wanted {
        Some(EndpointPoolerMode::Unknown(text)) => Err(ApiError::bad_request(format!(
            "endpoint.pooler_mode must be transaction, not {text:?}"
        ))),
        _ => Ok(()),
    }
}

/// Compute units mean nothing on one machine; they are kept as they are given, in
/// the request's `field`.
pub(super) fn set_limits(
    field: &str,
    endpoint: &mut Endpoint,
    min: Option<ComputeUnit>,
    max: Option<ComputeUnit>,
) -> ApiResult<()> {
    let min = min.unwrap_or(endpoint.autoscaling_limit_min_cu);
    let max = max.unwrap_or(endpoint.autoscaling_limit_max_cu.max(min));
    if min < 0.25 || max < min {
        return Err(ApiError::bad_request(format!(
            "{field}.autoscaling_limit_min_cu must be at least 0.25, and {field}.autoscaling_limit_max_cu no less"
        )));
    }
    endpoint.autoscaling_limit_min_cu = min;
    endpoint.autoscaling_limit_max_cu = max;
    Ok(())
}
