//! New records: what a project, a branch, an endpoint, a role and a database
//! are when they are created.

mod project;

use neon_api::types::{
    AnnotationData, AnnotationObjectData, AnnotationValueData, AuthenticationMethod, Branch,
    BranchState, Database, Endpoint, EndpointPoolerMode, EndpointSettingsData, EndpointState,
    EndpointType, InitSource, Project, Role,
};
use neon_api::{BranchId, EndpointId, ProjectId, Secret};

use crate::api::ApiError;
use crate::defaults::COMPUTE_UNITS;
use crate::engine::free_port;
use crate::names;
use crate::state::{BranchRecord, EndpointRecord};
use crate::time::now;

pub(crate) use project::{BRANCH_MEBIBYTES_MAX, DATABASE, REGION, project, role_name};

/// A branch that is still to be made. With a parent it inherits the roles, the
/// passwords and the databases.
pub(crate) fn branch(
    project: &ProjectId,
    id: &BranchId,
    parent: Option<&BranchRecord>,
    name: String,
) -> BranchRecord {
    let at = now();
    let inherit_role = |role: &Role| Role {
        branch_id: id.clone(),
        ..role.clone()
    };
    let inherit_database = |database: &Database| Database {
        branch_id: id.clone(),
        ..database.clone()
    };
    BranchRecord {
        branch: Branch {
            id: id.clone(),
            project_id: project.clone(),
            parent_id: parent.map(|parent| parent.branch.id.clone()),
            parent_lsn: None,
            parent_timestamp: None,
            name,
            current_state: BranchState::Init,
            pending_state: Some(BranchState::Ready),
            state_changed_at: at,
            // Until it is measured: what is cloned is as large.
            logical_size: parent.and_then(|parent| parent.branch.logical_size),
            creation_source: "console".to_owned(),
            primary: Some(false),
            default: false,
            protected: false,
            cpu_used_sec: 0,
            compute_time_seconds: 0,
            active_time_seconds: 0,
            written_data_bytes: 0,
            data_transfer_bytes: 0,
            created_at: at,
            updated_at: at,
            ttl_interval_seconds: None,
            expires_at: None,
            last_reset_at: None,
            created_by: None,
            init_source: parent.map(|_| InitSource::ParentData),
            restore_status: None,
            restored_from: None,
            restored_as: None,
            restricted_actions: None,
            recovery: None,
        },
        annotation: None,
        roles: parent
            .map(|parent| {
                let roles = parent.roles.iter();
                roles
                    .map(|(name, role)| (name.clone(), inherit_role(role)))
                    .collect()
            })
            .unwrap_or_default(),
        databases: parent
            .map(|parent| {
                let databases = parent.databases.iter();
                databases
                    .map(|(name, database)| (name.clone(), inherit_database(database)))
                    .collect()
            })
            .unwrap_or_default(),
        // Its data are as far behind as the parent's.
        catalog_is_behind: parent.is_some_and(|parent| parent.catalog_is_behind),
        undone: parent
            .map(|parent| parent.undone.clone())
            .unwrap_or_default(),
        restored_from: None,
        cloned_by: None,
        deleted: false,
    }
}

/// An endpoint with addresses of its own, none of those that are `taken`.
pub(crate) fn endpoint(
    project: &Project,
    branch: &BranchId,
    endpoint_type: EndpointType,
    taken: impl Fn(u16) -> bool,
) -> Result<EndpointRecord, ApiError> {
    let at = now();
    let free =
        |taken: &dyn Fn(u16) -> bool| free_port(taken).map_err(|error| ApiError::internal(&error));
    let port = free(&taken)?;
    let pooled_port = free(&|other| other == port || taken(other))?;
    let id: EndpointId = id(names::endpoint_id())?;
    Ok(EndpointRecord {
        endpoint: Endpoint {
            host: host(port),
            id,
            name: None,
            project_id: project.id.clone(),
            branch_id: branch.clone(),
            autoscaling_limit_min_cu: COMPUTE_UNITS,
            autoscaling_limit_max_cu: COMPUTE_UNITS,
            region_id: project.region_id.clone(),
            endpoint_type,
            current_state: EndpointState::Init,
            pending_state: Some(EndpointState::Active),
            settings: EndpointSettingsData::default(),
            pooler_enabled: false,
            pooler_mode: Some(EndpointPoolerMode::Transaction),
            disabled: false,
            passwordless_access: false,
            last_active: None,
            creation_source: "console".to_owned(),
            created_at: at,
            updated_at: at,
            started_at: None,
            suspended_at: None,
            proxy_host: "127.0.0.1".to_owned(),
            suspend_timeout_seconds: 0,
            provisioner: project.provisioner.clone(),
            compute_release_version: None,
        },
        port,
        pooled_port,
        pooler_asked: None,
        deleted: false,
    })
}

/// An endpoint's address: on Neon each has a name of its own, here a port.
pub(crate) fn host(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A role, with a new password if it may log in.
pub(crate) fn role(branch: &BranchId, name: &str, login: bool) -> Role {
    let at = now();
    Role {
        branch_id: branch.clone(),
        name: name.to_owned(),
        password: login.then(|| Secret::from(names::password())),
        protected: Some(false),
        authentication_method: Some(if login {
            AuthenticationMethod::Password
        } else {
            AuthenticationMethod::NoLogin
        }),
        created_at: at,
        updated_at: at,
    }
}

/// A database, with the next id.
pub(crate) fn database(
    branch: &BranchId,
    name: &str,
    owner: &str,
    next_database_id: &mut i64,
) -> Database {
    let at = now();
    let id = *next_database_id;
    *next_database_id += 1;
    Database {
        id,
        branch_id: branch.clone(),
        name: name.to_owned(),
        owner_name: owner.to_owned(),
        created_at: at,
        updated_at: at,
    }
}

/// Notes on a branch.
pub(crate) fn annotation(branch: &BranchId, value: AnnotationValueData) -> AnnotationData {
    let at = now();
    AnnotationData {
        object: AnnotationObjectData {
            object_type: "console/branch".to_owned(),
            id: branch.to_string(),
        },
        value,
        created_at: Some(at),
        updated_at: Some(at),
    }
}

/// Ids that are made here are valid: this fails only if `names` is wrong.
pub(crate) fn id<T: TryFrom<String, Error = neon_api::IdError>>(
    text: String,
) -> Result<T, ApiError> {
    T::try_from(text).map_err(|error| ApiError::internal(&error))
}
