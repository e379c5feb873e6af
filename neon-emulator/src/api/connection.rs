//! Connection URIs.

use axum::Json;
use neon_api::Secret;
use neon_api::types::{
    ConnectionDetails, ConnectionParameters, ConnectionUriQuery, ConnectionUriResponse,
};
use url::Url;

use super::Shared;
use super::error::{ApiError, ApiResult};
use super::extract::{InProject, Names, Parameters};
use super::{branches, projects};
use crate::new::host;
use crate::state::{BranchRecord, EndpointRecord, ProjectRecord};

pub(super) async fn uri(
    engine: Shared,
    Names(names): Names<InProject>,
    Parameters(query): Parameters<ConnectionUriQuery>,
) -> ApiResult<Json<ConnectionUriResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let endpoint = match (&query.endpoint_id, &query.branch_id) {
            (Some(endpoint), _) => project.endpoint(endpoint),
            (None, Some(branch)) => {
                branches::find(project, branch)?;
                project.read_write_endpoint(branch)
            }
            (None, None) => project
                .default_branch()
                .and_then(|record| project.read_write_endpoint(&record.branch.id)),
        }
        .ok_or_else(|| ApiError::not_found("endpoint"))?;
        let branch = branches::find(project, &endpoint.endpoint.branch_id)?;
        if query
            .branch_id
            .as_ref()
            .is_some_and(|id| *id != branch.branch.id)
        {
            return Err(ApiError::not_found("endpoint"));
        }
        if !branch.databases.contains_key(&query.database_name) {
            return Err(ApiError::not_found("database"));
        }
        let role = branch
            .roles
            .get(&query.role_name)
            .ok_or_else(|| ApiError::not_found("role"))?;
        if !project.project.store_passwords {
            return Err(ApiError::no_stored_passwords());
        }
        let password = role.password.as_ref().ok_or_else(|| {
            ApiError::unprocessable(format!("role {} cannot log in", query.role_name))
        })?;
        let way = match query.pooled {
            Some(true) => Way::Pooled {
                channel_binding: !engine.has_pooler(),
            },
            _ => Way::Direct,
        };
        let uri = connection_uri(
            endpoint,
            way,
            &query.role_name,
            password,
            &query.database_name,
        )?;
        Ok(Json(ConnectionUriResponse { uri }))
    })
}

/// Connection details of a branch that has one role and one database. With
/// more, it would not be clear which.
pub(super) fn details(
    project: &ProjectRecord,
    branch: &BranchRecord,
    endpoint: &EndpointRecord,
) -> Option<ConnectionDetails> {
    // They would tell a password.
    if !project.project.store_passwords {
        return None;
    }
    if branch.roles.len() != 1 || branch.databases.len() != 1 {
        return None;
    }
    let role = branch.roles.values().next()?;
    let database = branch.databases.values().next()?;
    let password = role.password.clone()?;
    Some(ConnectionDetails {
        connection_uri: connection_uri(
            endpoint,
            Way::Direct,
            &role.name,
            &password,
            &database.name,
        )
        .ok()?,
        connection_parameters: ConnectionParameters {
            database: database.name.clone(),
            password,
            role: role.name.clone(),
            host: host(endpoint.port),
            pooler_host: host(endpoint.pooled_port),
        },
    })
}

/// How a URI leads to an endpoint.
#[derive(Debug, Clone, Copy)]
enum Way {
    Direct,
    /// PgBouncer has no channel binding: a client that insists would not get in.
    Pooled {
        channel_binding: bool,
    },
}

fn connection_uri(
    endpoint: &EndpointRecord,
    way: Way,
    role: &str,
    password: &Secret,
    database: &str,
) -> ApiResult<Secret> {
    let (port, query) = match way {
        Way::Direct => (endpoint.port, "sslmode=require&channel_binding=require"),
        Way::Pooled {
            channel_binding: true,
        } => (
            endpoint.pooled_port,
            "sslmode=require&channel_binding=require",
        ),
        Way::Pooled {
            channel_binding: false,
        } => (endpoint.pooled_port, "sslmode=require"),
    };
    let failed = |()| ApiError::unprocessable("the role's name cannot be part of a URI");
    let mut uri =
        Url::parse("postgresql://127.0.0.1").map_err(|error| ApiError::internal(&error))?;
    uri.set_port(Some(port)).map_err(failed)?;
    uri.set_username(role).map_err(failed)?;
    uri.set_password(Some(password.expose())).map_err(failed)?;
    uri.path_segments_mut().map_err(failed)?.push(database);
    uri.set_query(Some(query));
    Ok(Secret::from(uri.to_string()))
}
