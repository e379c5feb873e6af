//! A version that catches up with the one that its branch was forked from: a new branch
//! of what that leads to now, made what the version declares, a switch to it with a
//! fence, and a report of what the version alone had written.
//!
//! What is stored here, and who may change it: the note of the operation, a [`Course`],
//! which this module alone writes. What keeps the new branch from being left over is the
//! operation itself: it is written down before the branch is made, and ends when the
//! binding has moved there, or when the branch is deleted again. Whoever takes it up
//! finds in the note how far it is, and by the operation's id in its annotation which
//! branch is its own. (An `expires_at` would take a branch away under a switch that is
//! committed late, and a switch refuses such branches for that.)

mod base;
mod compare;
mod course;
mod parent;
mod report;

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::Change;

use crate::branches::{self, Branches, Update, Which};
use crate::keeper::Keeper;
use crate::leases::Leases;
use crate::moving::Error;
use crate::names::{BindingName, BranchName};
use crate::neon::{NewBranch, Purpose};
use crate::operations::Work;
use crate::state::{Draft, State};
use crate::switches::{Switch, Switches, Unwatched, check_stored};
use crate::text::one_line;

pub use course::{Course, Stage};
pub use report::{NotCompared, Report, Rows, Table};

/// Pauses between tries to delete a branch that came to nothing, in milliseconds. The
/// operation is not over before.
const DELETE_MS_MIN: u64 = 250;
const DELETE_MS_MAX: u64 = 15_000;
/// The pause before a refresh goes on whose state could not be stored, in milliseconds.
const STATE_PAUSE_MS: u64 = 1_000;
/// How often the old branch is tried to be renamed: the binding has to be known to have
/// left it, and Neon may be busy.
const KEEP_TRIES_MAX: usize = 6;
/// As many characters of the declared name as leave room for the time.
const NAME_CHARS_MAX: usize = 200;

/// A refresh that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refresh {
    /// The binding.
    pub binding: BindingName,
    /// What the new branch is called; by default as declared, with the time.
    pub branch_name: Option<BranchName>,
    /// What the old branch is called then; by default as it is.
    pub keep_as: Option<BranchName>,
    /// What becomes of leases that have no say.
    pub unwatched: Unwatched,
    /// How long consumers have to acknowledge.
    pub ack_timeout: Duration,
    /// How long they have to drain.
    pub drain_timeout: Duration,
    /// Who asks, for people.
    pub by: String,
    /// When it was asked for.
    pub asked_at: Timestamp,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// How far it came, and with which branches.
    pub course: Course,
    /// The name of the old branch by now. None: it is gone.
    pub kept_as: Option<String>,
    /// Why it is not called as was asked for.
    pub message: Option<String>,
    /// What the version alone had written.
    pub report: Report,
}

/// Refreshes bindings.
#[derive(Debug)]
pub struct Refreshes {
    /// What is stored.
    pub state: Arc<State>,
    /// The world as declared.
    pub keeper: Arc<Keeper>,
    /// The branches.
    pub branches: Branches,
    /// The leases.
    pub leases: Arc<Leases>,
    /// How bindings move.
    pub switches: Arc<Switches>,
}

impl Refreshes {
    /// Whether the binding can be refreshed, as far as can be seen without doing so.
    pub async fn check(&self, refresh: &Refresh) -> Result<(), Error> {
        let spec = self.switches.spec(&refresh.binding)?;
        let parent = self.parent(&spec).await?;
        let name = refresh.name(&spec.branch);
        let field = "branch_display_name";
        self.branches.check_fork(&parent, (field, &name)).await?;
        // One that lives on its parent's branch has nothing to catch up with.
        self.switches.check(&refresh.switch(parent)).await?;
        if let Some(keep_as) = &refresh.keep_as {
            let source = self.source(&refresh.binding)?;
            let (binding, as_field) = (&refresh.binding, ("keep_as", keep_as));
            let checking = self.branches.check_keep_as(&source, binding, as_field);
            checking.await?;
        }
        Ok(())
    }

    /// Refreshes a binding, or goes on with what was left.
    pub async fn run(&self, refresh: &Refresh, work: &Work) -> Result<Refreshed, Error> {
        let mut course = match Course::left(work) {
            Some(course) => course,
            None => self.begin(refresh, work).await?,
        };
        if course.stage < Stage::Comparing {
            loop {
                let moved = Box::pin(self.until_moved(refresh, &mut course, work)).await;
                match moved {
                    Ok(()) => break,
                    // Whether the binding has moved is not known: who takes it up would
                    // go on from what is stored, and so does this broker, until the
                    // operation is lost to it.
                    Err(error) if error.is_of_state() => {
                        tracing::warn!(error = %one_line(&error), "a refresh waits for the state");
                        tokio::time::sleep(Duration::from_millis(STATE_PAUSE_MS)).await;
                    }
                    Err(error) => return Err(self.give_up(&course, work, error).await),
                }
            }
            course.stage = Stage::Comparing;
            match self.note(&course, work).await {
                // The binding has moved all the same: what is left can be done twice.
                Err(Error::State(error)) => {
                    tracing::warn!(error = %one_line(&error), "how far a refresh is is not stored");
                }
                noted => noted?,
            }
        }
        // Not before: until nobody writes there, what is found races with those who do.
        let report = Box::pin(self.report(refresh, &course, work)).await?;
        let (kept_as, message) = self.keep(refresh, &course, work).await?;
        Ok(Refreshed {
            course,
            kept_as,
            message,
            report,
        })
    }

    /// Decides what is to be done, and writes it down.
    async fn begin(&self, refresh: &Refresh, work: &Work) -> Result<Course, Error> {
        let spec = self.switches.spec(&refresh.binding)?;
        let course = Course {
            stage: Stage::Creating,
            source: self.source(&refresh.binding)?,
            parent: self.parent(&spec).await?,
            name: refresh.name(&spec.branch),
            branch: None,
        };
        let (switch, source) = (refresh.switch(course.parent.clone()), course.source.clone());
        let now = self.leases.now();
        let check = move |draft: &mut Draft<'_>| match check_stored(draft, &switch, now)? == source
        {
            true => Ok(()),
            false => Err(Error::Overtaken(switch.binding.clone())),
        };
        work.commit(Some(course.to_note()), check).await?;
        Ok(course)
    }

    /// From wherever it was left to the moment from which the binding leads to the new
    /// branch, and what was before is drained.
    async fn until_moved(
        &self,
        refresh: &Refresh,
        course: &mut Course,
        work: &Work,
    ) -> Result<(), Error> {
        let branch = match &course.branch {
            Some(branch) => branch.clone(),
            None => {
                let made = Box::pin(self.branches.create(&course.new_branch(work), work)).await;
                let branch = made.map_err(in_request)?.branch.id;
                course.branch = Some(branch.clone());
                course.stage = Stage::Preparing;
                self.note(course, work).await?;
                branch
            }
        };
        if course.stage < Stage::Switching {
            let spec = self.switches.spec(&refresh.binding)?;
            Box::pin(self.keeper.prepare_fork(&spec, &course.name)).await?;
            course.stage = Stage::Switching;
            self.note(course, work).await?;
        }
        Box::pin(self.switches.run(&refresh.switch(branch), work)).await
    }

    /// Writes down how far it is.
    async fn note(&self, course: &Course, work: &Work) -> Result<(), Error> {
        let nothing_else = |_: &mut Draft<'_>| Ok::<(), Error>(());
        work.commit(Some(course.to_note()), nothing_else).await
    }

    /// Takes the new branch away again, for as long as that takes. The error that it was
    /// given up for, unless it is another broker's by now.
    async fn give_up(&self, course: &Course, work: &Work, why: Error) -> Error {
        if why.is_stopped() {
            return why;
        }
        let new = course.new_branch(work);
        let mut pause = Duration::from_millis(DELETE_MS_MIN);
        loop {
            match Box::pin(self.branches.delete_made(&new, work)).await {
                Ok(()) => return why,
                Err(branches::Error::Cancelled) => return Error::Stopped,
                Err(error) if error.is_transient() => {
                    let (branch, error) = (&course.name, one_line(&error));
                    tracing::warn!(%branch, error, "a branch that came to nothing is still there");
                }
                // Somebody lives there by now, say: then it is not left over.
                Err(error) => {
                    let (branch, error) = (&course.name, one_line(&error));
                    tracing::warn!(%branch, error, "a branch that came to nothing is not deleted");
                    return why;
                }
            }
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(Duration::from_millis(DELETE_MS_MAX));
        }
    }

    /// Gives the old branch the name that was asked for. The name that it has then, and
    /// why it has no other: the binding has moved, whatever comes of this.
    async fn keep(
        &self,
        refresh: &Refresh,
        course: &Course,
        work: &Work,
    ) -> Result<(Option<String>, Option<String>), Error> {
        let renamed = match &refresh.keep_as {
            None => Ok(()),
            Some(name) => self.rename(&course.source, name, work).await,
        };
        let message = match renamed {
            Ok(()) => None,
            Err(branches::Error::Cancelled) => return Err(Error::Stopped),
            Err(error) => Some(one_line(&error)),
        };
        match self.branches.get("name", &course.source).await {
            Ok(found) => Ok((Some(found.branch.name), message)),
            Err(error) => Ok((None, message.or_else(|| Some(one_line(&error))))),
        }
    }

    async fn rename(
        &self,
        id: &BranchId,
        name: &BranchName,
        work: &Work,
    ) -> Result<(), branches::Error> {
        let update = Update {
            which: Which {
                id: id.clone(),
                etag: None,
            },
            name: Some(name.clone()),
            protected: None,
            expires_at: Change::Keep,
        };
        let backoff = ExponentialBuilder::default().with_max_times(KEEP_TRIES_MAX);
        let renaming = || async { self.branches.update(&update, work).await.map(|_| ()) };
        // This broker may not have heard yet that the binding has left it.
        let may_pass = |error: &branches::Error| {
            error.is_transient() || matches!(error, branches::Error::InUse { .. })
        };
        renaming.retry(backoff).when(may_pass).await
    }

    /// The branch that the binding leads to.
    fn source(&self, binding: &BindingName) -> Result<BranchId, Error> {
        let known = self.state.read(|data| {
            let known = data.generations.get(binding);
            known.map(|one| (one.branch.clone(), one.is_retired()))
        });
        match known {
            None => Err(Error::NotReady(binding.clone())),
            Some((_, true)) => Err(Error::Retired(binding.clone())),
            Some((branch, false)) => Ok(branch),
        }
    }
}

impl Refresh {
    /// What the new branch is called.
    fn name(&self, declared: &BranchName) -> BranchName {
        let by_default = || {
            let declared: String = declared.as_str().chars().take(NAME_CHARS_MAX).collect();
            let time = self.asked_at.strftime("%Y%m%dT%H%M%S");
            // What is a name is one with this behind it.
            format!("{declared}-{time}").parse().ok()
        };
        let asked = self.branch_name.clone();
        asked
            .or_else(by_default)
            .unwrap_or_else(|| declared.clone())
    }

    /// The switch to that branch.
    fn switch(&self, branch: BranchId) -> Switch {
        Switch {
            binding: self.binding.clone(),
            branch,
            fence: true,
            unwatched: self.unwatched,
            ack_timeout: self.ack_timeout,
            drain_timeout: self.drain_timeout,
            by: self.by.clone(),
        }
    }
}

impl Course {
    /// The branch that the operation makes: its annotation says by whose work.
    fn new_branch(&self, work: &Work) -> NewBranch {
        NewBranch {
            name: self.name.clone(),
            parent: Some(self.parent.clone()),
            point: None,
            schema_only: false,
            protected: false,
            expires_at: None,
            read_only_endpoint: false,
            purpose: Purpose::request(work.id().as_bytes()),
        }
    }
}

/// The same error, about the fields of this request.
fn in_request(error: branches::Error) -> Error {
    match error {
        branches::Error::Exists { name, .. } => branches::Error::Exists {
            field: "branch_display_name",
            name,
        },
        other => other,
    }
    .into()
}
