//! A new project.

use std::collections::BTreeMap;

use jiff::ToSpan;
use neon_api::types::{EndpointType, OperationAction, Project, ProjectCreate, Provisioner};
use neon_api::{BranchId, ProjectId};
use uuid::Uuid;

use super::{annotation, branch, database, endpoint, role};
use crate::api::ApiError;
use crate::limits::Limits;
use crate::state::{Job, ProjectRecord};
use crate::time::now;
use crate::{account, defaults, names, operations};

/// Where a project is that does not say where it is to be.
pub(crate) const REGION: &str = "aws-us-east-2";
/// The first database of a project that does not name it.
pub(crate) const DATABASE: &str = "neondb";
const BRANCH: &str = "main";
/// How large a branch may be on the plan Scale, as Neon tells it: 16 TiB.
pub(crate) const BRANCH_MEBIBYTES_MAX: i64 = 16_777_216;
/// Postgres cuts longer identifiers.
const ROLE_BYTES_MAX: usize = 63;

/// The first role of a project that does not name it: its database's owner.
pub(crate) fn role_name(database: &str) -> String {
    const SUFFIX: &str = "_owner";
    let room = ROLE_BYTES_MAX - SUFFIX.len();
    let kept = database
        .char_indices()
        .map(|(at, character)| at + character.len_utf8());
    let end = kept.take_while(|end| *end <= room).last().unwrap_or(0);
    format!("{}{SUFFIX}", &database[..end])
}

/// A project with its root branch, one role, one database and one endpoint, and
/// the operations that make them.
pub(crate) fn project(
    wanted: &ProjectCreate,
    limits: &Limits,
    major: u32,
    next_database_id: &mut i64,
) -> Result<ProjectRecord, ApiError> {
    let at = now();
    let id: ProjectId = super::id(names::project_id())?;
    let in_branch = wanted.branch.clone().unwrap_or_default();
    let branch_id: BranchId = super::id(names::branch_id())?;
    let database_name = in_branch
        .database_name
        .unwrap_or_else(|| DATABASE.to_owned());
    let role_name = in_branch
        .role_name
        .unwrap_or_else(|| role_name(&database_name));
    let region = wanted.region_id.as_deref().unwrap_or(REGION);
    let organization = account::organization()?;
    let project = Project {
        data_storage_bytes_hour: 0,
        data_transfer_bytes: 0,
        written_data_bytes: 0,
        compute_time_seconds: 0,
        active_time_seconds: 0,
        cpu_used_sec: 0,
        id: id.clone(),
        platform_id: region.split('-').next().unwrap_or_default().to_owned(),
        region_id: region.to_owned(),
        name: wanted.name.clone().unwrap_or_else(|| id.to_string()),
        provisioner: wanted.provisioner.clone().unwrap_or(Provisioner::K8sNeonvm),
        default_endpoint_settings: Some(defaults::of_endpoints(wanted)),
        settings: Some(defaults::of_project(wanted.settings.clone())),
        pg_version: u16::try_from(major).unwrap_or_default(),
        proxy_host: "127.0.0.1".to_owned(),
        branch_logical_size_limit: BRANCH_MEBIBYTES_MAX,
        branch_logical_size_limit_bytes: BRANCH_MEBIBYTES_MAX << 20,
        store_passwords: wanted.store_passwords.unwrap_or(true),
        maintenance_starts_at: None,
        creation_source: "console".to_owned(),
        history_retention_seconds: wanted
            .history_retention_seconds
            .unwrap_or(limits.history_retention_seconds),
        created_at: at,
        updated_at: at,
        synthetic_storage_size: Some(0),
        consumption_period_start: at,
        consumption_period_end: at + (30 * 24).hours(),
        quota_reset_at: None,
        owner_id: organization.to_string(),
        owner: None,
        compute_last_active_at: None,
        org_id: Some(organization),
        maintenance_scheduled_for: None,
        hipaa_enabled_at: None,
        effective_project_permission: None,
    };
    let mut branch = branch(
        &id,
        &branch_id,
        None,
        in_branch.name.unwrap_or_else(|| BRANCH.to_owned()),
    );
    branch.branch.default = true;
    branch.branch.primary = Some(true);
    branch.catalog_is_behind = true;
    branch.annotation = in_branch
        .annotations
        .map(|value| annotation(&branch_id, value));
    branch
        .roles
        .insert(role_name.clone(), role(&branch_id, &role_name, true));
    branch.databases.insert(
        database_name.clone(),
        database(&branch_id, &database_name, &role_name, next_database_id),
    );
    let mut endpoint = endpoint(&project, &branch_id, EndpointType::ReadWrite, |_| false)?;
    defaults::apply(
        &mut endpoint.endpoint,
        project.default_endpoint_settings.as_ref(),
    );
    defaults::set_compute_units(
        &mut endpoint.endpoint,
        wanted.autoscaling_limit_min_cu,
        wanted.autoscaling_limit_max_cu,
    );
    let endpoint_id = endpoint.endpoint.id.clone();

    let mut record = ProjectRecord {
        project,
        branches: BTreeMap::from([(branch_id.clone(), branch)]),
        endpoints: BTreeMap::from([(endpoint_id.clone(), endpoint)]),
        snapshots: BTreeMap::new(),
        operations: Vec::new(),
        deleted: false,
    };
    let chain = Uuid::new_v4();
    let _ = record.schedule(vec![
        operations::record(
            &id,
            Some(&branch_id),
            None,
            OperationAction::CreateTimeline,
            Job::CreateRoot {
                branch: branch_id.clone(),
            },
            chain,
        ),
        operations::record(
            &id,
            Some(&branch_id),
            Some(&endpoint_id),
            OperationAction::StartCompute,
            Job::StartCompute {
                endpoint: endpoint_id.clone(),
            },
            chain,
        ),
    ]);
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_named_after_its_database_as_far_as_there_is_room() {
        assert_eq!(role_name("neondb"), "neondb_owner");
        assert_eq!(
            role_name(&"x".repeat(63)),
            format!("{}_owner", "x".repeat(57))
        );
        assert_eq!(
            role_name(&"é".repeat(31)),
            format!("{}_owner", "é".repeat(28))
        );
    }
}
