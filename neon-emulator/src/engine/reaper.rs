//! Deletes branches and snapshots whose time has come.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::{error, info};

use super::{Engine, chain};
use crate::operations;
use crate::state::{BranchRecord, ProjectRecord, SnapshotRecord, State, StoreError};
use crate::time::{now, sleep_until};

impl Engine {
    /// Until the emulator stops: deletes what has expired, then waits for the
    /// next to expire. One that is busy is deleted at the change that ends that.
    pub(super) async fn reap(self: Arc<Self>) {
        let mut changes = self.changes.subscribe();
        let mut stopping = self.stopping.subscribe();
        loop {
            changes.mark_unchanged();
            let at = now();
            let is_due = self.store.read(|state| {
                due(state, at).next().is_some() || due_snapshots(state, at).next().is_some()
            });
            if is_due && let Err(error) = self.delete_expired(at) {
                error!(
                    error = chain(&error),
                    "could not delete what has expired; the next change tries again"
                );
            }
            let next = self.store.read(|state| next_expiry(state, at));
            let expiry = async {
                match next {
                    Some(time) => sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = expiry => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    fn delete_expired(&self, at: Timestamp) -> Result<(), StoreError> {
        self.change(|state| {
            let found: Vec<_> = due(state, at)
                .map(|(project, record)| (project.project.id.clone(), record.branch.id.clone()))
                .collect();
            for (project, branch) in found {
                if let Some(project) = state.projects.get_mut(&project) {
                    info!(%branch, "has expired: deleting it");
                    operations::delete_branch(project, &branch);
                }
            }
            let found: Vec<_> = due_snapshots(state, at)
                .map(|(project, record)| (project.project.id.clone(), record.snapshot.id.clone()))
                .collect();
            for (project, snapshot) in found {
                if let Some(project) = state.projects.get_mut(&project) {
                    info!(%snapshot, "has expired: deleting it");
                    operations::delete_snapshot(project, &snapshot);
                }
            }
            Ok(())
        })
    }
}

/// Branches that have expired and that nothing keeps from being deleted.
fn due(state: &State, at: Timestamp) -> impl Iterator<Item = (&ProjectRecord, &BranchRecord)> {
    expiring(state).filter(move |(project, record)| {
        let branch = &record.branch;
        branch.expires_at.is_some_and(|time| time <= at)
            && !branch.default
            && !branch.protected
            && project.children(&branch.id).next().is_none()
            && !project.is_busy(&branch.id)
    })
}

/// The next expiry that is still to come.
fn next_expiry(state: &State, at: Timestamp) -> Option<Timestamp> {
    expiring(state)
        .filter_map(|(_, record)| record.branch.expires_at)
        .chain(live_snapshots(state).filter_map(|(_, record)| record.snapshot.expires_at))
        .filter(|time| *time > at)
        .min()
}

fn expiring(state: &State) -> impl Iterator<Item = (&ProjectRecord, &BranchRecord)> {
    state.projects.values().flat_map(|project| {
        project
            .live_branches()
            .filter(|record| record.branch.expires_at.is_some())
            .map(move |record| (project, record))
    })
}

fn due_snapshots(
    state: &State,
    at: Timestamp,
) -> impl Iterator<Item = (&ProjectRecord, &SnapshotRecord)> {
    live_snapshots(state).filter(move |(project, record)| {
        let snapshot = &record.snapshot;
        snapshot.expires_at.is_some_and(|time| time <= at)
            && !project.is_snapshot_busy(&snapshot.id)
    })
}

fn live_snapshots(state: &State) -> impl Iterator<Item = (&ProjectRecord, &SnapshotRecord)> {
    let projects = state.projects.values().filter(|project| !project.deleted);
    projects.flat_map(|project| {
        project
            .live_snapshots()
            .map(move |record| (project, record))
    })
}
