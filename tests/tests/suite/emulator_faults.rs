//! Faults on request: what neon-api's client makes of each, and what of the
//! work was done.

mod asking;
mod operations;
mod requests;

use neon_api::types::{BranchCreateRequest, CreatedBranch};
use neon_api::{Error, Phase};
use suite::EmulatorProcess;

const BRANCHES: &str = "/projects/{project_id}/branches";

fn is_exchange(error: &Error) -> bool {
    matches!(
        error,
        Error::Transport {
            phase: Phase::Exchange,
            ..
        }
    )
}

async fn create(emulator: &EmulatorProcess, name: &str) -> Result<CreatedBranch, Error> {
    let request = BranchCreateRequest::named(name);
    emulator
        .client()
        .create_branch(emulator.project(), &request)
        .await
}
