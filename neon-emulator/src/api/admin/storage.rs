//! How branches are stored, which Neon's API has no place for.

use axum::Json;
use neon_api::{BranchId, ProjectId};
use serde::Serialize;

use super::super::Shared;
use crate::storage::{CloneMethod, Durability};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    folder: String,
    file_system: String,
    /// How branches are cloned from now on.
    method: CloneMethod,
    because: String,
    durability: Durability,
    branches: Vec<Stored>,
}

/// How one branch was made.
#[derive(Debug, Serialize)]
struct Stored {
    project_id: ProjectId,
    branch_id: BranchId,
    name: String,
    /// `None`: it is being made, or was by an older emulator.
    cloned_by: Option<CloneMethod>,
}

pub(super) async fn report(engine: Shared) -> Json<Report> {
    let storage = engine.storage();
    let chosen = storage.chosen();
    let branches = engine.store().read(|state| {
        let projects = state.projects.values();
        let branches = projects.flat_map(|project| project.live_branches());
        branches
            .map(|record| Stored {
                project_id: record.branch.project_id.clone(),
                branch_id: record.branch.id.clone(),
                name: record.branch.name.clone(),
                cloned_by: record.cloned_by,
            })
            .collect()
    });
    Json(Report {
        folder: storage.root().display().to_string(),
        file_system: chosen.file_system.clone(),
        method: chosen.method,
        because: chosen.reason.clone(),
        durability: storage.durability(),
        branches,
    })
}
