//! What a version alone had written, by the rows of its branches.

use std::time::Duration;

use neon_api::BranchId;

use super::compare::{Sides, compare};
use super::{Course, Refresh, Refreshes};
use crate::config::BindingSpec;
use crate::moving::Error;
use crate::operations::Work;
use crate::postgres::OwnerUri;
use crate::text::one_line;

/// How long comparing may take, in seconds, all tables together.
const COMPARE_SECONDS_MAX: u64 = 3_600;

/// How the old branch differs from the new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Why both were not compared with what the old branch was forked with. None: they
    /// were, and only what the version has written itself counts.
    pub without_fork: Option<String>,
    /// The tables that were compared.
    pub tables: Vec<Table>,
    /// Those that were not.
    pub not_compared: Vec<NotCompared>,
    /// Why the comparison came to no end.
    pub message: Option<String>,
}

/// A table that was compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The columns of its primary key.
    pub key: Vec<String>,
    /// On the old branch alone.
    pub only_in_old: Rows,
    /// On both, and different.
    pub differing: Rows,
    /// Deleted on the old branch, and on the new one. Without the fork nobody knows.
    pub deleted_in_old: Rows,
}

/// Rows, by their primary keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub keys: Vec<Vec<String>>,
}

/// A table that was not compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotCompared {
    /// Its name.
    pub name: String,
    /// Why, for people.
    pub reason: String,
}

impl Refreshes {
    /// Compares the branch that a binding has left with the one that it lives on. What
    /// keeps that from being done is in the report: the binding has moved.
    pub(super) async fn report(
        &self,
        refresh: &Refresh,
        course: &Course,
        work: &Work,
    ) -> Result<Report, Error> {
        let (Ok(spec), Some(branch)) = (self.switches.spec(&refresh.binding), &course.branch)
        else {
            return Ok(unfinished("the binding is declared no more"));
        };
        let base = self.base(&spec, course, work).await?;
        let compared = async {
            let sides = Sides {
                old: self.owner(&spec, &course.source).await?,
                new: self.owner(&spec, branch).await?,
                base: match &base {
                    Ok(base) => Some(self.owner(&spec, &base.branch).await?),
                    Err(_) => None,
                },
            };
            Ok::<_, Error>(compare(&sides, &spec.service).await)
        };
        let limit = Duration::from_secs(COMPARE_SECONDS_MAX);
        let mut report = match tokio::time::timeout(limit, Box::pin(compared)).await {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => unfinished(&one_line(&error)),
            Err(_) => unfinished(&format!("not done within {COMPARE_SECONDS_MAX} s")),
        };
        match base {
            Ok(base) => self.base_over(base, work).await,
            Err(why) => report.without_fork = Some(why),
        }
        Ok(report)
    }

    async fn owner(&self, spec: &BindingSpec, branch: &BranchId) -> Result<OwnerUri, Error> {
        let database = &spec.service.database;
        Ok(self
            .keeper
            .neon()
            .owner_uris(branch, database)
            .await?
            .direct)
    }
}

fn unfinished(why: &str) -> Report {
    Report {
        message: Some(why.to_owned()),
        ..Report::default()
    }
}
