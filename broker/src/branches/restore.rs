//! Resetting and restoring branches.

use neon_api::types::BranchRestoreRequest;

use super::{Branches, Error, Restore, Source, noted};
use crate::ledger;
use crate::names::BranchName;
use crate::neon::{BeforeRestore, Found, Point, Turn};
use crate::operations::Work;
use crate::state::Draft;

/// What is sent, and what was known before: together they tell whether it was done.
struct Sent {
    before: BeforeRestore,
    request: BranchRestoreRequest,
}

impl Branches {
    /// Whether the branch can get the data.
    pub async fn check_restore(&self, restore: &Restore) -> Result<(), Error> {
        let view = self.view().await?;
        view.may_restore(restore).map(|_| ())
    }

    /// Gives a branch other data. It as it is then.
    pub async fn restore(&self, restore: &Restore, work: &Work) -> Result<Found, Error> {
        let id = &restore.which.id;
        let branch = self.get("name", id).await?.branch;
        let what = match restore.source {
            Source::Parent => "reset to its parent",
            Source::Itself | Source::Branch(_) => "restored",
        };
        let change = Box::pin(async {
            let turn = self.neon().turn().await?;
            let (sent, may_be_sent) = match left(restore, work) {
                Some(sent) => (sent, true),
                None => (self.commit(restore, work).await?, false),
            };
            let restored = self.send(restore, &sent, may_be_sent, &turn).await;
            if let Some(name) = &restore.preserve {
                self.note_kept(restore, name).await;
            }
            restored?;
            tracing::info!(branch = %id, what, "gave a branch other data");
            Ok::<(), Error>(())
        });
        Box::pin(self.keeper.renew(&branch, what, change)).await?;
        self.get("name", id).await
    }

    /// Writes down what is about to be done, and what was before.
    async fn commit(&self, restore: &Restore, work: &Work) -> Result<Sent, Error> {
        let view = self.view().await?;
        let (found, source) = view.may_restore(restore)?;
        let before = BeforeRestore::from(&found.branch);
        let request = restore.request(BranchRestoreRequest::from_branch(source));
        let sent = Sent { before, request };
        let (preserve, now) = (restore.preserve.clone(), self.ledger.now());
        let intend = move |draft: &mut Draft<'_>| {
            if let Some(name) = &preserve {
                ledger::intend_keep_in(draft, name, now);
            }
            Ok::<(), Error>(())
        };
        work.commit(Some(sent.note()), intend).await?;
        Ok(sent)
    }

    async fn send(
        &self,
        restore: &Restore,
        sent: &Sent,
        may_be_sent: bool,
        turn: &Turn,
    ) -> Result<(), Error> {
        let Sent { before, request } = sent;
        let restoring = self
            .neon()
            .branch_restore(before, request, may_be_sent, turn);
        restoring.await.map_err(|error| match &restore.point {
            Some(point) if error.is_refusal_of_request() => Error::point(point, error),
            _ => error.into(),
        })
    }

    /// Writes down which branch keeps the old data: of that name, and the parent of
    /// the one that got others. Anything else of that name is somebody's.
    async fn note_kept(&self, restore: &Restore, name: &BranchName) {
        let id = &restore.which.id;
        let looked = async {
            let kept = self.neon().branch_named(name).await?;
            let child = self.neon().branch(id).await?;
            Ok::<_, crate::neon::Error>((kept, child))
        };
        let written = match looked.await {
            Ok((Some(kept), Some(child)))
                if child.branch.parent_id == Some(kept.branch.id.clone()) =>
            {
                self.ledger.kept(name, &kept.branch.id).await
            }
            Ok(_) => self.ledger.gone(name).await,
            Err(error) => {
                let error = crate::text::one_line(&error);
                tracing::warn!(branch = %name, error, "cannot look for what a restore kept");
                return;
            }
        };
        noted(written);
    }
}

impl Restore {
    fn request(&self, from: BranchRestoreRequest) -> BranchRestoreRequest {
        let request = match &self.point {
            None => from,
            Some(Point::Lsn(lsn)) => from.at_lsn(lsn.to_string()),
            Some(Point::Time(time)) => from.at_timestamp(*time),
        };
        match &self.preserve {
            Some(name) => request.preserve_under_name(name.as_str()),
            None => request,
        }
    }
}

impl Sent {
    /// For who has to take it up.
    fn note(&self) -> String {
        let note = (&self.before, &self.request);
        // Texts and times.
        serde_json::to_string(&note).unwrap_or_default()
    }
}

/// What a runner that is gone may have sent.
fn left(restore: &Restore, work: &Work) -> Option<Sent> {
    let note = work.note()?;
    match serde_json::from_str::<(BeforeRestore, BranchRestoreRequest)>(note) {
        Ok((before, request)) => Some(Sent { before, request }),
        Err(error) => {
            // A broker of another version wrote it.
            let branch = &restore.which.id;
            tracing::error!(%branch, %error, "what was known before a restore cannot be read");
            None
        }
    }
}
