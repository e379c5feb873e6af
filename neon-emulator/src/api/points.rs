//! Points of the past that a request asks for.

use jiff::{Timestamp, ToSpan};
use neon_api::{BranchId, ProjectId};

use super::error::{ApiError, ApiResult};
use super::projects;
use crate::engine::{Engine, Point};
use crate::lsn::Lsn;
use crate::time::now;

/// The fields of a request that name a point, with their names.
pub(super) struct Asked<'a> {
    pub(super) lsn: (&'static str, Option<&'a str>),
    pub(super) time: (&'static str, Option<Timestamp>),
}

impl Asked<'_> {
    /// The point that is asked for, which the branch's history has. `None`: the
    /// head.
    pub(super) async fn point(
        &self,
        engine: &Engine,
        project: &ProjectId,
        branch: &BranchId,
    ) -> ApiResult<Option<Point>> {
        let (lsn_field, lsn) = self.lsn;
        let (time_field, time) = self.time;
        let (point, field) = match (lsn, time) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(ApiError::bad_request(format!(
                    "{lsn_field} and {time_field} cannot be used together"
                )));
            }
            (Some(lsn), None) => {
                let lsn: Lsn = lsn
                    .parse()
                    .map_err(|reason| ApiError::bad_request(format!("{lsn_field}: {reason}")))?;
                (Point::Lsn(lsn), lsn_field)
            }
            (None, Some(time)) => (Point::Time(time), time_field),
        };
        let at = now();
        let retention_seconds = engine.store().read(|state| {
            let project = projects::find(state, project)?;
            Ok::<_, ApiError>(project.project.history_retention_seconds)
        })?;
        let refused = |reason: String| ApiError::unprocessable(format!("{field}: {reason}"));
        let begin = match point {
            Point::Time(time) if time > at => {
                return Err(refused(format!("{time} is in the future")));
            }
            Point::Time(time) => Some(time),
            Point::Lsn(_) => None,
        };
        let extent = engine
            .extent(project, branch)
            .await
            .map_err(|error| ApiError::of_errand(&error))?;
        if let Point::Lsn(lsn) = point
            && lsn > extent.head
        {
            return Err(refused(format!(
                "{lsn} is beyond the branch's end, which is {}: it is in the future, or of another timeline",
                extent.head
            )));
        }
        let window = at - retention_seconds.seconds();
        if retention_seconds == 0 {
            return Err(refused(
                "the project keeps no history: its history_retention_seconds is 0".to_owned(),
            ));
        }
        if begin.is_some_and(|time| time < window) {
            return Err(refused(format!(
                "it is before the history window of {retention_seconds} s, which begins at {window}"
            )));
        }
        let Some((oldest_lsn, oldest)) = extent.begin else {
            return Err(refused(
                "the branch has no history yet: it begins soon after the branch's first start"
                    .to_owned(),
            ));
        };
        let is_before = match point {
            Point::Lsn(lsn) => lsn < oldest_lsn,
            Point::Time(time) => time < oldest,
        };
        if is_before {
            return Err(refused(format!(
                "it is before the branch's history, which begins at {oldest} ({oldest_lsn})"
            )));
        }
        Ok(Some(point))
    }
}
