//! Settling what crashes have left in the ledger: what was about to be done with a
//! branch of ours, and is not known to be done.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Branches, Error};
use crate::names::BranchName;
use crate::state::{Data, Intent, OwnBranch};
use crate::text::one_line;

/// How often to look, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// How old what is settled is at least, in seconds. Whoever is at work with it may
/// take longer, and then says what became of it all the same.
const SETTLED_SECONDS: i64 = 15;
/// How often to look whether a retired branch has no children any more, in seconds:
/// while there is one, that costs Neon a list.
const CHILDLESS_SECONDS: u64 = 5;
/// How often to look for branches that went by themselves, in seconds: it costs
/// Neon a list.
const LOOK_FOR_GONE_SECONDS: u64 = 600;
/// How old their rows are at least, in hours: Neon may not show at once what was
/// made.
const GONE_HOURS: i64 = 1;

impl Branches {
    /// Settles what crashes have left, for ever: for who works in the background.
    pub async fn settle(&self) {
        let mut interval = tokio::time::interval(Duration::from_millis(LOOK_MS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look_for_gone = Instant::now();
        let mut look_for_childless = Instant::now();
        loop {
            interval.tick().await;
            if look_for_gone <= Instant::now() {
                look_for_gone += Duration::from_secs(LOOK_FOR_GONE_SECONDS);
                if let Err(error) = self.settle_gone().await {
                    tracing::debug!(error = %one_line(&error), "cannot look for what went");
                }
            }
            if look_for_childless <= Instant::now() {
                look_for_childless = Instant::now() + Duration::from_secs(CHILDLESS_SECONDS);
                self.delete_childless().await;
            }
            let since = self.ledger.now() - SignedDuration::from_secs(SETTLED_SECONDS);
            for (name, row) in self.ledger.unsettled(since) {
                if self.is_at_work(&row) {
                    continue;
                }
                if let Err(error) = self.settle_one(&name, &row).await {
                    let error = one_line(&error);
                    tracing::debug!(branch = %name, error, "cannot be settled yet");
                }
            }
        }
    }

    /// Notes which of our branches are there no more: they expired, or somebody
    /// else deleted them.
    async fn settle_gone(&self) -> Result<(), Error> {
        let since = self.ledger.now() - SignedDuration::from_hours(GONE_HOURS);
        let rows = self.ledger.owned(since);
        if rows.is_empty() {
            return Ok(());
        }
        let there = self.neon().background().branches().await?;
        let is_there = |row: &OwnBranch| {
            let mut there = there.iter();
            there.any(|found| row.branch.as_ref() == Some(&found.branch.id))
        };
        for (name, row) in rows.iter().filter(|(_, row)| !is_there(row)) {
            let written = self.ledger.settled(name, row, None, Intent::Gone).await;
            written?;
            tracing::info!(branch = %name, "a branch of ours is there no more");
        }
        Ok(())
    }

    /// Whether an operation that goes on may be at work with that branch: its end
    /// says what became of it.
    fn is_at_work(&self, row: &OwnBranch) -> bool {
        let methods: &[&str] = match row.intent {
            Intent::Create => &["CreateBranch"],
            Intent::Preserve => &["ResetBranch", "RestoreBranch"],
            Intent::Delete => &["DeleteBranch"],
            Intent::Own | Intent::Retired | Intent::Gone => &[],
        };
        let at_work = |data: &Data| {
            let mut running = data.running();
            running.any(|(_, one)| methods.contains(&&*one.method))
        };
        self.ledger.state().read(at_work)
    }

    async fn settle_one(&self, name: &BranchName, row: &OwnBranch) -> Result<(), Error> {
        let neon = self.neon().background();
        let (branch, intent) = match (row.intent, &row.branch) {
            (Intent::Create, _) => {
                let found = neon.branch_named(name).await?;
                // Each that we make has our annotation from its first moment on.
                match found.filter(|found| found.managed) {
                    Some(found) => (Some(found.branch.id), Intent::Own),
                    None => (None, Intent::Gone),
                }
            }
            (Intent::Delete, Some(id)) => {
                let turn = neon.turn().await?;
                let view = self.view().await?;
                match view.find("name", id) {
                    Err(_) => (None, Intent::Gone),
                    Ok(found) => {
                        let users = self.users(&found.branch);
                        if self.ledger.row(name).as_ref() != Some(row) {
                            return Ok(());
                        }
                        match view.may_delete(found, &users) {
                            Ok(()) => {
                                neon.branch_delete(id, &turn).await?;
                                (None, Intent::Gone)
                            }
                            Err(error) => {
                                let error = one_line(&error);
                                tracing::warn!(branch = %name, error, "is not deleted after all");
                                (Some(id.clone()), Intent::Own)
                            }
                        }
                    }
                }
            }
            // Which branch kept what is known by the operation alone, and that has
            // ended without one.
            _ => (None, Intent::Gone),
        };
        let written = self.ledger.settled(name, row, branch, intent).await;
        written?;
        tracing::info!(branch = %name, was = ?row.intent, is = ?intent, "settled");
        Ok(())
    }
}
