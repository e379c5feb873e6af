//! Connections: what bindings declare together, and what a branch has.

use tokio_postgres::Client;

use super::Error;
use crate::config::Config;
use crate::names::BranchName;
use crate::postgres::{self, Attempted as _};

/// Connections of each branch that no binding may count on: the broker's own
/// while it migrates and makes roles, and a person's who looks.
pub const CONNECTIONS_RESERVED: u32 = 5;

/// What a branch's Postgres is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// max_connections.
    pub max_connections: u32,
    /// superuser_reserved_connections.
    pub superuser_reserved: u32,
    /// reserved_connections, which PostgreSQL 16 brought.
    pub role_reserved: u32,
}

impl Limits {
    /// Connections that bindings cannot have.
    pub fn reserved(&self) -> u32 {
        self.superuser_reserved + self.role_reserved + CONNECTIONS_RESERVED
    }

    /// Connections that bindings can have.
    pub fn available(&self) -> u32 {
        self.max_connections.saturating_sub(self.reserved())
    }
}

/// Asks a branch.
pub(super) async fn limits(client: &Client) -> Result<Limits, postgres::Error> {
    const ASK: &str = "
        SELECT current_setting('max_connections')::int8,
               current_setting('superuser_reserved_connections')::int8,
               coalesce(current_setting('reserved_connections', true), '0')::int8";
    let row = client
        .query_one(ASK, &[])
        .await
        .attempted("read the connection limits")?;
    // Postgres allows at most 262143 connections.
    let setting = |index| u32::try_from(row.get::<_, i64>(index)).unwrap_or(u32::MAX);
    Ok(Limits {
        max_connections: setting(0),
        superuser_reserved: setting(1),
        role_reserved: setting(2),
    })
}

/// Login roles of a binding, one for each access. Postgres holds each to the
/// binding's connections.
const LOGINS_PER_BINDING: u32 = 2;

/// Whether the bindings on a branch fit it together.
pub(super) fn check(config: &Config, branch: &BranchName, limits: Limits) -> Result<(), Error> {
    let asked = config
        .bindings_on(branch)
        .map(|spec| spec.connections.saturating_mul(LOGINS_PER_BINDING))
        .fold(0_u32, u32::saturating_add);
    match asked <= limits.available() {
        true => Ok(()),
        false => Err(Error::BudgetExceeded {
            branch: branch.clone(),
            asked,
            limits,
        }),
    }
}
