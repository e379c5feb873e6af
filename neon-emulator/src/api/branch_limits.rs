//! How many branches a project may have.

use super::error::{ApiError, ApiResult};
use crate::limits::Limits;
use crate::state::ProjectRecord;

/// Checks that there is room for a branch.
pub(super) fn check(project: &ProjectRecord, limits: &Limits, is_root: bool) -> ApiResult<()> {
    let count = project.live_branches().count();
    check_one(
        count,
        limits.branches,
        "branches",
        "BRANCHES_LIMIT_EXCEEDED",
    )?;
    if !is_root {
        return Ok(());
    }
    let roots = project
        .live_branches()
        .filter(|record| record.branch.parent_id.is_none());
    check_one(
        roots.count(),
        limits.root_branches,
        "root branches",
        "ROOT_BRANCHES_LIMIT_EXCEEDED",
    )
}

/// Checks that one more branch may be protected.
pub(super) fn check_protected(project: &ProjectRecord, limits: &Limits) -> ApiResult<()> {
    let protected = project
        .live_branches()
        .filter(|record| record.branch.protected);
    check_one(
        protected.count(),
        limits.protected_branches,
        "protected branches",
        "BRANCHES_PROTECTED_LIMIT_EXCEEDED",
    )
}

fn check_one(count: usize, max: u32, what: &str, code: &'static str) -> ApiResult<()> {
    if count < max as usize {
        return Ok(());
    }
    Err(ApiError::unprocessable(format!("a project may have {max} {what}")).with_code(code))
}
