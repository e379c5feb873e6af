//! The branch broker: it alone holds the Neon API key, makes the branches that
//! broker.toml declares, and hands out leases on them.
//!
//! The rooms, from the outside in: [`cli`] is the command line, [`server`] the
//! gRPC API; behind them [`keeper`] keeps the world as declared, with
//! [`reconcile`], [`migrate`], [`seed`] and [`roles`] doing the work, over
//! [`neon`] and [`postgres`]; [`bindings`] and [`leases`] are what callers see,
//! [`leasing`] leads from the one to the other, [`closer`] and [`reaper`] end what
//! leases leave, [`warm`] keeps branches ready for them, [`branches`] changes branches for callers, as
//! [`operations`] that go on when they have left, and the [`ledger`] says which
//! branches are our own; [`switches`] moves a binding to another branch by the votes
//! of those whose [`watches`] acknowledge, [`refresh`] has it catch up with
//! the version that it was forked from, [`retire`] ends it; [`request_ids`] tells what was asked before;
//! [`grants`] says who may do what,
//! [`state`] is what outlives the process, [`audit`] tells of it, and [`metrics`] of
//! what goes on.

pub mod audit;
pub mod bindings;
pub mod branches;
pub mod cli;
pub mod closer;
pub mod config;
pub mod connection;
pub mod credentials;
mod flights;
pub mod gate;
pub mod grants;
pub mod keeper;
pub mod leases;
pub mod leasing;
pub mod ledger;
pub mod logins;
pub mod metrics;
pub mod migrate;
mod moving;
pub mod names;
pub mod neon;
pub mod operations;
pub mod postgres;
pub mod reaper;
pub mod reconcile;
pub mod refresh;
pub mod request_ids;
pub mod retire;
pub mod roles;
pub mod seed;
pub mod server;
pub mod state;
pub mod switches;
pub mod text;
pub mod trials;
mod tries;
pub mod warm;
pub mod watches;
