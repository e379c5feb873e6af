//! The schema of a database: as pg_dump writes it, as tables, and compared with
//! another branch's.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use neon_api::BranchId;
use neon_api::types::{
    BranchSchemaCompareResponse, BranchSchemaQuery, BranchSchemaResponse, SchemaCompareQuery,
    SchemaFormat,
};
use similar::TextDiff;

use super::Shared;
use super::error::{ApiError, ApiResult};
use super::extract::{InBranch, Names, Parameters};
use super::points::Asked;
use super::{branches, projects};
use crate::engine::{Point, SchemaError};
use crate::state::ProjectRecord;

/// Unchanged lines around a change.
const CONTEXT_LINES: usize = 3;
/// How long a caller is held while operations on the branch go on. The clients of
/// Neon that have a bound give a request a minute.
const WAIT_SECONDS_MAX: u64 = 30;

pub(super) async fn get(
    engine: Shared,
    Names(names): Names<InBranch>,
    Parameters(query): Parameters<BranchSchemaQuery>,
) -> ApiResult<Json<BranchSchemaResponse>> {
    let as_json = match &query.format {
        None | Some(SchemaFormat::Sql) => false,
        Some(SchemaFormat::Json) => true,
        Some(SchemaFormat::Unknown(text)) => {
            return Err(ApiError::bad_request(format!(
                "format must be sql or json, not {text:?}"
            )));
        }
    };
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        check(project, &names.branch_id, &query.db_name)
    })?;
    settle(&engine, &names, &[&names.branch_id], &query.db_name).await?;
    let asked = Asked {
        lsn: ("lsn", query.lsn.as_deref()),
        time: ("timestamp", query.timestamp),
    };
    let point = asked
        .point(&engine, &names.project_id, &names.branch_id)
        .await?;
    if !as_json {
        let sql = dump(&engine, &names, &names.branch_id, point, &query.db_name).await?;
        return Ok(Json(BranchSchemaResponse {
            sql: Some(sql),
            json: None,
        }));
    }
    let tables = engine
        .schema_tables(&names.project_id, &names.branch_id, point, &query.db_name)
        .await
        .map_err(|error| ApiError::of_errand(&error))?;
    Ok(Json(BranchSchemaResponse {
        sql: None,
        json: Some(tables),
    }))
}

/// The base is the parent where none is named.
pub(super) async fn compare(
    engine: Shared,
    Names(names): Names<InBranch>,
    Parameters(query): Parameters<SchemaCompareQuery>,
) -> ApiResult<Json<BranchSchemaCompareResponse>> {
    let base = engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        check(project, &names.branch_id, &query.db_name)?;
        let parent = &branches::find(project, &names.branch_id)?.branch.parent_id;
        let base = query.base_branch_id.as_ref().or(parent.as_ref());
        let base = base.ok_or_else(|| {
            ApiError::bad_request("base_branch_id is required: the branch has no parent")
        })?;
        check(project, base, &query.db_name)?;
        Ok::<_, ApiError>(base.clone())
    })?;
    settle(&engine, &names, &[&names.branch_id, &base], &query.db_name).await?;
    let base_asked = Asked {
        lsn: ("base_lsn", query.base_lsn.as_deref()),
        time: ("base_timestamp", query.base_timestamp),
    };
    let asked = Asked {
        lsn: ("lsn", query.lsn.as_deref()),
        time: ("timestamp", query.timestamp),
    };
    let base_point = base_asked.point(&engine, &names.project_id, &base).await?;
    let point = asked
        .point(&engine, &names.project_id, &names.branch_id)
        .await?;
    let from = dump(&engine, &names, &base, base_point, &query.db_name).await?;
    let to = dump(&engine, &names, &names.branch_id, point, &query.db_name).await?;
    let diff = TextDiff::from_lines(&from, &to)
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .header(
            &format!("a/{}", query.db_name),
            &format!("b/{}", query.db_name),
        )
        .to_string();
    Ok(Json(BranchSchemaCompareResponse { diff: Some(diff) }))
}

fn check(project: &ProjectRecord, branch: &BranchId, database: &str) -> ApiResult<()> {
    match branches::find(project, branch)?
        .databases
        .contains_key(database)
    {
        true => Ok(()),
        false => Err(ApiError::not_found("database")),
    }
}

/// Waits for what is being done with the branches: looking at them conflicts with
/// nothing, but there has to be something to look at.
async fn settle(
    engine: &Shared,
    names: &InBranch,
    branches: &[&BranchId],
    database: &str,
) -> ApiResult<()> {
    let longest = Duration::from_secs(WAIT_SECONDS_MAX);
    engine
        .await_idle(&names.project_id, branches, longest)
        .await;
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        for branch in branches {
            // It may have been deleted meanwhile.
            check(project, branch, database)?;
            if project.is_busy(branch) {
                return Err(ApiError::locked());
            }
        }
        Ok(())
    })
}

async fn dump(
    engine: &Shared,
    names: &InBranch,
    branch: &BranchId,
    point: Option<Point>,
    database: &str,
) -> ApiResult<String> {
    let dump = engine
        .schema(&names.project_id, branch, point, database)
        .await;
    dump.map_err(|error| match error {
        SchemaError::NoPgDump { .. } => {
            ApiError::new(StatusCode::NOT_IMPLEMENTED, error.to_string())
        }
        SchemaError::Branch(reason) => ApiError::of_errand(&reason),
        SchemaError::Failed { .. } if error.is_no_database() => ApiError::no_database(),
        SchemaError::Failed { .. } if error.is_passing() => ApiError::unavailable(&error),
        SchemaError::Run(_) | SchemaError::Failed { .. } => ApiError::internal(&error),
    })
}
