//! The user-service: users.v1.UserService and users.v2.UserService in one
//! server, each on the pool of its own branch.
//!
//! Each version's messages end in its module of `api`, which turns them into
//! the one [`user`] that both versions share, and each version's table ends in
//! its module of `store`. In between, [`users`] is the same for both. [`lookups`]
//! knows nothing of users.

pub mod error;
pub mod listing;
pub mod lookups;
pub mod server;
pub mod streams;
pub mod user;
pub mod users;

mod api;
mod input;
mod metrics;
mod schema;
mod store;
