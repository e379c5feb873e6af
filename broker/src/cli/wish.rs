//! A lease as the command line asks for it.

use std::time::Duration;

use proto::broker::v1 as pb;
use proto::broker::v1::acquire_lease_request::Target;

use super::api::{Api, request_id};
use super::client::Error;
use super::times::ttl;

/// What is asked of a lease, whatever it is on.
#[derive(Debug, clap::Args)]
pub(super) struct Wish {
    /// What its connection may do with the service's tables. Without it: ddl on an
    /// ephemeral branch, where alone it is to be had, else read_write; read_only for
    /// psql.
    #[arg(long, value_enum)]
    access: Option<Access>,
    /// Whose tables, on a branch: users. With one service in broker.toml it may be
    /// left out.
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// How long it lasts before it has to be renewed, like 30m. Without it: the
    /// broker's default.
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    ttl: Option<Duration>,
    /// Connect through the pooler.
    #[arg(long)]
    pooled: bool,
}

/// As grants name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
    Ddl,
}

impl Wish {
    /// The request for it. `default`: the access, unless another is asked for.
    pub(super) fn request(
        &self,
        on: Target,
        default: Access,
        holder: &str,
    ) -> pb::AcquireLeaseRequest {
        let access = match self.access.unwrap_or(default) {
            Access::ReadOnly => pb::Access::ReadOnly,
            Access::ReadWrite => pb::Access::ReadWrite,
            Access::Ddl => pb::Access::Ddl,
        };
        pb::AcquireLeaseRequest {
            target: Some(on),
            access: access.into(),
            ttl: self.ttl.map(wire),
            pooled: self.pooled,
            holder: holder.to_owned(),
            request_id: request_id(),
            service: self.service.as_deref().map(service).unwrap_or_default(),
        }
    }
}

/// A lease on a binding, or on a branch that is named in either way.
pub(super) async fn on(api: &mut Api, target: &str) -> Result<Target, Error> {
    match is_binding(target) {
        true => Ok(Target::Binding(target.to_owned())),
        false => Ok(Target::Branch(api.branch_name(target).await?)),
    }
}

/// A lease on a branch of its own, forked from what `parent` names.
pub(super) async fn ephemeral(api: &mut Api, parent: &str, migrate: bool) -> Result<Target, Error> {
    let parent = match is_binding(parent) {
        true => parent.to_owned(),
        false => api.branch_name(parent).await?,
    };
    Ok(Target::Ephemeral(pb::EphemeralBranch {
        parent,
        point: None,
        migrate,
    }))
}

/// The resource name of a service.
pub(super) fn service(name: &str) -> String {
    match name.starts_with(SERVICES) {
        true => name.to_owned(),
        false => format!("{SERVICES}{name}"),
    }
}

/// A duration on the wire. One that does not fit is beyond what is granted anyway.
pub(super) fn wire(ttl: Duration) -> prost_types::Duration {
    let longest = prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    };
    ttl.try_into().unwrap_or(longest)
}

const SERVICES: &str = "services/";

fn is_binding(target: &str) -> bool {
    target.starts_with(SERVICES)
}
