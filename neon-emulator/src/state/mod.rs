//! What is stored here, and who may change it.
//!
//! Everything the emulator knows: projects, their branches with roles,
//! databases and annotations, endpoints with their ports, and the operations
//! that are still to be done. It is one JSON file in the data folder, written
//! anew, whole, before a request is answered; the API's handlers and the
//! engine's workers change it, through [`Store::change`] alone. The file holds
//! the roles' passwords, as Neon stores them too, and is its owner's alone.
//!
//! An operation carries its job, so an emulator that was killed goes on where
//! it was: jobs can be done twice.

mod jobs;
mod project;
mod records;
mod store;

pub(crate) use jobs::{CatalogChange, Job};
pub(crate) use records::{
    BranchRecord, EndpointRecord, OperationRecord, ProjectRecord, SnapshotRecord, State,
};
pub(crate) use store::{Store, StoreError};
