//! When a branch expires: what may be asked for, and what follows.

use jiff::{SignedDuration, Timestamp};
use neon_api::types::Branch;

use super::error::{ApiError, ApiResult};
use crate::state::{BranchRecord, ProjectRecord};
use crate::time::now;

/// As on Neon: at most 30 days on.
const EXPIRY_HOURS_MAX: i64 = 30 * 24;

/// Has a branch deleted at this time, of which the seconds are kept.
pub(super) fn set(branch: &mut Branch, time: Timestamp) -> ApiResult<()> {
    let at = now();
    let time = Timestamp::from_second(time.as_second())
        .map_err(|error| ApiError::bad_request(format!("branch.expires_at: {error}")))?;
    let left = time.duration_since(at);
    if !left.is_positive() {
        return Err(ApiError::bad_request(
            "branch.expires_at must be in the future",
        ));
    }
    if left > SignedDuration::from_hours(EXPIRY_HOURS_MAX) {
        return Err(ApiError::bad_request(
            "branch.expires_at must be at most 30 days in the future",
        ));
    }
    if branch.protected {
        return Err(ApiError::unprocessable(
            "branch.expires_at: a protected branch cannot expire",
        ));
    }
    if branch.default {
        return Err(ApiError::unprocessable(
            "branch.expires_at: the default branch cannot expire",
        ));
    }
    branch.expires_at = Some(time);
    branch.ttl_interval_seconds = Some(time.as_second() - at.as_second());
    Ok(())
}

/// Checks that a branch that is to expire has no children.
pub(super) fn check_childless(project: &ProjectRecord, branch: &Branch) -> ApiResult<()> {
    match project.children(&branch.id).next() {
        None => Ok(()),
        Some(_) => Err(ApiError::unprocessable(
            "branch.expires_at: a branch with children cannot expire",
        )),
    }
}

/// Has a branch deleted at no time.
pub(super) fn clear(branch: &mut Branch) {
    branch.expires_at = None;
    branch.ttl_interval_seconds = None;
}

/// A reset begins the branch's time anew.
pub(super) fn rearm(branch: &mut Branch) {
    let seconds = branch.ttl_interval_seconds;
    let anew = seconds.and_then(|seconds| {
        let at = Timestamp::from_second(now().as_second()).ok()?;
        at.checked_add(SignedDuration::from_secs(seconds)).ok()
    });
    branch.expires_at = anew.or(branch.expires_at);
}

/// Checks that a branch can have children.
pub(super) fn check_parent(field: &str, parent: &BranchRecord) -> ApiResult<()> {
    match parent.branch.expires_at {
        None => Ok(()),
        Some(_) => Err(ApiError::unprocessable(format!(
            "{field}: branch {} expires, and cannot have children",
            parent.branch.name
        ))),
    }
}
