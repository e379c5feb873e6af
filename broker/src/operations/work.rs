//! The work's side of an operation.

use std::sync::{Arc, OnceLock};

use uuid::Uuid;

use super::Operations;
use crate::names::OperationName;
use crate::state::{self, Draft, Operation, State};

/// The work's side of an operation.
#[derive(Debug, Clone)]
pub struct Work {
    state: Arc<State>,
    name: OperationName,
    runner: Uuid,
    /// What a runner that is gone has left: the world may be changed already.
    left: Option<Arc<Operation>>,
    branch: Arc<OnceLock<String>>,
}

/// The operation was cancelled before it changed anything, or another broker has
/// taken it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl Work {
    /// `left`: what a runner that is gone has left.
    pub(super) fn new(
        operations: &Operations,
        name: OperationName,
        left: Option<Operation>,
    ) -> Work {
        Work {
            state: Arc::clone(&operations.state),
            name,
            runner: operations.runner,
            left: left.map(Arc::new),
            branch: Arc::default(),
        }
    }

    /// Whether a runner that is gone had begun to change the world: what it did is
    /// looked for before anything is done again.
    pub fn is_taken_up(&self) -> bool {
        self.left.as_deref().is_some_and(|left| left.committed)
    }

    /// What that runner had written down of the world as it was before.
    pub fn note(&self) -> Option<&str> {
        let left = self.left.as_deref().filter(|left| left.committed)?;
        left.note.as_deref()
    }

    /// From here on the world is changed, and nobody cancels the operation. With it
    /// goes what else has to be written down before; `note` is for who has to take
    /// it up. `also` looks before it changes: what it has changed stays, though it
    /// refuses.
    pub async fn commit<E>(
        &self,
        note: Option<String>,
        mut also: impl FnMut(&mut Draft<'_>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), E>
    where
        E: From<Stopped> + From<state::Error> + Send + 'static,
    {
        let (id, runner) = (self.name.uuid(), self.runner);
        let change = move |draft: &mut Draft<'_>| {
            let ours = draft.operation(id).filter(|one| one.is_run_by(runner));
            let mut operation = ours.cloned().ok_or(Stopped)?;
            also(draft)?;
            operation.committed = true;
            operation.note = note.clone().or(operation.note);
            draft.operation_put(id, operation);
            Ok(())
        };
        self.state.change(change).await?
    }

    /// The operation's id.
    pub fn id(&self) -> Uuid {
        self.name.uuid()
    }

    /// Writes what belongs to the work, while the operation may still be cancelled.
    /// `also` as with [`Work::commit`].
    pub async fn step<T, E>(
        &self,
        mut also: impl FnMut(&mut Draft<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Stopped> + From<state::Error> + Send + 'static,
    {
        let (id, runner) = (self.id(), self.runner);
        let change = move |draft: &mut Draft<'_>| {
            let ours = draft.operation(id).filter(|one| one.is_run_by(runner));
            ours.ok_or(Stopped)?;
            also(draft)
        };
        self.state.change(change).await?
    }

    /// Says what is worked on. Told with the operation's end.
    pub fn describe(&self, branch: String) {
        // Once is all that it is said.
        let _ = self.branch.set(branch);
    }

    pub(super) fn branch(&self) -> Option<String> {
        self.branch.get().cloned()
    }
}

impl Operation {
    /// Whether it goes on, and that runner does the work.
    pub(super) fn is_run_by(&self, runner: Uuid) -> bool {
        !self.done && self.runner == Some(runner)
    }
}
