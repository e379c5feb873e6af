//! The API versions, each whole.

mod v1;
mod v2;
