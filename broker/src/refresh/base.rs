//! What the old branch was forked with: a branch of the same point, made what the binding
//! declares in the same way, for as long as it is compared with.

use std::time::Duration;

use jiff::SignedDuration;
use neon_api::BranchId;

use super::{Course, Refreshes};
use crate::branches;
use crate::config::BindingSpec;
use crate::moving::Error;
use crate::names::BranchName;
use crate::neon::{NewBranch, Point, Purpose};
use crate::operations::Work;
use crate::text::one_line;

/// When Neon deletes the branch if no broker does, in hours: longer than a comparison may
/// take.
const EXPIRES_HOURS: i64 = 2;
/// How often it is tried to be deleted before it is left to that.
const DELETE_TRIES_MAX: u32 = 5;
/// The pause between tries, in milliseconds.
const DELETE_PAUSE_MS: u64 = 500;

/// A branch to compare with, and what it was asked for as.
pub(super) struct Base {
    pub(super) branch: BranchId,
    new: NewBranch,
}

impl Refreshes {
    /// Makes it. The text says why there is none: then two branches are compared.
    pub(super) async fn base(
        &self,
        spec: &BindingSpec,
        course: &Course,
        work: &Work,
    ) -> Result<Result<Base, String>, Error> {
        let new = match self.base_wished(spec, course, work).await {
            Ok(new) => new,
            Err(why) => return Ok(Err(why)),
        };
        let making = async {
            let made = Box::pin(self.branches.create(&new, work)).await?;
            // A replica of it would be nobody's.
            let spec = BindingSpec {
                read_only_endpoint: false,
                ..spec.clone()
            };
            Box::pin(self.keeper.prepare_fork(&spec, &new.name)).await?;
            Ok::<BranchId, Error>(made.branch.id)
        };
        match making.await {
            Ok(branch) => Ok(Ok(Base { branch, new })),
            Err(error) if error.is_stopped() => Err(error),
            Err(error) => {
                self.base_delete(&new, work).await;
                let error = one_line(&error);
                Ok(Err(format!(
                    "what it was forked with cannot be had: {error}"
                )))
            }
        }
    }

    /// Deletes it again.
    pub(super) async fn base_over(&self, base: Base, work: &Work) {
        self.base_delete(&base.new, work).await;
    }

    /// Neon does in the end.
    async fn base_delete(&self, new: &NewBranch, work: &Work) {
        for _ in 0..DELETE_TRIES_MAX {
            let error = match Box::pin(self.branches.delete_made(new, work)).await {
                Ok(()) => return,
                Err(error) => error,
            };
            let branch = &new.name;
            tracing::warn!(%branch, error = %one_line(&error), "is left to its expiry");
            if !error.is_transient() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(DELETE_PAUSE_MS)).await;
        }
    }

    /// The branch that would do, or why there can be none.
    async fn base_wished(
        &self,
        spec: &BindingSpec,
        course: &Course,
        work: &Work,
    ) -> Result<NewBranch, String> {
        let failed = |error: branches::Error| one_line(&error);
        let old = self.branches.get("name", &course.source).await;
        let old = old.map_err(failed)?.branch;
        if old.last_reset_at.is_some() {
            return Err("the old branch was reset or restored since it was forked".to_owned());
        }
        let parent = old.parent_id.clone();
        let parent = parent.ok_or("the old branch has no parent")?;
        // One that was forked from the version's own branch of before has rows from there
        // that the parent never had: nothing that came with the fork may pass for its.
        if parent != course.parent && !self.is_named(&parent, spec.parent.as_ref()).await? {
            return Err("the old branch is not a fork of the parent".to_owned());
        }
        let lsn = old.parent_lsn.as_deref().and_then(|lsn| lsn.parse().ok());
        let point = lsn
            .map(Point::Lsn)
            .or(old.parent_timestamp.map(Point::Time));
        let point = point.ok_or("when the old branch was forked is not known")?;
        let id = work.id();
        // A name that is one, whatever the id.
        let name = format!("refresh/{id}").parse();
        let name: BranchName = name.unwrap_or_else(|_| BranchName::of_id(&parent));
        Ok(NewBranch {
            name,
            parent: Some(parent),
            point: Some(point),
            schema_only: false,
            protected: false,
            expires_at: Some(self.leases.now() + SignedDuration::from_hours(EXPIRES_HOURS)),
            read_only_endpoint: false,
            purpose: Purpose::request(format!("base {id}").as_bytes()),
        })
    }

    async fn is_named(&self, id: &BranchId, name: Option<&BranchName>) -> Result<bool, String> {
        let Some(name) = name else {
            return Ok(false);
        };
        let found = self.keeper.neon().branch_named(name).await;
        let found = found.map_err(|error| one_line(&error))?;
        Ok(found.is_some_and(|found| found.branch.id == *id))
    }
}
