//! The gRPC API: one module a service. Requests are decoded where they arrive;
//! behind that, a name is a name and what is required is there.

mod audit;
mod bindings;
mod branch_requests;
mod branches;
mod config;
mod error;
mod leases;
mod migrations;
mod operations;
mod perform;
mod refresh;
mod refusals;
mod request;
mod retire;
mod rights;
mod switch;
mod telling;
mod watch;

use std::sync::Arc;

use proto::broker::v1::audit_service_server::AuditServiceServer;
use proto::broker::v1::binding_service_server::BindingServiceServer;
use proto::broker::v1::branch_service_server::BranchServiceServer;
use proto::broker::v1::config_service_server::ConfigServiceServer;
use proto::broker::v1::lease_service_server::LeaseServiceServer;
use proto::broker::v1::migration_service_server::MigrationServiceServer;
use proto::google::longrunning::operations_server::OperationsServer;
use rpc::clock::Clock;
use rpc::page::PageTokens;
use rpc::server::Server;

pub use error::Error;
pub use operations::ends;
pub use rights::tell_rights;

use crate::bindings::Bindings;
use crate::branches::Branches;
use crate::keeper::Keeper;
use crate::leases::Leases;
use crate::leasing::Leasing;
use crate::metrics::Metrics;
use crate::operations::Operations;
use crate::refresh::Refreshes;
use crate::retire::Retirement;
use crate::state::State;
use crate::switches::Switches;
use crate::trials::Trials;
use crate::watches::Watches;

/// Services that take calls before the world is as declared.
pub const READY_AT_ONCE: [&str; 6] = [
    "broker.v1.AuditService",
    "broker.v1.BindingService",
    "broker.v1.BranchService",
    "broker.v1.ConfigService",
    "broker.v1.MigrationService",
    "google.longrunning.Operations",
];

/// Takes calls when the whole server does.
pub const LEASE_SERVICE: &str = "broker.v1.LeaseService";

/// What the services work on.
#[derive(Debug, Clone)]
pub struct Broker {
    /// What outlives the process.
    pub state: Arc<State>,
    /// Keeps the world as declared.
    pub keeper: Arc<Keeper>,
    /// Changes branches for callers.
    pub branches: Branches,
    /// What goes on after a call was answered.
    pub operations: Arc<Operations>,
    /// What each binding leads to.
    pub bindings: Arc<Bindings>,
    /// Who may connect.
    pub leases: Arc<Leases>,
    /// As whom, and where.
    pub leasing: Arc<Leasing>,
    /// Moves bindings to other branches.
    pub switches: Arc<Switches>,
    /// Has versions catch up.
    pub refreshes: Arc<Refreshes>,
    /// Ends versions.
    pub retirement: Arc<Retirement>,
    /// Throw-away branches.
    pub trials: Trials,
    /// Who has a say in switches.
    pub watches: Arc<Watches>,
    /// For lists.
    pub page_tokens: PageTokens,
    /// What time it is.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
}

/// Adds the broker's services to a server.
#[must_use]
pub fn add_services(server: Server, broker: &Broker) -> Server {
    server
        .add_service(BranchServiceServer::new(broker.clone()))
        .add_service(BindingServiceServer::new(broker.clone()))
        .add_service(LeaseServiceServer::new(broker.clone()))
        .add_service(ConfigServiceServer::new(broker.clone()))
        .add_service(AuditServiceServer::new(broker.clone()))
        .add_service(MigrationServiceServer::new(broker.clone()))
        .add_service(OperationsServer::new(broker.clone()))
}
